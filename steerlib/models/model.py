"""A model that is ready to be asked: the Hugging Face model with its tokenizer, and three questions.

`choose` asks for one of several answers, `generate` for text, `loglik` for the likelihood of a given text. Batching, left
padding, position ids and the places of pictures are done here, once, for everything else in steerlib. A prompt is plain text
(a `str`) or a chat: a list of messages `{"role": ..., "content": ...}`, whose last message may be an answer that the assistant
has already begun. The content of a message about pictures is a list of parts, `{"type": "image", "image": picture}` and
`{"type": "text", "text": ...}`. `chat` writes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.layout import laid_out
from steerlib.models.prompts import Prompt, as_list, pictures_of
from steerlib.models.scoring import Row, Seen, batches, options_for, refuse_prefixes


@dataclass(frozen=True)
class Model:
    """A thin bundle of a Hugging Face model and its tokenizer; made by `load`.

    name: what it was loaded as. hf: the model itself, in evaluation mode. tokenizer: pads on the left. processor: what turns
    pictures into numbers, or None for a model that reads only text.
    """

    name: str
    hf: Any
    tokenizer: Any
    processor: Any = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return cast(torch.device, self.hf.device)

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads for `prompt`: itself if plain, else through the model's chat template."""
        if isinstance(prompt, str):
            return prompt
        if not prompt:
            raise SteerlibError("an empty chat was given: a chat needs at least one message.")
        if any(not {"role", "content"} <= set(message) for message in prompt):
            raise SteerlibError("a message of a chat lacks its 'role' or its 'content'.")
        begun = prompt[-1]["role"] == "assistant"
        template = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        if not template.chat_template:
            raise SteerlibError(f"'{self.name}' has no chat template: give plain text instead of messages.")
        how: dict[str, bool] = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
        return str(template.apply_chat_template(list(prompt), tokenize=False, **how))

    def tokens(self, prompt: Prompt, continuation: str = "") -> list[int]:
        """Token ids of `prompt` followed by `continuation`; special tokens as the model expects them."""
        return self.read(prompt, continuation)[0]

    def read(self, prompt: Prompt, continuation: str = "") -> tuple[list[int], Seen]:
        """Token ids as `tokens` gives them, with a placeholder for every piece of a picture, and what the pictures show.

        Raises SteerlibError if pictures and the places for them do not agree, or a picture has no clear RGB form.
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
        if not pictures:
            return self._encode(prompt, text), {}
        seen = dict(self.processor(text=[text], images=pictures, add_special_tokens=False, return_tensors="pt"))
        ids = seen.pop("input_ids")[0].tolist()
        del seen["attention_mask"]  # `batch` makes it
        return ids, seen

    def batch(self, rows: Sequence[Sequence[int]], seen: Sequence[Seen] = ()) -> dict[str, Tensor]:
        """Rows of token ids, padded on the left: input_ids, attention_mask and position_ids, each (batch, tokens).

        seen: what `read` says of each row's pictures; they are joined in the order of the rows.
        """
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        batch = {"input_ids": ids, "attention_mask": mask}
        if not hasattr(self.hf.base_model, "get_rope_index"):  # which counts places in pictures too, and by itself
            batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        for key in dict.fromkeys(key for row in seen for key in row):
            if key.endswith("token_type_ids"):  # one number a token: what follows the prompt is text, and so is padding
                kinds = [view[key][0].tolist() if key in view else [] for view in seen]
                lines = [
                    [0] * (width - len(row)) + kind + [0] * (len(row) - len(kind))
                    for row, kind in zip(rows, kinds, strict=True)
                ]
                batch[key] = torch.tensor(lines, device=self.device)
                continue
            joined = torch.cat([row[key] for row in seen if key in row])
            batch[key] = joined.to(self.device, self.hf.dtype if joined.is_floating_point() else None)
        return batch

    def choose(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: Sequence[str] | Sequence[Sequence[str]],
        *,
        score: str = "sum",
        return_mass: bool = False,
        batch_size: int = 16,
    ) -> Any:
        """How likely the model continues each prompt with each option, normalised over the options.

        prompts: n prompts (or one). options: whole strings of any number of tokens, the same for all prompts, or one list a
        prompt (all of one length). An option begins with a space where the text would. score: options are compared by the
        log-probability of the whole string ("sum"), or by its mean per "token" or per "character".
        Returns (n, options) probabilities in float32 on the CPU; (options,) if one prompt was given. With return_mass also
        (n,), the probability that the options hold together before they are normalised; () if one prompt was given.
        Raises SteerlibError on no options, options that cannot be told apart, or an output that is not finite.
        """
        many, single = as_list(prompts)
        each = options_for(many, options)
        rows: dict[tuple[int, tuple[int, ...]], Row] = {}
        order: list[tuple[tuple[int, tuple[int, ...]], int]] = []  # where each prompt's options are: row, place in it
        for i, prompt in enumerate(many):
            start, tails, seen = self.split(prompt, each[i])
            for tail in tails:
                key = (i, tuple(tail[:-1]))  # options that differ in their last token are read from one row
                same = rows.setdefault(key, (start, [], seen))[1]
                order.append((key, len(same)))
                same.append(tail)
            refuse_prefixes(each[i], tails)
        scored = dict(zip(rows, self._score(list(rows.values()), batch_size), strict=True))
        lines = [scored[key][place] for key, place in order]
        whole = torch.stack([line.sum() for line in lines]).reshape(len(many), -1)  # (n, options)
        sizes = {
            "sum": [1] * len(lines),
            "token": [len(line) for line in lines],
            "character": [len(option) for own in each for option in own],
        }
        if score not in sizes:
            raise SteerlibError(f"options are not scored by '{score}': use 'sum', 'token' or 'character'.")
        probabilities = (whole / torch.tensor(sizes[score]).reshape(whole.shape)).softmax(-1)  # (n, options)
        mass = whole.logsumexp(-1).exp()  # (n,)
        found = (probabilities[0], mass[0]) if single else (probabilities, mass)
        return found if return_mass else found[0]

    def loglik(
        self, prompts: Prompt | Sequence[Prompt], continuations: Sequence[str] | None = None, *, batch_size: int = 8
    ) -> list[Tensor]:
        """Log-likelihood, in nats, of each token of each continuation given its prompt.

        continuations: one text a prompt; None scores each prompt's own tokens after its first.
        Returns n tensors of shape (tokens,), float32 on the CPU: `.sum()` is the text's log-likelihood.
        """
        many, _ = as_list(prompts)
        if continuations is None:
            texts = [self.read(prompt) for prompt in many]
            pairs: list[Row] = [(ids[:1], [ids[1:]], seen) for ids, seen in texts]
        else:
            if isinstance(continuations, str) or len(continuations) != len(many):
                raise SteerlibError(f"{len(many)} prompts need as many continuations, in a list.")
            pairs = [self.split(p, [c]) for p, c in zip(many, continuations, strict=True)]
        for i, (start, (tail,), _) in enumerate(pairs):
            if not start or not tail:
                raise SteerlibError(f"prompt {i} is too short: there is no token to score after a first one.")
        return [line[0] for line in self._score(pairs, batch_size)]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 40,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 16,
        use_cache: bool = True,
    ) -> Any:
        """What the model writes after each prompt, up to its end-of-text token or `max_new_tokens`.

        temperature: 0 is greedy; above it, sampled with `seed`. use_cache: keep keys and values between steps (same text).
        Returns n texts without the prompt; one text if one prompt was given.
        """
        many, single = as_list(prompts)
        rows = [self.read(prompt) for prompt in many]
        for i, (row, _) in enumerate(rows):
            if not row:
                raise SteerlibError(f"prompt {i} is empty: there is nothing to continue.")
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        texts = [""] * len(rows)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for part in batches([len(row) for row, _ in rows], batch_size):
                batch = self.batch([rows[i][0] for i in part], [rows[i][1] for i in part])
                batch.pop("position_ids", None)  # generate() counts them from the mask itself
                width = batch["input_ids"].shape[1]
                ends = torch.full((len(part),), width, device=self.device)
                with torch.inference_mode(), laid_out(batch["attention_mask"].bool(), ends):
                    out = self.hf.generate(
                        **batch,
                        **sampling,
                        max_new_tokens=max_new_tokens,
                        use_cache=use_cache,
                        pad_token_id=self.tokenizer.pad_token_id,
                    )
                for i, ids in zip(part, out[:, width:].tolist(), strict=True):
                    texts[i] = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return texts[0] if single else texts

    def split(self, prompt: Prompt, continuations: Sequence[str]) -> Row:
        """The prompt's token ids, those of each continuation, cut where the prompt ends in the joint text, and its pictures."""
        start, seen = self.read(prompt)
        if not start:
            raise SteerlibError(f"an empty prompt was given: there is nothing that {continuations[0]!r} could follow.")
        text = self.render(prompt)
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
        return start, tails, seen

    def _encode(self, prompt: Prompt, text: str) -> list[int]:
        """Token ids of a text; a chat's template has written the special tokens already."""
        return cast(list[int], self.tokenizer(text, add_special_tokens=isinstance(prompt, str))["input_ids"])

    def _score(self, rows: Sequence[Row], batch_size: int) -> list[list[Tensor]]:
        """For rows with tails that differ in the last id only: each tail's (tokens,) log-probabilities."""
        results: list[list[Tensor]] = [[]] * len(rows)
        sizes = [len(tails[0]) for _, tails, _ in rows]
        for part in batches([len(start) + size for (start, _, _), size in zip(rows, sizes, strict=True)], batch_size):
            batch = self.batch([rows[i][0] + rows[i][1][0][:-1] for i in part], [rows[i][2] for i in part])
            width, keep = batch["input_ids"].shape[1], max(sizes[i] for i in part)
            ends = torch.tensor([width + 1 - sizes[i] for i in part], device=self.device)
            with torch.inference_mode(), laid_out(batch["attention_mask"].bool(), ends):
                logits = self.hf(**batch, use_cache=False, logits_to_keep=keep).logits  # (batch, keep, vocabulary)
            for i, line in zip(part, logits, strict=True):
                line = line[-sizes[i] :].float().log_softmax(-1)  # (tokens, vocabulary)
                results[i] = [line[torch.arange(sizes[i]), tail].cpu() for tail in rows[i][1]]
                if line.isnan().any() or not all(found.isfinite().all() for found in results[i]):
                    text = self.tokenizer.decode(rows[i][0])[-60:]
                    raise SteerlibError(
                        f"'{self.name}' gave logits that are not finite (NaN or infinite) for the prompt ending {text!r}."
                    )
        return results


def weights_hash(model: Model) -> str:
    """SHA-256 over the name, the shape and 1,024 evenly spaced values (as bfloat16) of every weight.

    The same for float32 and bfloat16 copies of a model, and quick for any size.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.hf.state_dict().items()):
        flat = weight.reshape(-1)
        sample = flat[
            torch.linspace(0, len(flat) - 1, min(len(flat), 1024), dtype=torch.float64).long().to(flat.device)
        ]
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.bfloat16().view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()
