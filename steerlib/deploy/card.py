"""The card of a merged model: what was measured, at which strength, on what data, and what the model should not be used for.

A checkpoint that says it is fair without saying how that was measured is worse than none, so a card asks for bias before and after,
and for limits and misuse, and has no text of its own for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from steerlib.errors import SteerlibError
from steerlib.evaluate.capability import Capability
from steerlib.evaluate.decisions import DecisionBias
from steerlib.evaluate.intervals import Estimate
from steerlib.steering.operations import Steering

Measured = Estimate | DecisionBias | Capability | Mapping[str, Estimate]
"""What was measured: one number, several by their names, or the result of an evaluation."""


def model_card(
    title: str,
    steering: Steering,
    strength: float,
    *,
    before: Measured,
    after: Measured,
    data: str,
    limits: Sequence[str],
    misuse: Sequence[str],
    base: str | None = None,
    license: str | None = None,
) -> str:
    """The README.md of a merged model or an adapter, in Markdown with the metadata that model hubs read.

    Args:
        title: the model's name.
        steering: what is merged; its provenance is written down.
        strength: at which it is merged.
        before: what was measured on the plain model, on data that the steering was not made from.
        after: the same on the merged model.
        data: what the steering was made from, and what it was measured on.
        limits: what was not measured, or got worse; a sentence each.
        misuse: what the model should not be used for; a sentence each.
        base: the plain model's name on the hub; None takes the one in the provenance.
        license: of the base model, by its identifier on the hub, such as "apache-2.0".

    Returns:
        The text.

    Raises:
        SteerlibError: before and after do not measure the same, or there are no limits or no misuse.

    Example:
        >>> import steerlib as sl
        >>> steering = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
        >>> text = sl.deploy.model_card(
        ...     "SmolLM2, steered", steering, 0.4,
        ...     before={"bias": sl.Estimate(0.4, 0.3, 0.5, 20)}, after={"bias": sl.Estimate(0.2, 0.1, 0.3, 20)},
        ...     data="Pronouns after 20 occupations.", limits=["English only."], misuse=["Do not hire by it."],
        ... )
        >>> [line for line in text.splitlines() if line.startswith("| bias")]
        ['| bias | 0.400 [0.300, 0.500] | 0.200 [0.100, 0.300] | 20 |']
    """
    rows, later = _estimates(before), _estimates(after)
    if not rows or list(rows) != list(later):
        raise SteerlibError(
            f"a card compares the same numbers before and after, not {', '.join(rows) or 'none'} with {', '.join(later) or 'none'}."
        )
    for name, given in (("limits", limits), ("misuse", misuse)):
        if isinstance(given, str) or not given or not all(isinstance(one, str) and one.strip() for one in given):
            raise SteerlibError(
                f"{name} must be a list of sentences, not {given!r}: a card says what a model is not good for."
            )
    if not data.strip():
        raise SteerlibError("data must say what the steering was made from and measured on: it is empty.")
    facts = dict(steering.provenance)
    of = base or str(facts.get("model", "unknown"))
    head = {
        "base_model": of,
        "license": license,
        "library_name": "transformers",
        "tags": ["steerlib", "bias", "steering"],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in head.items() if value),
        "---",
        "",
        f"# {title}",
        "",
    ]
    what = (
        f"`{of}` with a steering in its weights, at strength {strength:g}: "
        f"{len(steering.operations)} places of the text decoder are changed, and nothing else. It runs without steerlib."
    )
    lines += [
        what,
        "",
        "## Bias before and after",
        "",
        "95 % intervals, bootstrapped over clusters (such as occupations); n is their number.",
        "",
        "| measure | plain model | this model | n |",
        "|---|---|---|---|",
        *(f"| {name} | {rows[name]} | {later[name]} | {later[name].n} |" for name in rows),
        "",
        "## Data",
        "",
        data.strip(),
        "",
        "## Limits",
        "",
        *(f"- {one.strip()}" for one in limits),
        "",
        "## Misuse",
        "",
        *(f"- {one.strip()}" for one in misuse),
        "",
        "## Where it comes from",
        "",
        "```json",
        json.dumps({key: value for key, value in facts.items() if key != "history"}, indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _estimates(given: Measured) -> dict[str, Estimate]:
    """The numbers of a result by name, those that were not measured left out."""
    if isinstance(given, Estimate):
        return {"bias": given}
    if not isinstance(given, (Mapping, DecisionBias, Capability)):
        raise SteerlibError(
            f"before and after are an Estimate, a mapping of Estimates, or what decision_bias returned, not {type(given).__name__}."
        )
    named = given if isinstance(given, Mapping) else vars(given)
    return {str(key).replace("_", " "): value for key, value in named.items() if isinstance(value, Estimate)}
