"""Loading and wrapping: what neighbours take is taken, what would mislead is refused before weights are read, in one sentence."""

from __future__ import annotations

import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from test_models import OPTIONS, sentence
from tiny import PROMPTS
from torch import Tensor, nn

import steerlib as sl
from steerlib import SteerlibError
from steerlib.models.load import load
from steerlib.models.model import Model, weights_hash
from steerlib.models.trouble import explain, listening, missing
from steerlib.models.wrap import wrap
from steerlib.steering.operations import provenance


def save(hf: Any, folder: Path, tokenizer: Any = None) -> Path:
    """A folder with a model and a tokenizer."""
    hf.save_pretrained(folder)
    (tokenizer or tiny.tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(tiny.model("llama").hf, tmp_path / "llama")


@pytest.fixture(autouse=True)
def no_weights_without_need(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which sources weights were read from; the reading itself goes on."""
    read: list[str] = []
    plain = tf.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def noting(cls: Any, source: Any, *args: Any, **how: Any) -> Any:
        read.append(str(source))
        return plain(cls, source, *args, **how)

    monkeypatch.setattr(tf.PreTrainedModel, "from_pretrained", classmethod(noting))
    return read


# ---- what a neighbour's user gives


def test_a_folder_keeps_the_type_of_its_checkpoint_unless_another_is_asked_for(tmp_path: Path) -> None:
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        folder = save(tiny.fresh("llama", dtype=kind).hf, tmp_path / str(kind))
        assert load(folder, device="cpu").hf.dtype == kind
        assert load(folder, device="cpu", dtype="auto").hf.dtype == kind
    for given, expected in (
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp32", torch.float32),
        ("half", torch.float16),
    ):
        assert load(folder, device="cpu", dtype=given).hf.dtype == expected


def test_the_embedded_models_are_float32_and_have_the_hash_that_shipped_steerings_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm = load("smollm2", device="cpu")
    assert lm.hf.dtype == torch.float32 and lm.name == "smollm2"
    shipped = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
    assert weights_hash(lm) == shipped.provenance["weights"]
    made = provenance(lm, "by hand")
    assert list(made) == ["method", "model", "architecture", "width", "layers", "weights", "versions"]


def test_other_arguments_reach_from_pretrained(llama: Path) -> None:
    lm = load(llama, device="cpu", attn_implementation="eager", output_hidden_states=True)
    assert lm.hf.config._attn_implementation == "eager" and lm.hf.config.output_hidden_states
    spread = load(llama, device_map={"": "cpu"})
    assert spread.device.type == "cpu"
    assert torch.equal(spread.choose(PROMPTS, OPTIONS), tiny.model("llama").choose(PROMPTS, OPTIONS))


def test_an_argument_that_nobody_knows_is_one_sentence_that_names_it(llama: Path) -> None:
    with pytest.raises(SteerlibError, match="does not know 'dtipe'") as error:
        load(llama, device="cpu", dtipe="float32")
    sentence(error)


def test_a_folder_may_be_a_path_and_an_id_may_end_in_a_slash(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(f"{llama}/", device="cpu").hf.dtype == torch.float32
    monkeypatch.setenv("HOME", str(llama.parent))
    assert load("~/llama", device="cpu").hf.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "asked", "revision"),
    [
        ("https://huggingface.co/o/m", "o/m", None),
        ("https://huggingface.co/o/m/", "o/m", None),
        ("huggingface.co/o/m?library=transformers", "o/m", None),
        ("https://hf.co/o/m/tree/v1", "o/m", "v1"),
        ("https://huggingface.co/o/m/blob/abc/config.json", "o/m", "abc"),
        ("o/m/", "o/m", None),
        ("gpt2", "gpt2", None),
        ("https://huggingface.co/gpt2/tree/main", "gpt2", "main"),
        ("o/m@v1", "o/m", "v1"),
        ("gpt2@0a1b2c3", "gpt2", "0a1b2c3"),
        ("o/m@", "o/m", None),
    ],
)
def test_the_address_of_a_page_of_the_hub_is_its_id_and_revision(
    given: str, asked: str, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Any]] = []

    def read(source: str, file: str, **hub: Any) -> Any:
        seen.append((source, hub.get("revision")))
        raise OSError("offline")

    monkeypatch.setattr(sys.modules["steerlib.models.load"], "adapter_file", read)
    with pytest.raises(SteerlibError) as error:
        load(given)
    assert seen == [(asked, revision)] and f"'{asked}'" in sentence(error)


def test_switches_of_the_template_are_kept_in_the_provenance(llama: Path) -> None:
    lm = load(llama, device="cpu", template={"enable_thinking": False})
    assert dict(lm.template) == {"enable_thinking": False}
    assert provenance(lm, "by hand")["template"] == {"enable_thinking": False}
    assert "template" not in provenance(load(llama, device="cpu"), "by hand")


# ---- what is refused before weights are read


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"device": "gpu"}, "'gpu' is not a device: use 'cpu', 'cuda'"),
        ({"device": "meta"}, "'meta' is not a device"),
        ({"device": "cuda:99"}, "no 'cuda'|no device 'cuda:99'"),
        ({"device": "mps"}, "no 'mps'"),
        ({"device": "cpu", "device_map": "auto"}, "one of the two"),
        ({"trust_remote_code": True}, "never runs code .* -hf"),
        ({"use_safetensors": False}, "pickled weights can run any code"),
        ({"dtype": "int8"}, "'int8' is not a type for weights"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_met_is_refused_before_weights_are_read(
    how: dict[str, Any], says: str, llama: Path, no_weights_without_need: list[str]
) -> None:
    if how.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(SteerlibError, match=says) as error:
        load(llama, **how)
    assert no_weights_without_need == []
    sentence(error)


def tiny_bert(kind: str = "BertForMaskedLM") -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return getattr(tf, kind)(tf.BertConfig(vocab_size=len(tiny.tokenizer()), **sizes))


def reader_that_cannot_write(kind: str) -> Any:
    """A model that transformers would load as a language model, or load with a head of random numbers, without a word."""
    if kind == "masked":
        return tiny_bert()
    if kind == "masked without its class in the configuration":
        hf = tiny_bert("BertLMHeadModel")
        hf.config.architectures = None
        return hf
    if kind == "classifier with tied embeddings":
        config = tiny.text_config("llama")
        config.tie_word_embeddings, config.num_labels = True, 3
        return tf.LlamaForSequenceClassification(config)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=len(tiny.tokenizer()), **sizes))


READERS = {
    "masked": "sees what follows a word|does not write text",
    "masked without its class in the configuration": "sees what follows a word",
    "classifier with tied embeddings": "LlamaForSequenceClassification, which does not write text",
    "encoder and decoder": "an encoder and a decoder",
}


@pytest.mark.parametrize("kind", READERS)
def test_what_does_not_write_from_left_to_right_is_refused_by_load_and_by_wrap(
    kind: str, tmp_path: Path, no_weights_without_need: list[str]
) -> None:
    hf = reader_that_cannot_write(kind)
    hf.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    if kind.startswith("masked without"):
        settings.pop("architectures", None)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(SteerlibError, match=READERS[kind]) as error:
        load(tmp_path, device="cpu")
    assert no_weights_without_need == []
    sentence(error)
    with pytest.raises(SteerlibError) as error:
        wrap(hf, tiny.tokenizer())
    sentence(error)


def test_a_decoder_of_a_family_that_can_be_masked_is_taken(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    hf = tf.BertLMHeadModel(tf.BertConfig(vocab_size=len(tiny.tokenizer()), is_decoder=True, **sizes))
    lm = load(save(hf, tmp_path), device="cpu")
    assert lm.hf.config.is_decoder


def test_weights_that_have_no_place_are_named_in_a_warning(llama: Path) -> None:
    settings = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 2}))
    with pytest.warns(UserWarning, match=r"9 weights of .* have no place .*model\.layers\.2\."):
        load(llama, device="cpu")


def test_pickled_weights_are_refused_with_how_to_convert_them(llama: Path) -> None:
    weights = {name: value.clone() for name, value in tiny.model("llama").hf.state_dict().items()}
    (llama / "model.safetensors").unlink()
    torch.save(weights, llama / "pytorch_model.bin")
    with pytest.raises(
        SteerlibError, match=r"no weights as safetensors, .*use_safetensors=False\)\.save_pretrained"
    ) as error:
        load(llama, device="cpu")
    sentence(error)


def test_a_repository_with_code_of_its_own_is_refused_with_what_to_look_for(llama: Path) -> None:
    settings = json.loads((llama / "config.json").read_text())
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    (llama / "config.json").write_text(json.dumps(settings | {"model_type": "own-kind", "auto_map": code}))
    with pytest.raises(SteerlibError, match="run code of its own, which steerlib never does: .* -hf") as error:
        load(llama, device="cpu")
    assert "trust_remote_code" not in sentence(error)


def test_a_family_that_this_transformers_does_not_know_asks_for_a_newer_one(llama: Path) -> None:
    settings = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(settings | {"model_type": "llama99"}))
    with pytest.raises(SteerlibError, match="'llama99': a newer one may") as error:
        load(llama, device="cpu")
    sentence(error)


# ---- packages that are missing


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import import_utils

    for name, (_, message) in import_utils.BACKENDS_MAPPING.items():
        if "{ACCELERATE_MIN_VERSION}" in message:  # which transformers itself cannot fill in
            continue
        gone = import_utils.BACKENDS_MAPPING | {name: (lambda: False, message)}
        monkeypatch.setattr(import_utils, "BACKENDS_MAPPING", gone)
        with pytest.raises(ImportError) as error:
            import_utils.requires_backends(SimpleNamespace(__name__="TheProcessor"), [name])
        said = explain("m/m", error.value, local=True)
        assert "damaged" not in said and "\n" not in said and said.endswith("."), name
        if name in ("torchvision", "timm"):
            assert f"needs the package {name}: run `pip install 'steerlib[vision]'`." in said
    assert missing(
        ImportError(
            "Package `num2words` is required to run SmolVLM processor. Install it with `pip install num2words`."
        )
    ) == ["num2words"]


@pytest.mark.skipif(tf.utils.is_torchvision_available(), reason="torchvision is installed")
def test_families_whose_processor_needs_torchvision_say_so(tmp_path: Path) -> None:
    """As the folders of these families are written; their weights are not reached. In a process where nothing was loaded before."""
    eyes = {
        "qwen2_vl": "Qwen2VLImageProcessor",
        "smolvlm": "SmolVLMImageProcessor",
        "internvl": "GotOcr2ImageProcessor",
        "llama4": "Llama4ImageProcessor",
    }
    for kind, name in eyes.items():
        folder = tmp_path / kind
        tf.CONFIG_MAPPING[kind]().save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name}))
    code = """
import sys
import steerlib as sl
for folder in sys.argv[1:]:
    try:
        sl.load(folder, device="cpu")
    except sl.SteerlibError as error:
        print(error)
"""
    folders = [str(tmp_path / kind) for kind in eyes]
    done = subprocess.run([sys.executable, "-c", code, *folders], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(eyes)
    for line in lines:
        assert re.search(r"needs the package torchvision.*: run `pip install 'steerlib\[vision\]'`\.$", line), line


# ---- a model that is in memory


def test_wrapping_is_loading(llama: Path) -> None:
    hf = tf.AutoModelForCausalLM.from_pretrained(llama)
    wrapped, loaded = wrap(hf, tf.AutoTokenizer.from_pretrained(llama), name="x"), load(llama, device="cpu")
    assert wrapped.hf is hf and wrapped.name == "x" and wrap(hf, loaded.tokenizer).name == str(llama)
    assert torch.equal(wrapped.choose(PROMPTS, OPTIONS), loaded.choose(PROMPTS, OPTIONS))
    assert weights_hash(wrapped) == weights_hash(loaded)


def test_a_model_in_training_is_put_into_evaluation_mode_and_frozen() -> None:
    hf = tiny.fresh("gpt2").hf.train().requires_grad_(True)  # it has dropout
    lm = wrap(hf, tiny.tokenizer())
    assert not hf.training and not any(weight.requires_grad for weight in hf.parameters())
    assert torch.equal(lm.choose(PROMPTS, OPTIONS), tiny.model("gpt2").choose(PROMPTS, OPTIONS))


@pytest.mark.parametrize("lacks", ["pad", "pad and eos", "all", "a pad that the network knows"])
def test_a_tokenizer_gets_padding_that_the_network_knows_and_is_itself_left_alone(lacks: str, llama: Path) -> None:
    given = tf.AutoTokenizer.from_pretrained(llama)
    gone = {"pad": ["pad"], "pad and eos": ["pad", "eos"], "all": ["pad", "eos", "bos"]}
    for token in gone.get(lacks, []):
        setattr(given, f"{token}_token", None)
    if lacks.startswith("a pad"):
        given.add_special_tokens({"pad_token": "[PAD]"})  # a fine-tune that forgot to resize
        assert given.pad_token_id == tiny.model("llama").hf.config.vocab_size
    given.padding_side = "right"
    before = (given.pad_token, given.padding_side, len(given))
    lm = wrap(tiny.model("llama").hf, given)
    assert (given.pad_token, given.padding_side, len(given)) == before
    assert lm.tokenizer.padding_side == "left" and 0 <= lm.tokenizer.pad_token_id < lm.hf.config.vocab_size
    torch.testing.assert_close(
        lm.choose(PROMPTS, OPTIONS), tiny.model("llama").choose(PROMPTS, OPTIONS), atol=1e-5, rtol=1e-3
    )


def test_a_processor_is_left_alone_too() -> None:
    processor = tiny.seeing().processor
    processor.tokenizer.padding_side = "right"
    try:
        lm = wrap(tiny.model("llava").hf, processor)
        assert processor.tokenizer.padding_side == "right"
    finally:
        processor.tokenizer.padding_side = "left"
    assert lm.processor.tokenizer is lm.tokenizer and lm.tokenizer.padding_side == "left"
    prompt = sl.chat("Who is it?", "The", pictures=tiny.picture())
    assert torch.equal(lm.choose(prompt, OPTIONS), tiny.seeing().choose(prompt, OPTIONS))


@pytest.mark.parametrize(
    "given", [None, "a text", 3, object(), nn.Linear(2, 2)], ids=lambda given: type(given).__name__
)
def test_what_is_no_model_or_no_tokenizer_is_refused(given: Any) -> None:
    with pytest.raises(SteerlibError, match="cannot be wrapped: give a model of transformers") as error:
        wrap(given, tiny.tokenizer())
    sentence(error)
    with pytest.raises(SteerlibError, match="needs its tokenizer, or its processor if it sees") as error:
        wrap(tiny.model("llama").hf, given)
    sentence(error)


def test_weights_that_are_nowhere_are_refused() -> None:
    with torch.device("meta"):
        hf = tf.AutoModelForCausalLM.from_config(tiny.text_config("llama"))
    with pytest.raises(SteerlibError, match="has no values for model.embed_tokens.weight") as error:
        wrap(hf, tiny.tokenizer())
    sentence(error)


# ---- adapters


def tuned(seed: int = 3, **how: Any) -> Any:
    """A PeftModel on the tiny Llama, with an update that changes every answer."""
    peft = pytest.importorskip("peft")
    settings = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **how}
    made = peft.get_peft_model(tiny.fresh("llama").hf, peft.LoraConfig(**settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.copy_(0.5 * torch.randn_like(weight))
    return made.eval()


def test_an_adapter_on_top_is_what_peft_makes_of_it_however_it_comes(llama: Path, tmp_path: Path) -> None:
    made = tuned()
    made.peft_config["default"].base_model_name_or_path = str(llama)
    made.save_pretrained(tmp_path / "adapter")
    with torch.inference_mode():
        batch = tiny.model("llama").batch([tiny.model("llama").tokens(text) for text in PROMPTS])
        expected = made(**batch).logits
    base = tf.AutoModelForCausalLM.from_pretrained(llama)
    models = {
        "on top of a folder": load(llama, device="cpu", adapter=tmp_path / "adapter"),
        "by its own name": load(tmp_path / "adapter", device="cpu"),
        "on top of a model in memory": wrap(base, tiny.tokenizer(), adapter=tmp_path / "adapter"),
        "live": wrap(made, tiny.tokenizer()),
    }
    for how, lm in models.items():
        torch.testing.assert_close(tiny.logits(lm), expected, msg=how)
        assert (tiny.logits(lm) - tiny.logits(tiny.model("llama"))).abs().max() > 0.1
        assert type(lm.hf) is type(tiny.model("llama").hf) and not lm.hf.training
        assert not any(weight.requires_grad for weight in lm.hf.parameters())
        assert weights_hash(lm) == weights_hash(models["live"]) != weights_hash(tiny.model("llama"))
    with made.disable_adapter():
        torch.testing.assert_close(tiny.logits(models["live"]), tiny.logits(tiny.model("llama")))


def test_a_model_with_an_adapter_is_steered_as_the_merged_one(tmp_path: Path) -> None:
    made = tuned()
    live = wrap(made, tiny.tokenizer())
    steering = sl.contrastive(live, PROMPTS[:2], PROMPTS[2:], layers=1, progress=False)
    with sl.steer(live, steering):
        got = live.choose(PROMPTS, OPTIONS), live.generate(PROMPTS, max_new_tokens=4)
    merged = wrap(tuned().merge_and_unload(), tiny.tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other weights of the same shapes, as it should say
        with sl.steer(merged, steering):
            torch.testing.assert_close(got[0], merged.choose(PROMPTS, OPTIONS), atol=1e-4, rtol=1e-3)
            assert got[1] == merged.generate(PROMPTS, max_new_tokens=4)


def test_an_adapter_with_words_of_its_own_brings_its_tokenizer(llama: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    hf, words = tf.AutoModelForCausalLM.from_pretrained(llama), tf.AutoTokenizer.from_pretrained(llama)
    words.add_tokens(["<mine>"], special_tokens=True)
    hf.resize_token_embeddings(len(words))
    made = peft.get_peft_model(hf, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    made.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    words.save_pretrained(tmp_path / "adapter")
    text = "The <mine> said"
    lm = load(tmp_path / "adapter", device="cpu")
    assert lm.tokens(text) == words(text)["input_ids"] and len(words) - 1 in lm.tokens(text)
    with torch.inference_mode():
        expected = made.eval()(torch.tensor([lm.tokens(text)])).logits
    torch.testing.assert_close(tiny.logits(lm, [text]), expected)


@pytest.mark.parametrize("other", ["shallower", "deeper", "wider", "of another family"])
def test_an_adapter_for_another_base_is_refused(other: str, tmp_path: Path) -> None:
    tuned().save_pretrained(tmp_path / "adapter")
    config = tiny.text_config("gpt2" if "family" in other else "llama")
    if other in ("shallower", "deeper"):
        config.num_hidden_layers = {"shallower": 2, "deeper": 4}[other]
    if other == "wider":
        config.hidden_size = 64
    hf = tf.AutoModelForCausalLM.from_config(config)
    with pytest.raises(SteerlibError, match="the adapter '.*' was made for another model than 'mine'") as error:
        wrap(hf, tiny.tokenizer(), name="mine", adapter=tmp_path / "adapter")
    sentence(error)


def test_an_adapter_of_a_base_that_is_not_here_says_how_to_load_it(tmp_path: Path) -> None:
    made = tuned()
    made.peft_config["default"].base_model_name_or_path = "/home/somebody/llama"
    made.save_pretrained(tmp_path)
    with pytest.raises(
        SteerlibError, match="PEFT adapter of '/home/somebody/llama', which is not here: .*adapter="
    ) as error:
        load(tmp_path, device="cpu")
    sentence(error)


def test_a_folder_that_is_no_adapter_is_refused(llama: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(
        SteerlibError, match="is not a PEFT adapter as safetensors: it lacks adapter_config.json"
    ) as error:
        load(llama, device="cpu", adapter=llama)
    sentence(error)


def test_an_adapter_that_puts_tokens_before_the_prompt_is_refused() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    made = peft.get_peft_model(tiny.fresh("llama").hf, settings)
    with pytest.raises(SteerlibError, match="tokens of its own before every prompt") as error:
        wrap(made, tiny.tokenizer())
    sentence(error)


# ---- weights that are not plain numbers on one device


class Closed(Tensor):
    """A weight that runs like a plain one and that nobody can look into, as those of some quantised formats."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.view, Tensor.reshape, Tensor.numpy, Tensor.bfloat16):
            raise NotImplementedError(f"{func} is not there for a Closed")
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        return made.as_subclass(cls) if func is Tensor.detach else made


def closed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone().as_subclass(Closed), requires_grad=False)


def test_a_weight_that_nobody_can_look_into_does_not_end_the_work_of_a_method() -> None:
    lm = tiny.fresh("llama")
    expected = lm.choose(PROMPTS, OPTIONS)
    for block in lm.hf.model.layers:
        block.mlp.down_proj._parameters["weight"] = closed(block.mlp.down_proj.weight)
    assert torch.equal(lm.choose(PROMPTS, OPTIONS), expected)
    found = weights_hash(lm)
    assert found.startswith("partial:") and weights_hash(lm) == found
    made = sl.contrastive(lm, PROMPTS[:2], PROMPTS[2:], layers=1, progress=False)
    assert made.provenance["weights"] == found
    lm.hf.model.embed_tokens.weight.mul_(1.1)
    assert weights_hash(lm) != found  # what can be read still counts


@pytest.mark.parametrize(
    "kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8, torch.int8, torch.int32, torch.bool]
)
def test_weights_of_every_type_are_hashed(kind: torch.dtype) -> None:
    lm = tiny.fresh("llama")
    hashes = set()
    for value in (0, 1):
        lm.hf.register_buffer("stored", torch.full((4, 6), value).to(kind))
        hashes.add(weights_hash(lm))
    assert len(hashes) == 2


def test_weights_on_the_disk_are_read_where_they_lie(llama: Path, tmp_path: Path) -> None:
    plain = load(llama, device="cpu")
    parts = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
    spread = load(
        llama,
        device_map=parts | {"model.layers.1": "disk", "model.layers.2": "disk"},
        offload_folder=str(tmp_path / "off"),
    )
    assert any(weight.device.type == "meta" for weight in spread.hf.parameters())
    assert spread.device.type == "cpu"
    assert weights_hash(spread) == weights_hash(plain)
    assert torch.equal(spread.choose(PROMPTS, OPTIONS), plain.choose(PROMPTS, OPTIONS))
    made = [sl.contrastive(lm, PROMPTS[:2], PROMPTS[2:], layers=2, progress=False) for lm in (spread, plain)]
    for key in ("weights", "architecture"):
        assert made[0].provenance[key] == made[1].provenance[key]
    with sl.steer(spread, made[0]), sl.steer(plain, made[1]):
        torch.testing.assert_close(spread.choose(PROMPTS, OPTIONS), plain.choose(PROMPTS, OPTIONS))


def test_a_model_that_begins_on_the_disk_is_asked_where_it_runs(llama: Path, tmp_path: Path) -> None:
    lm = load(llama, device_map={"model": "disk", "lm_head": "cpu"}, offload_folder=str(tmp_path / "off"))
    assert lm.hf.get_input_embeddings().weight.device.type == "meta" and lm.device.type != "meta"
    assert torch.equal(lm.choose(PROMPTS, OPTIONS), load(llama, device="cpu").choose(PROMPTS, OPTIONS))


def test_a_sharded_folder_is_the_same_model(tmp_path: Path) -> None:
    hf = tiny.model("llama").hf
    hf.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    lm = load(tmp_path, device="cpu")
    assert weights_hash(lm) == weights_hash(tiny.model("llama"))
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(SteerlibError) as error:
        load(tmp_path, device="cpu")
    sentence(error)


QUANTISED = """
import sys, warnings, torch, tiny, steerlib as sl
from steerlib.models.model import weights_hash
kind, folder = sys.argv[1:]
if kind == "torchao":
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig
    config = TorchAoConfig(Int8WeightOnlyConfig())
else:
    from transformers import BitsAndBytesConfig
    config = BitsAndBytesConfig(**{kind: True}, llm_int8_threshold=0.0)
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    lm = sl.load(folder, device="cpu", quantization_config=config)
before = weights_hash(lm)
lm.choose(tiny.PROMPTS, [" a", " b"])
assert before.startswith("quantised:") and weights_hash(lm) == before, before
plain = sl.load(folder, device="cpu")
assert weights_hash(plain) != before and ":" not in weights_hash(plain)
made = sl.contrastive(lm, tiny.PROMPTS[:2], tiny.PROMPTS[2:], layers=1, progress=False)
assert made.provenance["weights"] == before
with warnings.catch_warnings():
    warnings.simplefilter("error")
    with sl.steer(lm, made):
        lm.choose(tiny.PROMPTS, [" a", " b"])
print("fine")
"""


@pytest.mark.parametrize("kind", ["torchao", "load_in_8bit", "load_in_4bit"])
def test_quantised_weights_are_hashed_as_they_are_stored(kind: str, llama: Path) -> None:
    package = pytest.importorskip("torchao" if kind == "torchao" else "bitsandbytes")
    assert package
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-c", QUANTISED, kind, str(llama)],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert ran.stdout.split()[-1:] == ["fine"], ran.stderr[-2000:]


def test_a_quantised_model_whose_batches_mix_is_warned_of_and_a_plain_one_is_refused() -> None:
    lm = tiny.fresh("llama")

    def mixes(module: Any, args: Any, out: Any) -> Any:
        return out + 0.5 * out.mean(0, keepdim=True) * (len(out) > 1)  # as columns that are chosen by the whole batch

    handle = lm.hf.model.layers[1].mlp.register_forward_hook(mixes)
    try:
        with pytest.raises(SteerlibError, match="cannot be used: a prompt in a padded batch") as error:
            wrap(lm.hf, lm.tokenizer)
        sentence(error)
        assert wrap(lm.hf, lm.tokenizer, check=False).hf is lm.hf
        lm.hf.is_quantized = True
        with pytest.warns(UserWarning, match="the prompts of a batch change one another's answers: .*batch_size=1"):
            wrap(lm.hf, lm.tokenizer)
    finally:
        handle.remove()


# ---- what a loader says


def test_what_transformers_warns_of_comes_once_as_a_python_warning(
    llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = tf.LlamaForCausalLM.__init__
    logger = logging.getLogger("transformers.models.llama")

    def noisy(self: Any, config: Any) -> None:
        for _ in range(3):
            logger.warning("this family is\nexperimental")
        plain(self, config)

    tf.LlamaForCausalLM.__init__ = noisy  # type: ignore[method-assign]
    try:
        with pytest.warns(UserWarning) as said:
            load(llama, device="cpu")
    finally:
        tf.LlamaForCausalLM.__init__ = plain  # type: ignore[method-assign]
    (one,) = [str(w.message) for w in said]
    assert one.endswith("transformers said: this family is experimental") and said[0].filename == __file__
    assert "experimental" not in "".join(capfd.readouterr())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(llama, device="cpu")


def test_what_others_say_meanwhile_is_not_put_into_the_mouth_of_transformers() -> None:
    """A handler may serve several packages; each keeps its own warnings."""
    printed: list[str] = []

    class Shared(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            printed.append(record.getMessage())

    shared, names = Shared(), ("transformers", "traitlets", "huggingface_hub")
    for name in names:
        logging.getLogger(name).addHandler(shared)
    try:
        with listening() as notes:
            logging.getLogger("traitlets").warning("a kernel is gone")
            logging.getLogger("transformers_of_somebody").warning("unheard")
            logging.getLogger("transformers.models.llama").warning("an old file")
            logging.getLogger("huggingface_hub.file_download").warning("once more")
    finally:
        for name in names:
            logging.getLogger(name).removeHandler(shared)
    assert set(notes) == {"an old file"} and printed == ["a kernel is gone"]  # every handler hears a note


def test_listening_leaves_everything_as_it_was() -> None:
    handlers = [h for name in ("transformers", "huggingface_hub") for h in logging.getLogger(name).handlers]
    before = [list(handler.filters) for handler in handlers]
    with pytest.raises(KeyError), listening():
        raise KeyError
    assert [list(handler.filters) for handler in handlers] == before


# ---- a hub, played by a server of our own


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub, and what was asked of it.

    o/gated is gated, o/busy answers 503, o/tiny and its adapter o/lora are folders here, and everything else is unknown.
    """
    asked: list[str] = []
    save(tiny.model("llama").hf, tmp_path / "o" / "tiny")
    made = tuned()
    made.peft_config["default"].base_model_name_or_path = "o/tiny"
    made.save_pretrained(tmp_path / "o" / "lora")

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = self.answer()
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def answer(self) -> tuple[int, dict[str, str], bytes]:
            if "gated" in self.path:
                return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to o/gated is restricted."}, b""
            if "busy" in self.path:
                return 503, {}, b""
            if found := re.fullmatch(r"/api/models/(o/(?:tiny|lora))(?:/revision/\w+)?(?:\?.*)?", self.path):
                files = [{"rfilename": path.name} for path in (tmp_path / found[1]).iterdir()]
                about = {"_id": "1", "id": found[1], "modelId": found[1], "sha": COMMIT, "siblings": files}
                return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
            if found := re.fullmatch(r"/(o/(?:tiny|lora))/resolve/(?:main|v1|\w{40})/([\w./-]+)(?:\?.*)?", self.path):
                path = tmp_path / found[1] / found[2]
                if path.is_file():
                    body = path.read_bytes()
                    return 200, {"ETag": f'"{len(body)}-{path.name}"', "X-Repo-Commit": COMMIT}, body
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
            if "/o/tiny" in self.path or "/o/lora" in self.path:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


REFUSED = {
    "o/gated": "it is gated: ask for access at .*o/gated.*hf auth login",
    "o/unknown": "no such model, or it is private.*hf auth login",
    "nothing-of-ours": "no such model.*known are smollm2",
    "o/busy": "the hub does not answer",
}

ASK = """
import sys, time
time.sleep = lambda seconds: None  # between two tries
import steerlib as sl
from steerlib.steering.operations import provenance
for name in sys.argv[1:]:
    try:
        lm = sl.load(name, device="cpu")
    except sl.SteerlibError as error:
        print(error)
    else:
        made = provenance(lm, "by hand")
        print(name, made["model"], made["commit"], made["weights"])
"""


def test_a_hub_is_read_and_what_it_refuses_is_one_sentence_with_what_to_do(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    """In a process of its own, because huggingface_hub reads its settings when it is imported."""
    address, asked = hub
    settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    given = {"o/tiny": "o/tiny", f"{address}/o/tiny/tree/v1": "o/tiny", "o/lora": "o/lora"}
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", ASK, *REFUSED, *given],
        capture_output=True,
        check=False,
        text=True,
        env={key: value for key, value in os.environ.items() if "proxy" not in key.lower()} | settings,
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == len(REFUSED) + len(given), ran.stderr[-2000:]
    for line, (name, says) in zip(lines, REFUSED.items(), strict=False):
        assert f"'{name}'" in line and re.search(says, line) and line.endswith("."), line
        assert any(name in path for path in asked)
    plain, changed = weights_hash(tiny.model("llama")), weights_hash(wrap(tuned(), tiny.tokenizer()))
    for line, (name, called) in zip(lines[len(REFUSED) :], given.items(), strict=True):
        assert line.split() == [name, called, COMMIT, changed if "lora" in name else plain]
    assert any("/o/tiny/resolve/v1/" in path or "/o/tiny/revision/v1" in path for path in asked)
    assert "retry" not in ran.stderr.lower(), ran.stderr


def test_a_model_that_takes_pictures_and_is_read_as_text_says_so(tmp_path: Path) -> None:
    text = tiny.text_config("llama").to_dict() | {"vocab_size": len(tiny.tokenizer())}
    config = tf.FuyuConfig(
        text_config=text | {"model_type": "persimmon"}, **{k: text[k] for k in ("vocab_size", "hidden_size")}
    )
    config.num_hidden_layers = 2
    config.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with (
        pytest.warns(
            UserWarning, match=r"takes pictures too, but its family \(fuyu\) is one that steerlib reads as text only"
        ),
        pytest.raises(SteerlibError),
    ):  # it has no weights here
        load(tmp_path, device="cpu")


def test_a_hand_made_model_has_no_switches() -> None:
    assert dict(Model("x", tiny.model("llama").hf, tiny.tokenizer()).template) == {}
