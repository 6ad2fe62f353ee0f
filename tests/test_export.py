"""What leaves the library is whole, is loaded by others without steerlib, and gives the logits that hooks gave."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gguf
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_merge import affine, make, model
from torch import Tensor, nn

import steerlib as sl
from steerlib.deploy.engines import hook_factory, sglang_hooks
from steerlib.deploy.gguf import save_control_vector
from steerlib.deploy.save import push_to_hub, save, whole_file
from steerlib.models.holds import difference, logits, probes
from steerlib.models.model import Model
from steerlib.models.sites import sites

CARD = "# A test"
ESTIMATE = sl.Estimate(0.4, 0.3, 0.5, 20)

ALONE = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
assert "steerlib" not in sys.modules
transformers.utils.logging.set_verbosity_error()
folder, adapter, given, out = sys.argv[1:]
ids = load_file(given)["ids"]
kind = transformers.AutoModelForImageTextToText if "llava" in folder else transformers.AutoModelForCausalLM
model = kind.from_pretrained(folder)
transformers.AutoTokenizer.from_pretrained(folder)
if adapter:
    import peft
    model = peft.PeftModel.from_pretrained(model, adapter)
with torch.no_grad():
    save_file({"logits": model.eval()(input_ids=ids).logits}, out)
assert "steerlib" not in sys.modules
"""


def loaded_alone(folder: Path, ids: Tensor, adapter: Path | None = None) -> Tensor:
    """The logits that a fresh process gets from a folder, with transformers (and peft) and without steerlib."""
    given, out = folder.with_suffix(".ids"), folder.with_suffix(".out")
    save_file({"ids": ids}, str(given))
    command = [sys.executable, "-c", ALONE, str(folder), str(adapter or ""), str(given), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder.parent, env=CLEAN)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(str(out))["logits"]


CLEAN = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": "", "HOME": "/tmp"}


def steered(lm: Model, steering: sl.Steering, strength: float) -> Tensor:
    with sl.steer(lm, steering, strength):
        return logits(lm.hf)


# Checkpoints


@pytest.mark.parametrize("family", ["llama-tied", "phi3", "gemma3_text", "gpt2", "llava"])
def test_a_fresh_process_without_steerlib_gets_the_steered_logits(family: str, tmp_path: Path) -> None:
    lm = tiny.fresh("llava") if family == "llava" else model(family)
    steering = make(lm, "scale") if family == "gemma3_text" else make(lm, "attention") + make(lm, "add")
    merged = sl.merge(lm, steering, 0.5)
    folder = save(merged, tmp_path / family, card=CARD)
    off = difference(loaded_alone(folder, probes(lm.hf)), steered(lm, steering, 0.5))
    assert off < 1e-5
    stored = json.loads((folder / "config.json").read_text())
    assert stored["steering"]["strength"] == 0.5 and (folder / "README.md").read_text() == CARD
    again = sl.load(str(folder), device="cpu")
    assert difference(logits(again.hf, probes(lm.hf)), logits(merged.hf, probes(lm.hf))) < 1e-6


