"""`wrap`: a network that is in memory already, with its tokenizer or processor, as a Model.

The one idea: whatever a model was loaded with, five things must hold before its numbers mean anything. It is in evaluation mode (no
dropout), its weights are frozen, its tokenizer pads on the left with a token that the network knows, every weight is really there, and
it reads from left to right. `load` ends here too, so that a model from the hub and one from your own code are held to the same.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils.hub import cached_file

from steerlib.errors import SteerlibError
from steerlib.models.check import usable
from steerlib.models.model import Model

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OTHER_HEADS = re.compile(
    r"For(MaskedLM|Sequence|Token|Image|Audio|Video)Classification$|For(MaskedLM|PreTraining|QuestionAnswering|MultipleChoice|"
    r"NextSentencePrediction|RewardModel|MaskGeneration)$"
)
"""Classes of checkpoints whose head gives something other than the next token."""


def wrap(
    hf: Any,
    processor_or_tokenizer: Any,
    *,
    name: str | None = None,
    adapter: str | Path | None = None,
    template: Mapping[str, Any] | None = None,
    check: bool = True,
) -> Model:
    """A network that is in memory already, as a Model; it is set up as `load` would have.

    The network itself is used, not a copy, and three things about it change for good: it is put into evaluation mode, its weights no
    longer ask for gradients, and an `adapter` is put inside it. The tokenizer that you give is left as it is; where it has to pad
    differently, the Model gets a copy.

    Args:
        hf: a model of transformers that writes text, on any device, in any type: quantised, spread over devices, or offloaded too; or a
            PeftModel, whose adapters stay yours to switch.
        processor_or_tokenizer: its tokenizer; for a model that sees, its processor (with the tokenizer alone it reads only text).
        name: what to call it in provenances and messages; None takes the name it was loaded by.
        adapter: a PEFT adapter to put on top: a folder or a hub id.
        template: switches of its chat template, such as {"enable_thinking": False}; they are kept in every provenance.
        check: ask it some short prompts, to see that it answers in a padded batch, and with a cache, as it does alone.

    Returns:
        The Model.

    Raises:
        SteerlibError: the network does not write text from left to right, some of its weights are missing, the tokenizer does not
            fit it, the adapter was made for another base, or the check fails.

    Example:
        >>> import steerlib as sl
        >>> loaded = sl.load("smollm2", device="cpu")
        >>> lm = sl.wrap(loaded.hf.train(), loaded.tokenizer, name="mine")
        >>> lm.name, lm.hf.training
        ('mine', False)
    """
    name = name or str(getattr(getattr(hf, "config", None), "_name_or_path", "") or type(hf).__name__)
    if not hasattr(hf, "config") or not hasattr(hf, "get_decoder"):
        raise SteerlibError(
            f"a {type(hf).__name__} cannot be wrapped: give a model of transformers that writes text, or a PeftModel around one."
        )
    refuse_readers(name, hf.config, type(hf).__name__)
    hf.eval().requires_grad_(False)
    if hasattr(hf, "peft_config") and hasattr(hf, "get_base_model"):
        hf = _inside(name, hf)
    if adapter is not None:
        hf = with_adapter(name, hf, str(adapter))
    _refuse_hollow(name, hf)
    tokenizer, processor = _reader(name, processor_or_tokenizer, hf)
    model = Model(name=name, hf=hf, tokenizer=tokenizer, processor=processor, template=dict(template or {}))
    if check:
        _try(model)
    return model


def refuse_readers(name: str, config: Any, written: str = "") -> None:
    """Refuse a family or a checkpoint that does not write text from left to right.

    Args:
        name: of the model.
        config: its configuration.
        written: the class that it is, or that the checkpoint was saved from.

    Raises:
        SteerlibError: it is an encoder-decoder, a masked language model, a classifier or the like.
    """
    kind = str(getattr(config, "model_type", ""))
    if getattr(config, "is_encoder_decoder", False):
        raise SteerlibError(
            f"'{name}' ({kind}) has an encoder and a decoder: steerlib steers models that have a decoder only, such as Llama, Qwen or "
            "Gemma."
        )
    if OTHER_HEADS.search(written) and not re.search(r"CausalLM|ConditionalGeneration|LMHead", written):
        raise SteerlibError(
            f"'{name}' is a {written}, which does not write text: take a checkpoint of a model that does, such as one ForCausalLM."
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise SteerlibError(
            f"'{name}' ({kind}) is a masked language model, which sees what follows a word: it fills gaps and does not write, so take "
            "a model that does, such as Llama, Qwen or Gemma."
        )


def blind(config: Any) -> bool:
    """Whether a family that takes pictures is one that steerlib reads as text only."""
    kind = getattr(config, "model_type", None)
    return not hasattr(config, "vision_config") and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def adapter_file(source: str, file: str, *, sure: bool = True, **hub: Any) -> Path | None:
    """A file of a PEFT adapter, in a folder or on the hub.

    Args:
        source: the folder or the hub id.
        file: its name.
        sure: raise what keeps the hub from answering; else that means None too.
        **hub: token, revision and the like.

    Returns:
        Where it is on this machine, or None if there is no such file.
    """
    if Path(source).expanduser().is_dir():
        path = Path(source).expanduser() / file
        return path if path.is_file() else None
    if not sure:
        hub |= {"_raise_exceptions_for_gated_repo": False, "_raise_exceptions_for_connection_errors": False}
    hub.pop("subfolder", None)
    found = cached_file(source, file, _raise_exceptions_for_missing_entries=False, **hub)
    return None if found is None else Path(found)


def with_adapter(name: str, hf: Any, adapter: str, **hub: Any) -> Any:
    """A network with a PEFT adapter put inside it, every weight of which found its place.

    Args:
        name: of the network.
        hf: the network, which is changed.
        adapter: a folder or a hub id.
        **hub: token, revision and the like.

    Returns:
        The network.

    Raises:
        SteerlibError: there is no such adapter, it was made for another base, or peft is missing.
    """
    try:
        from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
    except ImportError as error:
        raise SteerlibError(
            "an adapter needs the package peft: install it with `pip install 'steerlib[train]'`."
        ) from error
    settings = adapter_file(adapter, ADAPTER, **hub)
    weights = adapter_file(adapter, ADAPTER_WEIGHTS, **hub)
    if settings is None or weights is None:
        lacks = ADAPTER if settings is None else ADAPTER_WEIGHTS
        raise SteerlibError(
            f"'{adapter}' is not a PEFT adapter as safetensors: it lacks {lacks} (save one with `PeftModel.save_pretrained`)."
        )
    folder = str(settings.parent)
    other = f"the adapter '{adapter}' was made for another model than '{name}'"
    try:
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise SteerlibError(
                f"the adapter '{adapter}' ({config.peft_type}) puts tokens of its own before every prompt, so that no position is where "
                "it seems: take one that changes weights, such as LoRA."
            )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            peft = PeftModel.from_pretrained(hf, folder, config=config)
            how = {"key_mapping": getattr(hf, "_checkpoint_conversion_mapping", {})}
            result: Any = set_peft_model_state_dict(peft, load_peft_weights(folder, device="cpu", **how))
        lost = [*result.unexpected_keys, *(str(w.message) for w in said if "missing adapter keys" in str(w.message))]
    except SteerlibError:
        raise
    except Exception as error:  # peft has no error of its own: targets that are not there, shapes that differ, ...
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise SteerlibError(f"{other}, or its files are damaged ({reason}).") from error
    if lost:
        raise SteerlibError(f"{other}: {len(lost)} of its weights have no place there ({lost[0][:120]}).")
    base = str(config.base_model_name_or_path or "")
    if (
        all(re.fullmatch(r"[\w.-]+/[\w.-]+", text) for text in (base, name))
        and base.split("/")[1] != name.split("/")[1]
    ):
        warnings.warn(
            f"the adapter '{adapter}' was trained on '{base}', not on '{name}': its weights fit, which is right for a copy of that model.",
            stacklevel=3,
        )
    return _inside(name, peft.eval().requires_grad_(False))


def _inside(name: str, peft: Any) -> Any:
    """The network inside a PeftModel, whose layers hold the adapters: it runs as the PeftModel does, and has all its own methods."""
    for adapter, settings in peft.peft_config.items():
        if settings.is_prompt_learning:
            raise SteerlibError(
                f"'{name}' has the adapter '{adapter}' ({settings.peft_type}), which puts tokens of its own before every prompt, so that "
                "no position is where it seems: take one that changes weights, such as LoRA."
            )
    return peft.get_base_model()


def _refuse_hollow(name: str, hf: Any) -> None:
    """Refuse weights that are nowhere: on the meta device, and not offloaded either."""
    for place, module in hf.named_modules():
        for key, weight in module.named_parameters(recurse=False):
            if weight.device.type == "meta" and not hasattr(module, "_hf_hook"):
                raise SteerlibError(
                    f"'{name}' has no values for {place}.{key} (its device is 'meta'): load its weights before you wrap it."
                )


def _reader(name: str, given: Any, hf: Any) -> tuple[Any, Any]:
    """The tokenizer, padding on the left with a token that the network knows, and the processor, if one was given."""
    processor = given if hasattr(given, "tokenizer") else None
    tokenizer = given.tokenizer if processor is not None else given
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        raise SteerlibError(
            f"'{name}' needs its tokenizer, or its processor if it sees, not a {type(given).__name__}: give what AutoTokenizer or "
            "AutoProcessor loads."
        )
    ready = tokenizer.padding_side == "left" and _pads(tokenizer, hf)
    if not ready:
        # its special tokens are held where a shallow copy would share them
        tokenizer = copy.copy(tokenizer) if _pads(tokenizer, hf) else copy.deepcopy(tokenizer)
        pad_left(tokenizer, hf)
    if processor is not None and processor.tokenizer is not tokenizer:
        processor = copy.copy(processor)
        processor.tokenizer = tokenizer
    return tokenizer, processor


def pad_left(tokenizer: Any, hf: Any) -> None:
    """Make a tokenizer pad on the left, with a token that the network knows.

    Args:
        tokenizer: changed in place.
        hf: the network that it writes for.
    """
    tokenizer.padding_side = "left"
    if not _pads(tokenizer, hf):  # any token will do, since padding is masked
        ends = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
        tokenizer.pad_token = next(token for token in ends if token is not None)


def _pads(tokenizer: Any, hf: Any) -> bool:
    """Whether there is a token to pad with, and the network has a row for it."""
    pad = tokenizer.pad_token_id
    return isinstance(pad, int) and 0 <= pad < hf.get_input_embeddings().weight.shape[0]


def _try(model: Model) -> None:
    """Ask a model some short prompts, and refuse it if it cannot answer, or answers otherwise in a batch than alone.

    A quantised one is only warned of: the 8 bits of bitsandbytes choose the columns that stay in 16 bits by the whole batch.
    """
    try:
        usable(model)
    except SteerlibError:
        if not getattr(model.hf, "is_quantized", False):
            raise
        warnings.warn(
            f"'{model.name}' is quantised in a way that lets the prompts of a batch change one another's answers: ask it with "
            "batch_size=1 where that matters, or, for the 8 bits of bitsandbytes, load it with llm_int8_threshold=0.0 or in 4 bits.",
            stacklevel=4,
        )
    except Exception as error:  # whatever a network raises that does not run as others do
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise SteerlibError(
            f"'{model.name}' cannot be used: its network ({type(model.hf).__name__}) does not run on short prompts ({reason})."
        ) from error
