"""A model that is ready to be asked: the Hugging Face model with its tokenizer, and three questions.

`choose` asks for one of several answers, `generate` for text, `loglik` for the likelihood of a given text. Batching, left
padding, position ids and the places of pictures are done here, once, for everything else in steerlib. A prompt is plain text
(a `str`) or a chat: a list of messages `{"role": ..., "content": ...}`, whose last message may be an answer that the assistant
has already begun. The content of a message about pictures is a list of parts, `{"type": "image", "image": picture}` and
`{"type": "text", "text": ...}`. `chat` writes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast, overload

import torch
from accelerate.utils import align_module_device
from torch import Tensor

from steerlib.errors import SteerlibError, check_count
from steerlib.models.layout import alone, laid_out
from steerlib.models.parallel import divided, spread
from steerlib.models.prompts import Prompt, as_list, check_chat, is_plain, listed, pictures_of, plain_text
from steerlib.models.sampling import decoding, own_distribution, seeds_of
from steerlib.models.scoring import (
    Query,
    batches,
    log_probs,
    options_for,
    refuse_long,
    refuse_prefixes,
    tail_log_probs,
    windows,
)
from steerlib.models.seen import WINDOW, Seen, counted_on, crossed, now, sights, stacked, token_kinds
from steerlib.models.templates import rendered

Score = Literal["sum", "token", "character"]


@dataclass(frozen=True)
class Model:
    """A thin bundle of a Hugging Face model and its tokenizer; made by `load`.

    Attributes:
        name: what it was loaded as.
        hf: the model itself, in evaluation mode.
        tokenizer: its tokenizer, which pads on the left.
        processor: what turns pictures into numbers, or None for a model that reads only text.
        template: what its chat template is told besides the messages, such as {"enable_thinking": False} for Qwen3, or
            {"date_string": "26 Jul 2024"} where a template writes today's date.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> lm.choose("The nurse said that", [" he", " she"]).shape
        torch.Size([2])
        >>> lm.generate("One, two, three,", max_new_tokens=2)
        ' four,'
    """

    name: str
    hf: Any
    tokenizer: Any
    processor: Any = None
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are; for a model that is spread over devices, or offloaded, where its input goes."""
        if not hasattr(self.hf, "hf_device_map"):
            return cast(torch.device, self.hf.device)
        embeddings = self.hf.get_input_embeddings()
        runs = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
        return torch.device(runs) if runs is not None else cast(torch.device, embeddings.weight.device)

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads for a prompt: itself if plain, else through the model's chat template.

        Args:
            prompt: a text, or a chat; an answer that the chat has begun is left open.

        Returns:
            The text, with a placeholder for every picture.

        Raises:
            SteerlibError: the chat is malformed, or the model's template is missing, refuses it or drops one of its texts.

        Example:
            >>> import steerlib as sl
            >>> sl.load("smollm2").render("The nurse said that")
            'The nurse said that'
        """
        if isinstance(prompt, str):
            return prompt
        check_chat(prompt)
        mark = "" if self.processor is None else self.processor.image_token
        if is_plain(prompt):
            return plain_text(prompt, mark)
        own = bool(getattr(self.processor, "chat_template", None))
        reader = self.processor if own else self.tokenizer
        return rendered(self.name, reader, prompt, self.template, parts=own, mark=mark)

    def tokens(self, prompt: Prompt, continuation: str = "") -> list[int]:
        """The token ids of a prompt followed by a continuation, with special tokens as the model expects them.

        Args:
            prompt: a text or a chat.
            continuation: text that follows it directly.

        Returns:
            Token ids. A piece of a picture is a placeholder.

        Raises:
            SteerlibError: as `read`.

        Example:
            >>> import steerlib as sl
            >>> lm = sl.load("smollm2")
            >>> lm.tokenizer.convert_ids_to_tokens(lm.tokens("The nurse", " said"))
            ['The', 'Ġnurse', 'Ġsaid']
        """
        return self.read(prompt, continuation)[0]

    def read(self, prompt: Prompt, continuation: str = "") -> tuple[list[int], Seen]:
        """The token ids of a prompt, and what its pictures show.

        Args:
            prompt: a text or a chat.
            continuation: text that follows it directly.

        Returns:
            Token ids as `tokens` gives them, and a mapping with what the model's processor makes of the pictures, such as pixel_values
            (pictures, 3, height, width); it is empty if there are none.

        Raises:
            SteerlibError: the chat is malformed, the number of pictures is not that of the places for them, the model reads no
                pictures, or a picture has no clear RGB form.

        Example:
            >>> import steerlib as sl
            >>> picture = sl.tasks.people(occupation="doctor", gender="woman")
            >>> ids, seen = sl.load("smol-llava").read(sl.chat("Who is this?", pictures=picture))
            >>> {name: tuple(values.shape) for name, values in seen.items()}
            {'pixel_values': (1, 3, 80, 80)}
        """
        text, pictures = self.render(prompt) + continuation, pictures_of(prompt)
        if self.processor is None:
            if pictures:
                raise SteerlibError(f"'{self.name}' reads no pictures: give it text, or load a model that sees.")
            return self._encode(prompt, text), {}
        mark = self.processor.image_token
        places = text.count(mark)
        if places != len(pictures):
            raise SteerlibError(
                f"the prompt has {places} place(s) for a picture ({mark}) and {len(pictures)} picture(s): give one for each."
            )
        how = {} if self._adds_special(prompt, text) else {"add_special_tokens": False}
        try:  # several pictures of one prompt are a list in a list: a flat one would be those of several prompts
            made = dict(
                self.processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt", **how)
            )
        except ValueError:
            if pictures:
                raise
            return self._encode(prompt, text), {}  # a processor that wants a picture in every prompt
        ids = made.pop("input_ids")[0].tolist()
        if not how and self._appended:
            ids = ids[: -self._appended]
        if not pictures:
            return ids, {}
        left_out = ("attention_mask", "labels")  # `batch` makes the one, and the other is for training
        shown = {key: value for key, value in made.items() if key not in left_out}
        if (
            continuation and self._closed(prompt, text, ids) != text
        ):  # it goes behind what the processor puts after the prompt
            ids, _ = self.read(prompt)
            before = self._closed(prompt, self.render(prompt), ids)
            ids += self._encode(prompt, before + continuation)[len(self._encode(prompt, before)) :]
        return ids, shown

    def batch(self, rows: Sequence[Sequence[int]], seen: Sequence[Seen] = ()) -> dict[str, Tensor]:
        """Rows of token ids as a batch for the network, padded on the left.

        Args:
            rows: token ids of each row.
            seen: what `read` says of each row's pictures; they are joined in the order of the rows. Pictures of unequal sizes or
                numbers are filled up with zeros at their ends, as processors do.

        Returns:
            input_ids, attention_mask and (for families that do not count by themselves) position_ids, each (batch, tokens), and
            the pictures, all on the model's device.

        Raises:
            SteerlibError: the tokenizer has no token to pad with.

        Example:
            >>> import steerlib as sl
            >>> lm = sl.load("smollm2", device="cpu")
            >>> lm.batch([lm.tokens("The nurse said that"), lm.tokens("Yes")])["attention_mask"]
            tensor([[1, 1, 1, 1],
                    [0, 0, 0, 1]])
        """
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        if pad is None:
            raise SteerlibError(
                f"the tokenizer of '{self.name}' has no token to pad with: set its pad_token to any token, for padding is masked."
            )
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        batch = {"input_ids": ids, "attention_mask": mask}
        if not hasattr(self.hf.base_model, "get_rope_index"):  # which counts places in pictures too, and by itself
            batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        seen = [now(view) for view in seen]
        for key in dict.fromkeys(key for view in seen for key in view):
            if key.endswith("token_type_ids"):
                batch[key] = token_kinds([view.get(key) for view in seen], rows, width).to(self.device)
                continue
            values = [view[key] for view in seen if key in view]
            if key == "cross_attention_mask":
                values = [
                    sights(view[key], len(row), width) for view, row in zip(seen, rows, strict=True) if key in view
                ]
            if key == "image_token_pooling":
                values = counted_on(seen, key)
            joined = stacked(values)
            batch[key] = joined.to(self.device, self.hf.dtype if joined.is_floating_point() else None)
        return batch

    @overload
    def choose(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: Sequence[str] | Sequence[Sequence[str]],
        *,
        score: Score = ...,
        return_mass: Literal[False] = ...,
        batch_size: int = ...,
    ) -> Tensor: ...
    @overload
    def choose(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: Sequence[str] | Sequence[Sequence[str]],
        *,
        score: Score = ...,
        return_mass: Literal[True],
        batch_size: int = ...,
    ) -> tuple[Tensor, Tensor]: ...
    def choose(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: Sequence[str] | Sequence[Sequence[str]],
        *,
        score: Score = "sum",
        return_mass: bool = False,
        batch_size: int = 16,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """How likely the model continues each prompt with each option, normalised over the options.

        Args:
            prompts: n prompts (or one), in a list, an array or a column of a table.
            options: whole strings of any number of tokens: the same for all prompts, or one list per prompt (all of one
                length). An option begins with a space where the text would.
            score: what is compared. "sum" is the log-probability of the whole option; "token" its mean per token and
                "character" per character (blanks at its ends not counted), so that a longer option is not less likely merely
                because it is longer.
            return_mass: also return how much probability the options hold, before they are normalised: the sum of
                P(option | prompt). Where it is tiny, the model would say none of them, and the choice means little.
            batch_size: how many rows run together. Only 16 times as many prompts' pictures are held at a time.

        Returns:
            (n, options) probabilities in float32 on the CPU; with return_mass also (n,) the mass. One dimension less if one
            prompt was given.

        Raises:
            SteerlibError: on options that are empty, the same, or the beginning of one another, a prompt longer than the
                model's context, or an output that is not finite.

        Example:
            >>> import steerlib as sl
            >>> lm = sl.load("smollm2", device="cpu")
            >>> chosen, mass = lm.choose("The nurse was tired because", [" she", " he"], return_mass=True)
            >>> bool(chosen[0] > chosen[1]), bool(0.1 < mass < 1)
            (True, True)
        """
        if score not in ("sum", "token", "character"):
            raise SteerlibError(f"there is no score '{score}': use 'sum', 'token' or 'character'.")
        check_count("batch_size", batch_size)
        many, single = as_list(prompts)
        each = options_for(many, options)

        def asked(numbers: Sequence[int]) -> Iterator[Query]:
            for i in numbers:
                query = self.split(many[i], each[i])
                refuse_prefixes(each[i], query.tails)
                yield query

        def scored(numbers: Sequence[int]) -> list[tuple[Tensor, list[int]]]:
            return [
                (torch.stack([line.sum() for line in found]), [len(line) for line in found])  # each of them (options,)
                for window in windows(asked(numbers), lambda query: query.seen, WINDOW * batch_size, pictured=True)
                for found in self._score(window, batch_size)
            ]

        told = spread(scored, range(len(many)), "choose", many, each)
        total = torch.stack([line for line, _ in told])  # (n, options) log-probabilities of the whole options
        sizes = [size for _, size in told]
        compared = total
        if score != "sum":
            if score == "character":
                sizes = [[len(option.strip() or option) for option in own] for own in each]
            compared = total / torch.tensor(sizes)
        probabilities, mass = compared.softmax(-1), total.exp().sum(-1)
        if single:
            probabilities, mass = probabilities[0], mass[0]
        return (probabilities, mass) if return_mass else probabilities

    def loglik(
        self, prompts: Prompt | Sequence[Prompt], continuations: Sequence[str] | None = None, *, batch_size: int = 8
    ) -> list[Tensor]:
        """Log-likelihood, in nats, of each token of each continuation given its prompt.

        Args:
            prompts: n prompts (or one).
            continuations: one text per prompt; None scores each prompt's own tokens after its first.
            batch_size: how many rows run together.

        Returns:
            n tensors of shape (tokens,), float32 on the CPU: `.sum()` is the text's log-likelihood.

        Raises:
            SteerlibError: on an empty continuation, a text longer than the model's context, or an output that is not finite.

        Example:
            >>> import steerlib as sl
            >>> lm = sl.load("smollm2", device="cpu")
            >>> paris, cheese = lm.loglik(["The capital of France is"] * 2, [" Paris", " cheese"])
            >>> bool(paris.sum() > cheese.sum())
            True
        """
        check_count("batch_size", batch_size)
        many, _ = as_list(prompts)
        texts = None if continuations is None or isinstance(continuations, str) else listed(continuations)
        if continuations is not None and (texts is None or len(texts) != len(many)):
            raise SteerlibError(f"{len(many)} prompts need as many continuations, in a list.")

        def asked(numbers: Sequence[int]) -> Iterator[Query]:
            for i in numbers:
                prompt = many[i]
                if texts is None:
                    ids, seen = self.read(prompt)
                    refuse_long(self, ids[:-1])
                    query = Query(ids[:1], [ids[1:]], seen)
                elif not isinstance(texts[i], str) or not texts[i]:
                    raise SteerlibError(f"continuation {i} is {texts[i]!r}: give a text of at least one token.")
                else:
                    query = self.split(prompt, [texts[i]])
                if not query.tails[0]:
                    raise SteerlibError(f"prompt {i} is too short: there is no token to score after a first one.")
                yield query

        def scored(numbers: Sequence[int]) -> list[Tensor]:
            return [
                found[0]
                for window in windows(asked(numbers), lambda query: query.seen, WINDOW * batch_size, pictured=True)
                for found in self._score(window, batch_size)
            ]

        return spread(scored, range(len(many)), "loglik", many, texts)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 40,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        batch_size: int = 16,
        use_cache: bool = True,
    ) -> Any:
        """What the model writes after each prompt, up to its end-of-text token or `max_new_tokens`.

        Tokens are drawn from the model's own distribution: penalties and cut-offs that a checkpoint's generation_config asks for
        play no part. A sampled text depends on its prompt and the seed, not on the other prompts; a prompt that is given
        twice gets two draws.

        Args:
            prompts: n prompts, or one.
            max_new_tokens: the most tokens that are written per prompt.
            temperature: 0 takes the likeliest token; 1 samples with the model's probabilities; others sharpen or flatten them.
            top_p: sample only among the likeliest tokens that together have this probability; 1 is all.
            top_k: sample only among this many of the likeliest tokens; 0 is all.
            seed: of the samples.
            batch_size: how many prompts are continued together.
            use_cache: keep keys and values between steps; the text is the same.

        Returns:
            n texts without their prompts, or one text if one prompt was given.

        Raises:
            SteerlibError: a prompt is empty, an option is out of range, or the model gives logits that are not finite.

        Example:
            >>> import steerlib as sl
            >>> sl.load("smollm2").generate("The capital of France is", max_new_tokens=1)
            ' Paris'
        """
        many, single = as_list(prompts)
        check_count("max_new_tokens", max_new_tokens)
        check_count("batch_size", batch_size)
        decoding(self.name, temperature=temperature, top_p=top_p, top_k=top_k, seeds=[])  # refuses before it reads
        every = range(len(many))
        known: list[int] | None = None
        if divided() and temperature > 0:  # a prompt that was given twice gets two draws, whichever process it falls to
            known = seeds_of(spread(lambda part: [self.tokens(many[i]) for i in part], every, "read", many), seed)

        def written(numbers: Sequence[int]) -> list[str]:
            own = None if known is None else [known[i] for i in numbers]
            return self._write(
                many, numbers, own,
                max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed,
                batch_size=batch_size, use_cache=use_cache,
            )  # fmt: skip

        texts = spread(written, every, "generate", many, max_new_tokens, temperature, top_p, top_k, seed)
        return texts[0] if single else texts

    def _write(
        self,
        many: Sequence[Prompt],
        numbers: Sequence[int],
        known: Sequence[int] | None,
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        top_k: int,
        seed: int,
        batch_size: int,
        use_cache: bool,
    ) -> list[str]:
        """What `generate` writes after the prompts with these numbers; `known` has their seeds where others ask, too."""
        texts: list[str] = []
        met: list[list[int]] = []
        for rows in windows((self.read(many[i]) for i in numbers), lambda row: row[1], WINDOW * batch_size):
            start = len(texts)
            if [] in (ids := [row for row, _ in rows]):
                raise SteerlibError(f"prompt {numbers[start + ids.index([])]} is empty: there is nothing to continue.")
            for row in ids:
                refuse_long(self, row)
            met += ids
            seeds = seeds_of(met, seed)[start:] if known is None else known[start : start + len(ids)]
            texts += [""] * len(rows)
            kinds = [(False, crossed(seen)) for _, seen in rows]
            for part in batches([len(row) for row in ids], batch_size, kinds=kinds):
                batch = self.batch([ids[i] for i in part], [rows[i][1] for i in part])
                batch.pop("position_ids", None)  # generate() counts them from the mask itself
                width = batch["input_ids"].shape[1]
                ends = torch.full((len(part),), width, device=self.device)
                drawn = decoding(
                    self.name, temperature=temperature, top_p=top_p, top_k=top_k, seeds=[seeds[i] for i in part]
                )
                with (
                    alone(self.hf),
                    own_distribution(self.hf),
                    torch.inference_mode(),
                    laid_out(batch["attention_mask"].bool(), ends),
                ):
                    out = self.hf.generate(
                        **batch,
                        do_sample=False,  # the processors have drawn
                        logits_processor=drawn,
                        max_new_tokens=int(max_new_tokens),
                        use_cache=use_cache,
                        pad_token_id=self.tokenizer.pad_token_id,
                    )
                for i, written in zip(part, out[:, width:].tolist(), strict=True):
                    texts[start + i] = self._decode(ids[i], written)
        return texts

    def split(self, prompt: Prompt, continuations: Sequence[str]) -> Query:
        """The token ids of a prompt and of texts that may follow it, cut where the prompt ends in the joint text.

        Args:
            prompt: a text or a chat.
            continuations: texts, each of which begins with a new token.

        Returns:
            A Query: the prompt's token ids, those of each continuation, and the prompt's pictures.

        Raises:
            SteerlibError: the prompt is empty, a continuation does not start a new token, or the two exceed the context.
        """
        start, seen = self.read(prompt)
        if not start:
            raise SteerlibError(f"an empty prompt was given: there is nothing that {continuations[0]!r} could follow.")
        text = self.render(prompt)
        if seen:
            text = self._closed(prompt, text, start)
        plain = self._encode(prompt, text)  # a picture is one placeholder here, and many in `start`
        tails = []
        for continuation in continuations:
            joint = self._encode(prompt, text + continuation)
            if joint[: len(plain)] != plain or len(joint) == len(plain):
                raise SteerlibError(
                    f"{continuation!r} does not start a new token after {text[-40:]!r}: end the prompt without a space "
                    "and begin the option with one."
                )
            tails.append(joint[len(plain) :])
        refuse_long(self, start + max(tails, key=len)[:-1])
        return Query(start, tails, seen)

    def _adds_special(self, prompt: Prompt, text: str) -> bool:
        """Whether the tokenizer puts its special tokens around a text: not if it begins with them, or its template writes them.

        The templates of tokenizers do, by their convention; those of processors need not (LLaVA's do not).
        """
        begins = self.tokenizer.bos_token
        if begins and text.startswith(begins):
            return False
        return self.processor is not None or isinstance(prompt, str) or is_plain(prompt)

    def _closed(self, prompt: Prompt, text: str, ids: Sequence[int]) -> str:
        """The text of a prompt as its processor ended it when it made the ids: PaliGemma's adds a line break."""
        ended = text + "\n"
        added = self._encode(prompt, text)[-1] != ids[-1] == self._encode(prompt, ended)[-1]
        return ended if added else text

    def _encode(self, prompt: Prompt, text: str) -> list[int]:
        """Token ids of a text, with the special tokens before it that the model expects, and none behind it."""
        special = self._adds_special(prompt, text)
        ids = cast(list[int], self.tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[: len(ids) - self._appended] if special else ids

    @cached_property
    def _appended(self) -> int:
        """How many special tokens the tokenizer puts behind a text, such as an end-of-text that nothing could follow."""
        whole, bare = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        starts = [n for n in range(len(whole)) if whole[n : n + len(bare)] == bare]
        return len(whole) - starts[0] - len(bare) if starts else 0

    def _decode(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        """The text of new tokens as it goes on from the prompt: some tokenizers drop the space at the start of a text."""
        before, whole = (
            str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in (prompt, [*prompt, *written])
        )
        alone = str(self.tokenizer.decode(written, skip_special_tokens=True))
        return whole[len(before) :] if whole.startswith(before) else alone

    def _score(self, queries: Sequence[Query], batch_size: int) -> list[list[Tensor]]:
        """Of each query, each continuation's (tokens,) log-probabilities."""
        found = [[torch.empty(0)] * len(query.tails) for query in queries]
        rows = [(i, row) for i, query in enumerate(queries) for row in query.rows()]
        with torch.inference_mode():
            for r, lines in log_probs(self, [row for _, row in rows], batch_size=batch_size):
                i, row = rows[r]
                for number, scores in tail_log_probs(row, lines).items():
                    found[i][number] = scores.float().cpu()
                flat = bool((lines.amax(-1) == lines.amin(-1)).any())  # as of a model whose weights are damaged
                if flat or lines.isnan().any() or not all(found[i][n].isfinite().all() for n in row.tails):
                    text = self.tokenizer.decode(queries[i].prompt)[-60:]
                    raise SteerlibError(
                        f"'{self.name}' gave logits that are not finite (NaN or infinite), or all equal, for the prompt ending "
                        f"{text!r}: its weights or its activations are damaged."
                    )
        return found


def weights_hash(model: Model) -> str:
    """SHA-256 over the name, the shape and 1,024 evenly spaced values (as bfloat16) of every weight.

    The same for float32 and bfloat16 copies of a model, and quick for any size. Weights that are offloaded are read where they lie.

    Args:
        model: whose weights; they may be quantised, or spread over devices.

    Returns:
        The hash in hexadecimal. "quantised:" stands before it where it is that of the numbers that a quantised model stores, and
        "partial:" where some weights could not be read, so that only their names and shapes are in it.

    Example:
        >>> import steerlib as sl
        >>> weights_hash(sl.load("smollm2"))[:12]
        'a84b802bd005'
    """
    digest = hashlib.sha256()
    quantised, partial = bool(getattr(model.hf, "is_quantized", False)), False
    for name, weight in sorted(model.hf.state_dict().items()):
        if not isinstance(weight, Tensor):  # a module's own notes
            continue
        inner = list(_stored(name, _fetched(model.hf, name, weight)))
        quantised |= len(inner) > 1
        for key, values in inner:
            digest.update(f"{key}{tuple(values.shape)}".encode())
            flat = values.reshape(-1)
            if flat.device.type == "meta":
                partial = True
                continue
            indices = torch.linspace(0, len(flat) - 1, min(len(flat), 1024), dtype=torch.float64).long().to(flat.device)
            try:
                sample = flat[indices].bfloat16()
            except (RuntimeError, NotImplementedError):  # eight bits or less: torch stores them but cannot index them
                sample = flat.view(torch.uint8)[indices].bfloat16()
            digest.update(sample.view(torch.int16).cpu().numpy().tobytes())
    return ("partial:" if partial else "quantised:" if quantised else "") + digest.hexdigest()


def _fetched(hf: Any, name: str, weight: Tensor) -> Tensor:
    """A weight, read from where it was offloaded to if it is not on any device."""
    if weight.device.type != "meta":
        return weight
    place, _, key = name.rpartition(".")
    with align_module_device(hf.get_submodule(place), execution_device=torch.device("cpu")):
        return cast(Tensor, getattr(hf.get_submodule(place), key)).detach()


def _stored(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a weight is made of: itself, or the numbers and scales that a quantised one keeps."""
    if type(weight) in (Tensor, torch.nn.Parameter):
        yield name, weight.detach()
    elif hasattr(weight, "__tensor_flatten__"):
        for part in weight.__tensor_flatten__()[0]:
            yield from _stored(f"{name}.{part}", getattr(weight, part))
    else:  # nobody knows how to look inside
        yield name, torch.empty(weight.shape, device="meta")