@pytest.mark.parametrize("moment", ["weights", "tokenizer", "card", "move"])
def test_a_disk_that_fills_up_leaves_nothing_behind(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model("llama")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target, name = {
        "weights": (type(lm.hf), "save_pretrained"),
        "tokenizer": (type(lm.tokenizer), "save_pretrained"),
        "card": (Path, "write_text"),
        "move": (sys.modules["steerlib.deploy.save"].os, "replace"),
    }[moment]
    monkeypatch.setattr(target, name, full)
    with pytest.raises(sl.SteerlibError, match=r"cannot be written \(.*No space left on device\)"):
        save(lm, tmp_path / "model", card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_never_touched(tmp_path: Path) -> None:
    lm = model("llama")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("mine")
    with pytest.raises(sl.SteerlibError, match="is there already"):
        save(lm, tmp_path / "model", card=CARD)
    with pytest.raises(sl.SteerlibError, match="name a new one in a folder that exists"):
        save(lm, tmp_path / "no" / "model", card=CARD)
    with pytest.raises(sl.SteerlibError, match="needs a card"):
        save(lm, tmp_path / "other", card=" ")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine"]


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(file) as scratch:
        scratch.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    with whole_file(file) as scratch:
        scratch.write_text("new")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


class FakeApi:
    """A hub that notes what it is asked for."""

    calls: ClassVar[list[tuple[str, Any]]] = []
    error: ClassVar[OSError | None] = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", (repo_id, private, exist_ok)))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        if self.error:
            raise self.error
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload", (repo_id, names, (Path(folder_path) / "README.md").read_text())))
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    return FakeApi


def test_a_model_is_uploaded_whole_with_its_card_in_one_commit(hub: type[FakeApi]) -> None:
    assert push_to_hub(model("llama"), "me/fair", card=CARD) == "https://hub/me/fair/commit/1"
    (created, (made, private, exist_ok)), (uploaded, (repository, names, readme)) = hub.calls
    assert (created, made, private, exist_ok) == ("create", "me/fair", True, True)
    assert (uploaded, repository, readme) == ("upload", "me/fair", CARD)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(names)


def test_what_the_hub_refuses_is_said_in_a_sentence(hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "error", OSError("401 Client Error"))
    with pytest.raises(sl.SteerlibError, match=r"'me/fair' was not uploaded \(401 Client Error\)"):
        push_to_hub(model("llama"), "me/fair", card=CARD)
    hub.calls.clear()
    for wrong in ("fair", "me/", "me/my fair", "a/b/c"):
        with pytest.raises(sl.SteerlibError, match="write owner/name"):
            push_to_hub(model("llama"), wrong, card=CARD)
    assert hub.calls == []


# The card


def card(**changes: Any) -> str:
    steering = sl.Steering(
        {"residual.1": sl.Add(torch.ones(32))}, {"method": "dso", "model": "me/base", "history": [1]}
    )
    said: dict[str, Any] = {
        "before": {"bias": ESTIMATE},
        "after": {"bias": sl.Estimate(0.1, float("nan"), float("nan"), 2)},
        "data": "Twenty occupations.",
        "limits": ["English only."],
        "misuse": ["Do not hire by it."],
    }
    return sl.deploy.model_card("Fair", steering, 0.4, **{**said, **changes})


def test_a_card_says_bias_with_intervals_strength_data_limits_and_misuse() -> None:
    text = card(license="apache-2.0")
    assert "| bias | 0.400 [0.300, 0.500] | 0.100, no interval (n = 2) | 2 |" in text
    for part in (
        "at strength 0.4",
        "Twenty occupations.",
        "- English only.",
        "- Do not hire by it.",
        '"method": "dso"',
    ):
        assert part in text
    head = text.split("---")[1].strip().splitlines()
    assert head[:2] == ['base_model: "me/base"', 'license: "apache-2.0"'] and "history" not in text


def test_a_card_takes_what_evaluations_return() -> None:
    lm = tiny.model("llama")
    from helpers import letters

    bias = sl.decision_bias(lm, letters())
    text = card(before=bias, after=bias)
    assert f"| per occupation bias | {bias.per_occupation_bias} | {bias.per_occupation_bias} |" in text
    assert "| bias | 0.400" in card(before=ESTIMATE, after=ESTIMATE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"after": {"gap": ESTIMATE}}, "the same numbers before and after, not bias with gap"),
        ({"before": {}, "after": {}}, "not none with none"),
        ({"before": 0.4}, "not float"),
        ({"limits": []}, "limits must be a list of sentences"),
        ({"misuse": "none"}, "misuse must be a list of sentences"),
        ({"data": " "}, "data must say"),
    ],
)
def test_a_card_without_what_it_is_for_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(sl.SteerlibError, match=said):
        card(**changes)


# Adapters


def everything(lm: Model) -> sl.Steering:
    """Factors and shifts at every norm, the final one included, vectors at blocks, and ablated heads."""
    return affine(sites(lm.hf, "norm")) + make(lm, "add") + make(lm, "no head reads")


