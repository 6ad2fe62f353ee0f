"""The tokenizer of the embedded model is its publisher's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import regex
from gguf import GGUFWriter
from tokenizers import Tokenizer, pre_tokenizers

import steerlib as sl
from steerlib.models import gguf_tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PIECES = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "7",
    "42",
    "1,000",
    "½",
    "٣",
    "A",
    "nurse",
    "it's",
    "...",
    "é",
    "漢字",
    "🙂",
    "-",
]


def cut(text: str) -> list[str]:
    """A text as llama.cpp cuts it for "smollm": each digit by itself, and what is between as GPT-2 does."""
    found = []
    for part in regex.split(r"(\p{N})", text):
        found += regex.findall(GPT2, part)
    return found


def test_texts_are_cut_as_llama_cpp_cuts_them_for_this_tokenizer() -> None:
    tokenizer = sl.load("smollm2", device="cpu").tokenizer
    merges = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    merges.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    draw = random.Random(0)
    for _ in range(400):
        text = "".join(draw.choices(PIECES, k=12))
        ids = [id for piece in cut(text) for id in merges.encode(piece, add_special_tokens=False).ids]
        assert tokenizer(text)["input_ids"] == ids, text
        assert tokenizer.decode(ids) == text


def test_blanks_before_a_number_stay_together() -> None:
    tokenizer = sl.load("smollm2", device="cpu").tokenizer
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]


def test_every_control_token_of_the_file_is_one_token_that_is_not_shown() -> None:
    tokenizer = sl.load("smollm2", device="cpu").tokenizer
    for id in range(17):
        token = tokenizer.convert_ids_to_tokens(id)
        assert tokenizer(f"a{token}b")["input_ids"][1] == id
        assert tokenizer.decode([id], skip_special_tokens=True) == ""


def test_a_file_that_cuts_texts_in_another_way_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(str(tmp_path / "other.gguf"), "llama")
    writer.add_tokenizer_pre("other")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(sl.SteerlibError, match="in the way 'other', but only 'smollm' is known"):
        gguf_tokenizer.complete(sl.load("smollm2", device="cpu").tokenizer, tmp_path / "other.gguf")
