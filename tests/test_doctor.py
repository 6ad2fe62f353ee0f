"""`doctor` finds what is wrong with a model, and says that nothing is where nothing is."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import sighted
import tiny
import torch
from transformers import LlamaForCausalLM

import steerlib as sl
from steerlib.__main__ import main
from steerlib.models.sites import blocks


def verdicts(lm: sl.Model) -> dict[str, str]:
    return sl.doctor(lm).table()["verdict"].to_dict()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nothing_is_wrong_with_the_families_that_the_tests_use(family: str) -> None:
    found = sl.doctor(tiny.model(family))
    assert found.healthy, found
    assert set(found.table().loc[["padding", "cache", "steering", "scopes", "norms"], "verdict"]) == {"works"}


def test_a_model_that_sees_is_asked_with_pictures() -> None:
    found = sl.doctor(tiny.seeing())
    assert found.healthy, found
    assert found.table().loc["pictures", "verdict"] == "works"


def test_blocks_that_only_pictures_pass_are_left_out_and_named() -> None:
    """Blocks 1 and 3 of this Llama 3.2 Vision are cross-attentions to pictures."""
    found = sl.doctor(sighted.model("mllama")).table()
    assert set(found["verdict"]) == {"works"}, found
    for check in ("activations", "steering", "gradients"):
        assert found.loc[check, "found"].endswith("; a text does not pass block 1, 3")
    assert "a push after block 0, 2 does" in found.loc["steering", "found"]


def test_a_norm_that_gradients_do_not_reach_is_found() -> None:
    lm = tiny.fresh("llama")
    blocks(lm.hf)[1].mlp.register_forward_hook(lambda module, args, output: output.detach())
    found = sl.doctor(lm).table().loc["gradients"]
    assert found["verdict"] == "wrong" and "norm.1.post_attention_layernorm" in found["found"]


def test_a_model_without_a_chat_template_is_shown_pictures_in_plain_text() -> None:
    found = sl.doctor(sighted.model("paligemma")).table()
    assert found.loc["pictures", "verdict"] == "works" and found.loc["chat template", "verdict"] == "absent"


def test_norms_without_weights_are_no_trouble() -> None:
    found = sl.doctor(families.model("olmo")).table()
    assert found.loc["merging", "found"] == "weights can hold the scale of 0 and the shift of 3 of 7 norms"


def test_after_the_doctor_the_model_is_as_before() -> None:
    lm = tiny.model("llama")
    before, logits = tiny.weights(lm.hf), tiny.logits(lm)
    sl.doctor(lm)
    assert tiny.same_weights(lm.hf, before) and torch.equal(tiny.logits(lm), logits) and not tiny.hooks(lm.hf)


def test_a_network_that_reads_padding_is_found() -> None:
    lm = tiny.fresh("llama")
    plain = lm.hf.forward

    def careless(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return plain(*args, attention_mask=torch.ones_like(attention_mask), **kwargs)

    lm.hf.forward = careless
    assert verdicts(lm)["padding"] == "wrong"
    assert not sl.doctor(lm).healthy and "wrong: " in str(sl.doctor(lm))


def test_a_block_that_undoes_pushes_is_found() -> None:
    lm = tiny.fresh("llama")
    last = blocks(lm.hf)[-1]

    def stubborn(module: Any, args: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        return torch.zeros_like(h)

    last.register_forward_hook(stubborn)
    assert verdicts(lm)["steering"] == "wrong"


def test_a_template_that_drops_what_is_said_is_not_called_working() -> None:
    lm = tiny.fresh("llama")
    lm = replace(lm, tokenizer=tiny.tokenizer())
    lm.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{% endfor %}"
    assert verdicts(lm)["chat template"] == "refused"


def test_a_template_that_takes_texts_alone_is_compared_with_the_processors_own_call() -> None:
    lm = tiny.seeing()
    processor = deepcopy(lm.processor)
    processor.chat_template = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}{{ '[a]' }}"
    lm = replace(lm, processor=processor)
    found = verdicts(lm)
    assert found["token ids"] == found["pictures"] == "works"

    whole = processor.__call__

    def other(*args: Any, **kwargs: Any) -> Any:
        made = whole(*args, **kwargs)
        return {**made, "input_ids": [[*made["input_ids"][0], 1]]} if "return_tensors" not in kwargs else made

    class Odd(type(processor)):  # type: ignore[misc]
        __call__ = staticmethod(other)

    processor.__class__ = Odd
    assert verdicts(lm)["token ids"] == "wrong"


def test_a_crash_inside_one_check_does_not_end_the_others() -> None:
    lm = tiny.fresh("llama")

    def crash(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs.get("output_hidden_states"):
            raise RuntimeError("out of order")

    lm.hf.register_forward_pre_hook(crash, with_kwargs=True)
    found = sl.doctor(lm).table()
    assert found.loc["activations", "verdict"] == "wrong" and "out of order" in found.loc["activations", "found"]
    assert found.loc["padding", "verdict"] == "works"


def test_the_command_prints_the_table_and_its_status_says_whether_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny.fresh("llama")
    lm.hf.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert main(["doctor", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown == f"{sl.doctor(sl.load(tmp_path, device='cpu'))}\n" and "nothing is wrong" in shown

    whole = LlamaForCausalLM.forward
    monkeypatch.setattr(  # a network that reads padding
        LlamaForCausalLM, "forward", lambda self, *args, attention_mask=None, **kwargs: whole(self, *args, **kwargs)
    )
    assert main(["doctor", str(tmp_path)]) == 1
    assert "\n  wrong: " in capsys.readouterr().out


def test_the_command_says_in_one_sentence_that_a_model_cannot_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "smolm2"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("steerlib: there is no model 'smolm2' (did you mean 'smollm2'?)")
    assert said.err.count("\n") == 1 and said.err.endswith(".\n")
