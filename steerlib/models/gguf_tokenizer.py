"""The publisher's tokenizer out of a GGUF file: what transformers leaves out when it reads one is put back.

A GGUF file stores the vocabulary and the merges in full, but says only by a word (`tokenizer.ggml.pre`) how a text is cut before
the merges apply, and transformers cuts every text as GPT-2 does. It also forgets which tokens are control tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, pre_tokenizers

from steerlib.errors import SteerlibError


def complete(tokenizer: Any, file: Path) -> None:
    """Make a tokenizer that transformers read from a GGUF file cut texts as its publisher's does.

    The kind "smollm" cuts off each digit by itself before it cuts as GPT-2 does, so that blanks before a number stay together:
    see the pre_tokenizer in the publisher's tokenizer.json, and LLAMA_VOCAB_PRE_TYPE_SMOLLM in llama.cpp.

    Args:
        tokenizer: the tokenizer, which is changed in place.
        file: the GGUF file.

    Raises:
        SteerlibError: the file cuts texts in a way that is not known here.
    """
    fields = GGUFReader(str(file)).fields
    kind = fields["tokenizer.ggml.pre"].contents()
    if kind != "smollm":
        raise SteerlibError(f"{file.name} cuts texts in the way '{kind}', but only 'smollm' is known here.")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokens, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])
