"""The publisher's tokenizer out of a GGUF file: what transformers leaves out when it reads one is put back.

A GGUF file stores the vocabulary in full, but says only by a word or two how a text is cut before the merges apply, and which token
is of which kind. Two ways are known here, and a file of any other is refused:

SmolLM ("smollm"): each digit is cut off by itself before the text is cut as GPT-2 does, so that blanks before a number stay
together; transformers cuts as GPT-2 does at once. It also forgets which tokens are control tokens. See the pre_tokenizer in the
publisher's tokenizer.json, and LLAMA_VOCAB_PRE_TYPE_SMOLLM in llama.cpp.

Gemma 3 ("gemma3"): SentencePiece's merges, with no space put before a text, and bytes for what the vocabulary lacks. transformers
gets the vocabulary, the set of merges and the control tokens right. But runs of up to 31 spaces, tabs or newlines are tokens that
the publisher chose by hand, whose merges come before all others, the longest first: 40 spaces are 31 and 9. transformers puts the
shortest first, and 40 spaces become 16 and 24. (Runs of newlines and tabs are looked up before any merge, so only spaces show it.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, models, pre_tokenizers

from steerlib.errors import SteerlibError


def complete(tokenizer: Any, file: Path) -> None:
    """Make a tokenizer that transformers read from a GGUF file cut texts as its publisher's does.

    Args:
        tokenizer: the tokenizer, which is changed in place.
        file: the GGUF file.

    Raises:
        SteerlibError: the file cuts texts in a way that is not known here.
    """
    fields = GGUFReader(str(file)).fields

    def read(key: str) -> Any:
        return fields[key].contents() if key in fields else None

    kind, family = read("tokenizer.ggml.pre"), read("general.architecture")
    if kind == "smollm":
        complete_smollm(tokenizer, read("tokenizer.ggml.tokens"), read("tokenizer.ggml.token_type"))
    elif family == "gemma3" and read("tokenizer.ggml.model") == "llama" and not read("tokenizer.ggml.add_space_prefix"):
        complete_gemma(tokenizer, read("tokenizer.ggml.tokens"), read("tokenizer.ggml.token_type"))
    else:
        raise SteerlibError(
            f"{file.name} cuts texts in the way '{kind}' of '{family}', but only 'smollm' and that of 'gemma3' are known here."
        )


def complete_smollm(tokenizer: Any, tokens: list[str], kinds: list[int]) -> None:
    """Digits one by one, and the control tokens.

    Args:
        tokenizer: the tokenizer, which is changed in place.
        tokens: the vocabulary.
        kinds: of each token, as gguf.TokenType numbers them.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])


def complete_gemma(tokenizer: Any, tokens: list[str], kinds: list[int]) -> None:
    """The merges of the tokens chosen by hand come first, the longest left side before the others.

    Args:
        tokenizer: the tokenizer, which is changed in place.
        tokens: the vocabulary, in which runs of spaces are written as such.
        kinds: of each token, as gguf.TokenType numbers them.
    """
    chosen = {
        token.replace(" ", "▁"): number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == TokenType.USER_DEFINED
    }
    spelled = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in spelled["merges"]]
    first = [pair for pair in merges if "".join(pair) in chosen]
    first.sort(key=lambda pair: (-len(pair[0]), -len(pair[1]), chosen["".join(pair)]))
    rest = [pair for pair in merges if "".join(pair) not in chosen]
    tokenizer.backend_tokenizer.model = models.BPE(
        spelled["vocab"], first + rest, unk_token=spelled["unk_token"], fuse_unk=True, byte_fallback=True
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in chosen])
