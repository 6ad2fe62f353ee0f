"""lm-evaluation-harness measures the model as it runs now. These tests need the extra `harness`, and no network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny
import torch

import steerlib as sl
from steerlib import Add, Steering, steer

OPTIONS = [" a", " th", " zz"]
TEXTS = ["The nurse said", "A", "Yesterday, after a long day", "No one", "The mechanic was tired because"]


def folder_with_task(folder: Path) -> Path:
    """A task of five questions with three answers each, in which the first is called right."""
    lines = [json.dumps({"question": text, "choices": OPTIONS, "answer": 0}) for text in TEXTS]
    (folder / "letters.jsonl").write_text("\n".join(lines))
    (folder / "letters.yaml").write_text(
        "task: letters\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: '{folder / 'letters.jsonl'}'}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        "doc_to_text: '{{question}}'\n"
        "doc_to_choice: '{{choices}}'\n"
        "doc_to_target: answer\n"
        "target_delimiter: ''\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return folder


def share(lm: sl.Model) -> float:
    """How often the first answer is the likeliest, by the library's own count."""
    return float((lm.choose(TEXTS, OPTIONS).argmax(-1) == 0).float().mean())


def test_the_harness_counts_what_choose_says_plain_and_steered(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    lm, folder = tiny.model("llama"), folder_with_task(tmp_path)
    seen = set()
    for size in (0.0, 4.0, -4.0, 9.0):
        steering = Steering({"residual.1": Add(tiny.vector(3, size=1.0))})
        with steer(lm, steering, size):
            table = sl.harness(lm, "letters", include_path=folder, batch_size=2).set_index("metric")
            assert table.loc["acc", "value"] == pytest.approx(share(lm))
            assert table.loc["acc", "n"] == len(TEXTS)
        seen.add(table.loc["acc", "value"])
    assert len(seen) > 1  # the steering was in force


def test_what_the_harness_cannot_do_is_refused_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    lm = tiny.model("llama")
    with pytest.raises(sl.SteerlibError, match="knows no task 'nothing'"):
        sl.harness(lm, ["nothing"])
    steering = Steering({"residual.1": Add(torch.ones(tiny.WIDTH))})
    with (
        steer(lm, steering, tokens="last"),
        pytest.raises(sl.SteerlibError, match="does not say where a prompt ends"),
    ):
        sl.harness(lm, "letters", include_path=folder_with_task(tmp_path))


def test_without_the_harness_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(sl.SteerlibError, match=r"pip install 'steerlib\[harness\]'"):
        sl.harness(tiny.model("llama"), "mmlu")
