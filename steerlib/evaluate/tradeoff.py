"""What less bias costs: every method at every strength, bias against capability.

A point is dominated if another has no more bias and no less capability, and is better in one of the two; the points that none
dominates are the Pareto front. The area under a method's front, from no bias to the unsteered model's bias b0,

    area = 1 / (b0 (c0 - floor)) * integral from 0 to b0 of max(0, C(b) - floor) db,
    C(b) = the most capability that the method has at a bias of b or less (none: floor), c0 = that of the unsteered model,

is 0 for a method that removes no bias and 1 for one that removes it all for free. Source: the curves of Monteiro Paes et al.,
arXiv 2512.15926, figures on strength; the area is a hypervolume (Zitzler and Thiele, 1999) whose reference point is (b0, floor).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.evaluate.statistics import Estimate, Floats, bootstrap
from steerlib.models.model import Model, weights_hash
from steerlib.steering.apply import Tokens, steer
from steerlib.steering.operations import Steering

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P")
Measure = Callable[[Model], Any]
Score = Estimate | dict[str, float]
"""What a measure gave: an Estimate, or one value a cluster."""
BASE = ""  # the method of the unsteered model, from which every method's line begins


@dataclass(frozen=True)
class Tradeoff:
    """What `tradeoff` measured.

    frame: a row a method and strength: method, strength, bias, bias_low, bias_high, capability, capability_low,
    capability_high, control, pareto. Strength 0, the unsteered model, is a row of every method.
    clusters: {(method, strength): (bias, capability)} with one value a cluster each, the unsteered model under ("", 0.0);
    None if the measures returned Estimates.
    """

    frame: pd.DataFrame
    clusters: Mapping[tuple[str, float], tuple[pd.Series[float], pd.Series[float]]] | None
    resamples: int
    seed: int

    def area(self, *, floor: float = 0.0, minus: str | None = None) -> dict[str, Estimate]:
        """The area under each method's front, as defined at the top of this file.

        floor: the capability of chance. minus: a method, such as a control, whose area is subtracted from each other's.
        The interval resamples the clusters, all points together. It does not undo that the best of many strengths looks
        better than it is: a method with more strengths has more chances, so compare methods at equal numbers.
        Raises SteerlibError unless the measures returned one value a cluster, over the same clusters, and the unsteered
        model has a bias above 0 and a capability above the floor.
        """
        names = list(dict.fromkeys(self.frame["method"]))
        if minus is not None and minus not in names:
            raise SteerlibError(f"there is no method '{minus}': there are {', '.join(names)}.")
        if self.clusters is None or any(not c.index.equals(b.index) for b, c in self.clusters.values()):
            raise SteerlibError(
                "an area needs bias and capability as one value a cluster, over the same clusters: "
                "let both measures return that, such as MentionRate.per_cluster()."
            )
        if (self.frame["bias"] < 0).any() or (self.frame["bias"][self.frame["strength"] == 0] <= 0).any():
            raise SteerlibError("an area needs a bias that is 0 when fair and positive otherwise, before steering.")
        if (self.frame["capability"][self.frame["strength"] == 0] <= floor).any():
            raise SteerlibError(
                f"the unsteered model's capability is not above the floor of {floor}: nothing can be lost."
            )
        places = {key: i for i, key in enumerate(self.clusters)}
        data = np.stack([np.stack([b.to_numpy(), c.to_numpy()], -1) for b, c in self.clusters.values()], 1)
        data = data.reshape(len(data), -1)  # (clusters, points * 2)

        def statistic(name: str) -> Callable[[Floats], Floats]:
            mine = [i for key, i in places.items() if key[0] == name]

            def area(x: Floats) -> Floats:
                points = x.mean(-2).reshape(*x.shape[:-2], -1, 2)  # (..., points, 2)
                base = points[..., places[BASE, 0.0], :]
                return _area(points[..., mine, :], base, floor)

            return area

        def difference(name: str) -> Callable[[Floats], Floats]:
            return lambda x: statistic(name)(x) - statistic(str(minus))(x)

        wanted = {n: statistic(n) if minus is None else difference(n) for n in names if n != minus}
        return {n: bootstrap(f, data, resamples=self.resamples, seed=self.seed) for n, f in wanted.items()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Bias against capability: a line a method, controls dotted, strengths written, intervals faint, the front ringed."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(7, 5), layout="constrained")
        for i, (name, part) in enumerate(self.frame.groupby("method", sort=False)):
            part = part.sort_values("strength")
            color, control = COLORS[i % len(COLORS)], bool(part["control"].iloc[0])
            x, y = part["bias"], part["capability"]
            style: dict[str, Any] = {
                "color": color,
                "marker": MARKERS[i % len(MARKERS)],
                "linestyle": ":" if control else "-",
            }
            ax.plot(x, y, markersize=5, linewidth=1.2, label=f"{name} (control)" if control else str(name), **style)
            errors: dict[str, Any] = {"fmt": "none", "ecolor": color, "alpha": 0.25, "linewidth": 1}
            ax.errorbar(
                x,
                y,
                xerr=np.abs(part[["bias_low", "bias_high"]].to_numpy().T - x.to_numpy()),
                yerr=np.abs(part[["capability_low", "capability_high"]].to_numpy().T - y.to_numpy()),
                **errors,
            )
            for strength, a, b in zip(part["strength"], x, y, strict=True):
                if strength != 0:
                    ax.annotate(f"{strength:g}", (a, b), (4, 4), textcoords="offset points", fontsize=7, color=color)
        base, front = self.frame[self.frame["strength"] == 0].iloc[0], self.frame[self.frame["pareto"]]
        ax.annotate("unsteered", (base["bias"], base["capability"]), (6, -10), textcoords="offset points", fontsize=8)
        rings: dict[str, Any] = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
        ax.scatter(front["bias"], front["capability"], s=110, label="Pareto front", zorder=3, **rings)
        ax.set(xlabel="bias (less is better)", ylabel="capability (more is better)")
        ax.grid(color="0.92")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
        return ax


def tradeoff(
    model: Model,
    steerings: Mapping[str, Steering],
    strengths: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    bias: Measure,
    capability: Measure,
    controls: Sequence[str] = (),
    tokens: Tokens = "all",
    path: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Tradeoff:
    """Measure bias and capability of a model under every steering at every strength.

    steerings: by the name of their method. strengths: for all, or by method; 0, the unsteered model, is measured once and
    always. bias, capability: called on the model while it is steered, bias first, so that it may leave what the model said
    for capability to score. Each returns an Estimate, or one value a cluster: a mapping (or Series) such as
    {"nurse": 0.4, "pilot": 0.1}, whose mean counts and whose clusters are resampled; only then can areas be compared.
    controls: which of the methods are controls. tokens: as in `steer`. path: a file that keeps every finished point, a line
    each, so that a run that was killed goes on where it was; it knows model, steerings, strengths and tokens, but not the two
    measures: use another file for other measures.
    Raises SteerlibError on bad names or strengths, a measure that returns something else, or a file of another run.
    """
    plan = _plan(steerings, strengths, controls)
    for steering in steerings.values():  # one that does not fit is refused before the work, not after hours of it
        with steer(model, steering, 0.0, tokens=tokens):
            pass
    done: dict[tuple[str, float], tuple[Score, Score]] = {}
    if path is not None:
        done = _resume(Path(path), _header(model, steerings, plan, tokens), plan)
    with tqdm(total=len(plan), initial=len(done), desc="tradeoff") as bar:
        for name, strength in plan:
            if (name, strength) in done:
                continue
            bar.set_postfix_str(f"{name or 'unsteered'} {strength:g}")
            steering = steerings[name] if name else next(iter(steerings.values()))
            with steer(model, steering, strength, tokens=tokens):
                scores = (_score(bias(model), "bias"), _score(capability(model), "capability"))
            for what, score, first in zip(("bias", "capability"), scores, done.get(plan[0], scores), strict=True):
                if _clusters(score) != _clusters(first):
                    raise SteerlibError(f"{what} returned other clusters for '{name}' at {strength:g} than unsteered.")
            done[name, strength] = scores
            if path is not None:
                _append(Path(path), {"method": name, "strength": strength, "scores": [_plain(s) for s in scores]})
            bar.update()
    return _summary({key: done[key] for key in plan}, steerings, controls, resamples, seed)


def pareto(frame: pd.DataFrame, *, bias: str = "bias", capability: str = "capability") -> pd.Series[bool]:
    """Which rows no other row dominates. bias, capability: the columns where less, and where more, is better.

    Equal rows do not dominate each other. Raises SteerlibError on a missing value.
    """
    b, c = frame[bias].to_numpy(dtype=float), frame[capability].to_numpy(dtype=float)
    if not (np.isfinite(b).all() and np.isfinite(c).all()):
        raise SteerlibError("a Pareto front needs finite numbers: a bias or a capability is missing.")
    no_worse = (b[:, None] <= b) & (c[:, None] >= c)  # (row, other): row is no worse than the other
    better = (b[:, None] < b) | (c[:, None] > c)
    return pd.Series(~(no_worse & better).any(0), index=frame.index, name="pareto")


def _area(points: Floats, base: Floats, floor: float) -> Floats:
    """Normalised area under the front; points: (..., points, 2), base: (..., 2)."""
    worst = base[..., 0]
    order = np.argsort(points[..., 0], axis=-1)
    b = np.take_along_axis(np.minimum(points[..., 0], worst[..., None]), order, -1)
    c = np.take_along_axis(points[..., 1], order, -1)
    best = np.maximum.accumulate(np.maximum(c - floor, 0), -1)
    widths = np.diff(b, axis=-1, append=worst[..., None])
    whole = worst * (base[..., 1] - floor)
    area: Floats = np.divide((widths * best).sum(-1), whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return area


def _plan(
    steerings: Mapping[str, Steering],
    strengths: Sequence[float] | Mapping[str, Sequence[float]],
    controls: Sequence[str],
) -> list[tuple[str, float]]:
    """The points to measure, the unsteered model first."""
    if not steerings or BASE in steerings:
        raise SteerlibError("steerings are given by name, in a mapping such as {'contrastive': vec}, with one or more.")
    if isinstance(controls, str) or (unknown := [name for name in controls if name not in steerings]):
        wrong = controls if isinstance(controls, str) else unknown[0]
        raise SteerlibError(f"controls is a list of names of steerings ({', '.join(steerings)}), not '{wrong}'.")
    each = dict(strengths) if isinstance(strengths, Mapping) else {name: strengths for name in steerings}
    if set(each) != set(steerings):
        raise SteerlibError(f"strengths by method must name each of {', '.join(steerings)}, and nothing else.")
    points = [(BASE, 0.0)]
    for name in steerings:
        given = sorted({float(strength) for strength in each[name]} - {0.0})
        if not given or not all(map(math.isfinite, given)):
            raise SteerlibError(f"'{name}' needs at least one finite strength other than 0, not {list(each[name])}.")
        points += [(name, strength) for strength in given]
    return points


def _score(got: Any, what: str) -> Score:
    """What a measure returned, checked."""
    if all(hasattr(got, key) for key in ("value", "low", "high", "n")):
        score: Score = Estimate(float(got.value), float(got.low), float(got.high), int(got.n))
    elif isinstance(got, (Mapping, pd.Series)) and len(got):
        score = {str(name): float(value) for name, value in sorted(got.items(), key=lambda pair: str(pair[0]))}
    else:
        raise SteerlibError(
            f"{what} must return an Estimate or a mapping with one value a cluster, not {type(got).__name__}."
        )
    if not all(map(math.isfinite, score.values() if isinstance(score, dict) else vars(score).values())):
        raise SteerlibError(f"{what} returned a value that is NaN or infinite.")
    return score


def _clusters(score: Score) -> list[str] | None:
    """The names of the clusters, in order, if it has one value a cluster."""
    return list(score) if isinstance(score, dict) else None


def _summary(
    done: Mapping[tuple[str, float], tuple[Score, Score]],
    steerings: Mapping[str, Steering],
    controls: Sequence[str],
    resamples: int,
    seed: int,
) -> Tradeoff:
    """The result, from what was measured at every point."""

    def estimate(score: Score) -> Estimate:
        if isinstance(score, Estimate):
            return score
        values = np.array(list(score.values()))[:, None]
        return bootstrap(lambda x: x[..., 0].mean(-1), values, resamples=resamples, seed=seed)

    rows = []
    for name in steerings:
        for (method, strength), (first, second) in sorted(done.items(), key=lambda point: point[0][1]):
            if method not in (name, BASE):
                continue
            row: dict[str, Any] = {"method": name, "strength": strength}
            for what, got in (("bias", estimate(first)), ("capability", estimate(second))):
                row |= {what: got.value, f"{what}_low": got.low, f"{what}_high": got.high}
            rows.append({**row, "control": name in controls})
    frame = pd.DataFrame(rows)
    frame["pareto"] = pareto(frame)
    if any(isinstance(score, Estimate) for pair in done.values() for score in pair):
        return Tradeoff(frame, None, resamples, seed)
    clusters = {key: (pd.Series(b), pd.Series(c)) for key, (b, c) in done.items()}
    return Tradeoff(frame, clusters, resamples, seed)


def _header(
    model: Model, steerings: Mapping[str, Steering], plan: list[tuple[str, float]], tokens: Tokens
) -> dict[str, Any]:
    """What a file of points belongs to."""
    return {
        "format": "steerlib.tradeoff/1",
        "model": weights_hash(model),
        "methods": {name: _fingerprint(steering) for name, steering in steerings.items()},
        "strengths": [list(point) for point in plan],
        "tokens": tokens,
    }


def _fingerprint(steering: Steering) -> str:
    """SHA-256 over sites, operations and their numbers."""
    digest = hashlib.sha256()
    for site, operation in sorted(steering.operations.items(), key=lambda pair: str(pair[0])):
        digest.update(f"{site} {type(operation).__name__}".encode())
        for name, tensor in sorted(vars(operation).items()):
            if tensor is not None:
                digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _resume(
    path: Path, header: dict[str, Any], plan: list[tuple[str, float]]
) -> dict[tuple[str, float], tuple[Score, Score]]:
    """The points that a file holds; a last line that was cut short is dropped. A new file gets its header."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    opening = json.dumps(header) + "\n"
    if opening.startswith(text):  # new, or killed while its first line was written
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(opening, encoding="utf-8")
        return {}
    whole = text[: text.rfind("\n") + 1]
    try:
        first, *lines = map(json.loads, whole.splitlines())
        if first["format"] != header["format"]:
            raise ValueError("its first line says so")
        points = {(line["method"], float(line["strength"])): tuple(map(_score_of, line["scores"])) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise SteerlibError(f"{path} is not a file of tradeoff points ({error}): give another path.") from error
    others = {
        "model": "another model",
        "methods": "other steerings",
        "strengths": "other strengths",
        "tokens": "other tokens",
    }
    for key, what in others.items():
        if first.get(key) != header[key]:
            raise SteerlibError(f"{path} holds points of {what}: give another path, or remove the file.")
    if whole != text:
        os.truncate(path, len(whole.encode()))
    return {key: points[key] for key in plan if key in points}  # type: ignore[misc]


def _append(path: Path, line: dict[str, Any]) -> None:
    """Write one line, and see it to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _plain(score: Score) -> dict[str, Any]:
    """A score as JSON."""
    return {"estimate": asdict(score)} if isinstance(score, Estimate) else {"clusters": score}


def _score_of(line: dict[str, Any]) -> Score:
    """A score from JSON."""
    if "estimate" in line:
        return Estimate(**line["estimate"])
    return {str(name): float(value) for name, value in line["clusters"].items()}
