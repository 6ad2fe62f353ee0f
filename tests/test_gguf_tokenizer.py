"""The tokenizer of a model that comes in a package is its publisher's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import regex
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

import steerlib as sl
from steerlib import assets
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


def written(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


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
    written(writer)
    with pytest.raises(
        sl.SteerlibError, match="in the way 'other' of 'llama', but only 'smollm' and that of 'gemma3' are known"
    ):
        gguf_tokenizer.complete(sl.load("smollm2", device="cpu").tokenizer, tmp_path / "other.gguf")


# ---- Gemma 3

RUNS = 31
LETTERS = "▁ehlo01"
WORDS = ("he", "ll", "hell", "hello", "▁hello")


@pytest.fixture(scope="module")
def small_gemma(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer with Gemma's kinds of tokens in Gemma's order, read from a GGUF file as the real one is."""
    file = tmp_path_factory.mktemp("gemma") / "small.gguf"
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
    chosen = [blank * length for blank in "\n \t" for length in range(1 + (blank == " "), RUNS + 1)] + ["<h1>"]
    plain = [*WORDS, *LETTERS]
    groups = {
        TokenType.CONTROL: control,
        TokenType.USER_DEFINED: chosen,
        TokenType.BYTE: [f"<0x{number:02X}>" for number in range(256)],
        TokenType.NORMAL: plain,
    }
    writer = GGUFWriter(str(file), "gemma3")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for tokens in groups.values() for token in tokens])
    writer.add_token_scores([0.0 for tokens in groups.values() for _ in tokens])
    writer.add_token_types([kind for kind, tokens in groups.items() for _ in tokens])
    for add, number in ((writer.add_pad_token_id, 0), (writer.add_eos_token_id, 1), (writer.add_bos_token_id, 2)):
        add(number)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    written(writer)
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    gguf_tokenizer.complete(tokenizer, file)
    return tokenizer


@pytest.fixture(scope="module")
def gemma() -> sl.Model:
    """The real model, where it was fetched."""
    if not (assets.cache_dir() / "assets" / "gemma3-270m").is_dir():
        pytest.skip("gemma3-270m is not in the cache")
    return sl.load("gemma3-270m", device="cpu")


@pytest.fixture(scope="module", params=["small", "real"])
def either_gemma(request: pytest.FixtureRequest) -> Any:
    small = request.param == "small"
    return request.getfixturevalue("small_gemma") if small else request.getfixturevalue("gemma").tokenizer


@pytest.mark.parametrize("blank", [" ", "\n", "\t"])
@pytest.mark.parametrize("length", [1, 2, 5, 31, 32, 40, 62, 75])
def test_a_run_of_blanks_is_cut_from_the_left_into_the_longest_tokens(
    either_gemma: Any, blank: str, length: int
) -> None:
    ids = either_gemma(f"hello{blank * length}hello", add_special_tokens=False)["input_ids"]
    whole, rest = divmod(length, RUNS)
    runs = [len(either_gemma.decode([id])) for id in ids[1:]]
    glued = blank == " " and rest == 1  # one space alone is part of the word after it
    assert runs == [RUNS] * whole + ([6] if glued else [rest] * (rest > 0) + [5])


def test_a_text_of_gemma_begins_with_bos_and_has_no_space_put_before_it(either_gemma: Any) -> None:
    assert either_gemma.tokenize("hello") == ["hello"]
    assert either_gemma(["hello", ""])["input_ids"] == [[2, either_gemma.convert_tokens_to_ids("hello")], [2]]
    assert either_gemma.tokenize("hello1010") == ["hello", *"1010"]
    assert either_gemma.tokenize("<start_of_turn>hello<h1>") == ["<start_of_turn>", "hello", "<h1>"]
    assert either_gemma.tokenize("\U0010fffd") == ["<0xF4>", "<0x8F>", "<0xBF>", "<0xBD>"]
    assert either_gemma.decode(either_gemma("<start_of_turn>hello")["input_ids"], skip_special_tokens=True) == "hello"


def test_texts_come_back_from_gemma_as_they_were(either_gemma: Any) -> None:
    draw = random.Random(0)
    for _ in range(400):
        text = "".join(draw.choices([*PIECES, " " * 40, "\n" * 40, "\t" * 7, "\x00", "\r\n", "\u200b", "<h1>"], k=12))
        ids = either_gemma(text, add_special_tokens=False)["input_ids"]
        assert either_gemma.decode(ids) == text
        assert 3 not in ids  # nothing is unknown: bytes stand for what the vocabulary lacks


def test_the_real_gemma_knows_english_and_has_no_chat_template(gemma: sl.Model) -> None:
    france, stone = gemma.choose("Paris is the capital of", [" France", " stone"])
    assert france > stone
    text = "The United Nations was established after World War II with the aim of preventing future wars."
    assert sl.perplexity(gemma, [text]).value < 30
    with pytest.raises(sl.SteerlibError, match="no chat template"):
        gemma.generate(sl.chat("Who are you?"))
    assert gemma.render(sl.chat("Hello", plain=True)) == "Hello"