@pytest.mark.parametrize("family", ["llama-tied", "qwen2", "mistral-window", "gpt2"])
def test_plain_peft_gets_the_steered_logits_from_an_adapter_final_shift_included(family: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lm = model(family)
    before = tiny.weights(lm.hf)
    base = save(lm, tmp_path / "base", card=CARD)
    adapter = sl.deploy.save_adapter(lm, everything(lm), tmp_path / "adapter", 0.5, base=str(base))
    assert difference(loaded_alone(base, probes(lm.hf), adapter), steered(lm, everything(lm), 0.5)) < 1e-5
    assert tiny.same_weights(lm.hf, before) and tiny.hooks(lm.hf) == []
    with pytest.raises(sl.SteerlibError):
        sl.merge(lm, everything(lm), 0.5) if family != "gpt2" else sl.merge(model("gemma"), make(lm, "mlp"))


def test_an_adapter_of_factors_alone_needs_no_shift(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lm = model("gemma3_text")
    steering = make(lm, "scale")
    base = save(lm, tmp_path / "base", card=CARD)
    adapter = sl.deploy.save_adapter(lm, steering, tmp_path / "adapter", 0.5, card="# Mine")
    assert difference(loaded_alone(base, probes(lm.hf), adapter), steered(lm, steering, 0.5)) < 1e-5
    assert (adapter / "README.md").read_text() == "# Mine"


@pytest.mark.parametrize(
    ("family", "kind"), [("gemma3_text", "mlp"), ("olmo2", "attention"), ("qwen3_moe", "mlp"), ("llama", "ablate")]
)
def test_an_adapter_that_would_not_be_exact_is_refused_and_leaves_nothing(
    family: str, kind: str, tmp_path: Path
) -> None:
    lm = model(family)
    with pytest.raises(sl.SteerlibError, match=r"hooks\.$"):
        sl.deploy.save_adapter(lm, make(lm, kind), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_adapters_at_strength_zero_or_with_factors_inside_heads_are_refused(tmp_path: Path) -> None:
    lm = model("llama")
    with pytest.raises(sl.SteerlibError, match="at strength 0"):
        sl.deploy.save_adapter(lm, make(lm, "add"), tmp_path / "adapter", 0.0)
    head = sl.Steering({"head.1.0": sl.Affine(torch.ones(8), torch.zeros(8))})
    with pytest.raises(sl.SteerlibError, match="merge instead"):
        sl.deploy.save_adapter(lm, head, tmp_path / "adapter")


# Control vectors


def test_a_control_vector_reads_back_as_it_was_written(tmp_path: Path) -> None:
    lm = model("llama")
    steering = sl.Steering(
        {"residual.1": sl.Add(tiny.vector(1)), "residual.2": sl.Affine(torch.zeros(32), tiny.vector(2))}
    )
    file = save_control_vector(lm, steering, tmp_path / "vector.gguf", 0.5)
    read = gguf.GGUFReader(file)
    facts = {name: field.contents() for name, field in read.fields.items() if not name.startswith("GGUF.")}
    assert facts == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "llama",
        "controlvector.layer_count": 2,
    }
    stored = {tensor.name: tensor for tensor in read.tensors}
    assert list(stored) == ["direction.1", "direction.2"]
    for i, tensor in enumerate(stored.values(), start=1):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        np.testing.assert_array_equal(tensor.data, (0.5 * tiny.vector(i)).numpy())
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("site", "operation", "said"),
    [
        ("residual.0", sl.Add(torch.ones(32)), "no control vector for block 0"),
        ("residual.1", sl.Ablate(torch.ones(32)), "residual.1 holds Ablate: merge it"),
        ("residual.1", sl.Affine(torch.ones(32), torch.ones(32)), "residual.1 holds Affine"),
        ("norm.final", sl.Add(torch.ones(32)), "norm.final holds Add"),
        ("residual.9", sl.Add(torch.ones(32)), "does not exist"),
    ],
)
def test_what_a_control_vector_cannot_do_is_refused_and_leaves_no_file(
    site: str, operation: sl.Add, said: str, tmp_path: Path
) -> None:
    with pytest.raises(sl.SteerlibError, match=said):
        save_control_vector(model("llama"), sl.Steering({site: operation}), tmp_path / "vector.gguf")
    assert list(tmp_path.iterdir()) == []


# SGLang


class Norm(nn.Module):
    """As SGLang's: handed a residual it returns two, and adds first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        whole = x if residual is None else x + residual
        normed = whole * torch.rsqrt(whole.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        return normed if residual is None else (normed, whole)


class Block(nn.Module):
    """As SGLang's: it returns its last output and the residual, not their sum."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(1 + tiny.vector(seed))
        self.map = nn.Linear(32, 32)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        h, residual = (self.input_layernorm(x), x) if residual is None else self.input_layernorm(x, residual)
        return self.map(h).tanh(), residual


class Served(nn.Module):
    """A decoder that passes sums on late, as SGLang's do, and the same one that adds at once, as transformers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([Block(i) for i in range(3)])
        self.model.norm = Norm(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        residual = None
        for block in self.model.layers:
            x, residual = block(x, residual)
        return self.model.norm(x, residual)[0]

    def at_once(self, x: Tensor, steering: sl.Steering, strength: float) -> Tensor:
        def op(site: str, h: Tensor) -> Tensor:
            found = steering.operations.get(sl.models.sites.parse(site))
            return h if found is None else found(h, strength)

        for i, block in enumerate(self.model.layers):
            x = op(f"residual.{i}", x + block.map(op(f"norm.{i}.input_layernorm", block.input_layernorm(x))).tanh())
        return op("norm.final", self.model.norm(x))


@contextmanager
def hung(served: nn.Module, specs: list[dict[str, Any]]) -> Iterator[None]:
    """Hooks as SGLang registers them: by the pattern of a name, from a factory by its path."""
    import fnmatch
    import importlib

    handles = []
    for spec in specs:
        module, _, name = spec["hook_factory"].partition(":")
        hook = getattr(importlib.import_module(module), name)(json.loads(json.dumps(spec["config"])))
        found = [m for n, m in served.named_modules() if any(fnmatch.fnmatch(n, t) for t in spec["target_modules"])]
        assert len(found) == 1
        handles += [m.register_forward_hook(hook) for m in found]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kind", ["affine", "add", "ablate"])
def test_hooks_of_sglang_do_what_the_steering_does(kind: str, tmp_path: Path) -> None:
    lm = model("llama")
    where = ["norm.0.input_layernorm", "norm.2.input_layernorm", "norm.final", "residual.0", "residual.2"]
    made = {
        "affine": lambda i: sl.Affine(tiny.vector(i), tiny.vector(9 + i)),
        "add": lambda i: sl.Add(tiny.vector(i)),
        "ablate": lambda i: sl.Ablate(tiny.vector(i), tiny.vector(9 + i)),
    }[kind]
    steering = sl.Steering({site: made(i) for i, site in enumerate(where)})
    steering.save(tmp_path / "steering.safetensors")
    torch.manual_seed(0)
    served, x = Served().requires_grad_(False), torch.randn(5, 32)
    plain = served(x)
    with hung(served, sglang_hooks(lm, tmp_path / "steering.safetensors", 0.5)):
        got = served(x)
    torch.testing.assert_close(got, served.at_once(x, steering, 0.5), atol=1e-5, rtol=1e-5)
    assert difference(got, plain) > 1e-2 and torch.equal(served(x), plain)


def test_hooks_name_modules_below_the_decoder_that_the_server_has(tmp_path: Path) -> None:
    lm = tiny.model("llava")
    file = tmp_path / "steering.safetensors"
    sl.Steering({"residual.1": sl.Add(torch.ones(32))}).save(file)
    (spec,) = sglang_hooks(lm, file, decoder="language_model.model")
    assert spec["target_modules"] == ["language_model.model.layers.1"]
    sl.Steering({"head.1.0": sl.Add(torch.ones(8))}).save(file)
    with pytest.raises(sl.SteerlibError, match="is a head"):
        sglang_hooks(lm, file)
    with pytest.raises(sl.SteerlibError, match="lacks site, strength"):
        hook_factory({"file": str(file)})
