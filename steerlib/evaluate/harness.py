"""Capability by the field's own harness: any task of EleutherAI's lm-evaluation-harness, on the model as it runs now.

The harness is handed the live network, so that a steering that is in force counts. Its numbers are those of its command line for the
same checkpoint. Source: Gao et al., A framework for few-shot language model evaluation; https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from steerlib.errors import SteerlibError, check_count
from steerlib.models.layout import alone, changed
from steerlib.models.model import Model


def harness(
    model: Model,
    tasks: str | Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    include_path: str | Path | None = None,
    batch_size: int = 8,
    seed: int = 0,
    **more: Any,
) -> pd.DataFrame:
    """What lm-evaluation-harness measures on the model, steered if it is steered now.

    It needs the extra `steerlib[harness]`. MMLU, for example, is `harness(lm, "mmlu", num_fewshot=5)`, and MMMU, for a model that
    sees, `harness(vlm, "mmmu_val", chat=True)`; both fetch their questions from the hub. Inside `with steer(...)` use the scope
    tokens="all", because the harness does not say where a prompt ends.

    Args:
        model: the model; one with a processor is asked with pictures where a task has them.
        tasks: names of tasks or groups of tasks.
        num_fewshot: how many worked examples stand before each question; None leaves it to the task.
        limit: ask only the first so many questions of each task; None asks all.
        chat: put each question through the model's chat template.
        include_path: a folder with tasks of one's own, as YAML files.
        batch_size: how many questions run together.
        seed: of the worked examples.
        **more: further arguments of `lm_eval.simple_evaluate`.

    Returns:
        A frame with one row per task and metric: task, metric, filter, value, stderr (NaN if there is none), n (questions) and
        higher_is_better.

    Raises:
        SteerlibError: the harness is not installed, it does not know a task, or a steering with another scope is in force.

    Example:
        >>> import steerlib as sl
        >>> sl.harness(sl.load("smollm2"), "mmlu_anatomy", limit=8)  # doctest: +SKIP
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SteerlibError(
            f"lm-evaluation-harness is not here ({error}): install it with `pip install 'steerlib[harness]'`."
        ) from error
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    check_count("batch_size", batch_size)
    if limit is not None:
        check_count("limit", limit)
    now = changed(model.hf)
    if now is not None and "tokens=" in now:
        raise SteerlibError(
            f"{now} is in force, but the harness does not say where a prompt ends: steer with tokens='all' to use it."
        )
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise SteerlibError(f"lm-evaluation-harness knows no task '{unknown[0]}': `lm_eval ls tasks` lists them.")
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), seed)
    settings = {"num_fewshot": num_fewshot, "limit": limit, "apply_chat_template": chat, "log_samples": False}
    with alone(model.hf):
        found = lm_eval.simple_evaluate(
            model=_handed(model, batch_size), tasks=names, task_manager=manager, **{**seeds, **settings, **more}
        )
    return _table(found)


def _handed(model: Model, batch_size: int) -> Any:
    """The live network as the harness wants it."""
    if model.processor is None:
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=batch_size, backend="causal")
    from lm_eval.models.hf_vlms import HFMultimodalLM

    class Seeing(HFMultimodalLM):  # type: ignore[misc]
        """One that takes the processor that is here, instead of reading it by the model's name."""

        def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **how: Any) -> None:
            self.processor, self.tokenizer = tokenizer, tokenizer.tokenizer

    return Seeing(pretrained=model.hf, tokenizer=model.processor, batch_size=batch_size)


def _table(found: Any) -> pd.DataFrame:
    """One row per task and metric, out of what the harness returns."""
    rows = []
    for task, numbers in found["results"].items():
        better = found["higher_is_better"].get(task, {})
        asked = found["n-samples"].get(task, {}).get("effective")
        for key, value in numbers.items():
            metric, _, name = key.partition(",")
            if not name or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = numbers.get(f"{metric}_stderr,{name}")
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "filter": name,
                    "value": float(value),
                    "stderr": float(error) if isinstance(error, (int, float)) else float("nan"),
                    "n": asked,
                    "higher_is_better": better.get(metric),
                }
            )
    return pd.DataFrame(rows)
