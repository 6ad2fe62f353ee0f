"""What less bias costs: every method at every strength, bias against capability.

A point is dominated if another has no more bias and no less capability, and is better in one of the two; the points that none
dominates are the Pareto front. The area under a method's front, from no bias to the unsteered model's bias b0,

    area = 1 / (b0 (c0 - floor)) * integral from 0 to b0 of max(0, C(b) - floor) db,
    C(b) = the most capability that the method has at a bias of b or less (none: floor), c0 = that of the unsteered model,

is 0 for a method that removes no bias and 1 for one that removes it all for free. Source: the curves of Monteiro Paes et al.,
arXiv 2512.15926, figures on strength; the area is a hypervolume (Zitzler and Thiele, 1999) whose reference point is (b0, floor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.evaluate import style
from steerlib.evaluate.intervals import Estimate, Floats, bootstrap
from steerlib.evaluate.points import Score, append, header, plain, resume
from steerlib.models.model import Model
from steerlib.models.parallel import is_first, once
from steerlib.steering.apply import Tokens, steer
from steerlib.steering.operations import Steering

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measure = Callable[[Model], Any]
BASE = ""  # the method of the unsteered model, from which every method's line begins


@dataclass(frozen=True)
class Tradeoff:
    """What `tradeoff` measured.

    Args:
        frame: one row per method and strength: method, strength, bias, bias_low, bias_high, capability, capability_low,
            capability_high, control, pareto. Strength 0, the unsteered model, is a row of every method.
        clusters: {(method, strength): (bias, capability)} with one value per cluster each, the unsteered model under
            ("", 0.0); None if the measures returned Estimates.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        results: {(method, strength): what `measure` returned as its third value}. None if it returned two, and for points
            that were read from a file.
    """

    frame: pd.DataFrame
    clusters: Mapping[tuple[str, float], tuple[pd.Series[float], pd.Series[float]]] | None
    resamples: int
    seed: int
    results: Mapping[tuple[str, float], Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """Bias and capability with the ends of their 95 % intervals, one row per method and strength."""
        return self.frame.set_index(["method", "strength"]).drop(columns=["control", "pareto"])

    def by(self, column: str = "method", *, floor: float = 0.0) -> pd.DataFrame:
        """The area under each method's front, one row per method: value, low, high and n (clusters).

        Args:
            column: "method", which is what areas are compared by.
            floor: as in `area`.

        Returns:
            The numbers of `area` as a frame.

        Raises:
            SteerlibError: on another column, and as `area` does.
        """
        if column != "method":
            raise SteerlibError(f"areas are compared by 'method', not by '{column}'.")
        return pd.DataFrame([{"method": name, **vars(area)} for name, area in self.area(floor=floor).items()])

    def area(self, *, floor: float = 0.0, minus: str | None = None) -> dict[str, Estimate]:
        """The area under each method's front, as defined at the top of this file.

        The interval resamples the clusters, all points together. It does not undo that the best of many strengths looks better
        than it is: a method with more strengths has more chances, so compare methods at equal numbers.

        Args:
            floor: the capability of chance.
            minus: a method, such as a control, whose area is subtracted from each other's.

        Returns:
            The areas by method.

        Raises:
            SteerlibError: unless the measures returned one value per cluster, over the same clusters, and the unsteered
                model has a bias above 0 and a capability above the floor.
        """
        names = list(dict.fromkeys(self.frame["method"]))
        if minus is not None and minus not in names:
            raise SteerlibError(f"there is no method '{minus}': there are {', '.join(names)}.")
        if self.clusters is None or any(not c.index.equals(b.index) for b, c in self.clusters.values()):
            raise SteerlibError(
                "an area needs bias and capability as one value per cluster, over the same clusters: "
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
        """Bias against capability: one line per method, controls dotted, intervals faint, the Pareto front ringed.

        Args:
            ax: the axes to draw on; None makes a new figure.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(4.8, 4.4), layout="constrained")
        for i, (name, part) in enumerate(self.frame.groupby("method", sort=False)):
            part = part.sort_values("strength")
            color, control = style.COLORS[i % len(style.COLORS)], bool(part["control"].iloc[0])
            x, y = part["bias"], part["capability"]
            look: dict[str, Any] = {
                "color": color,
                "marker": style.MARKERS[i % len(style.MARKERS)],
                "linestyle": ":" if control else "-",
            }
            ax.plot(x, y, markersize=5, linewidth=1.2, label=f"{name} (control)" if control else str(name), **look)
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
                    ax.annotate(f"{strength:g}", (a, b), (4, 4), textcoords="offset points", color=color)
        base, front = self.frame[self.frame["strength"] == 0].iloc[0], self.frame[self.frame["pareto"]]
        ax.annotate("unsteered", (base["bias"], base["capability"]), (6, -10), textcoords="offset points")
        rings: dict[str, Any] = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
        ax.scatter(front["bias"], front["capability"], s=110, label="Pareto front", zorder=3, **rings)
        ax.set(xlabel="bias (less is better)", ylabel="capability (more is better)")
        ax.grid(color="0.92")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        return style.bare(ax)


def tradeoff(
    model: Model,
    steerings: Mapping[str, Steering],
    strengths: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    measure: Measure | None = None,
    bias: Measure | None = None,
    capability: Measure | None = None,
    controls: Sequence[str] = (),
    tokens: Tokens = "all",
    path: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Tradeoff:
    """Measure bias and capability of a model under every steering at every strength.

    Args:
        model: to be steered.
        steerings: by the name of their method.
        strengths: for all, or by method; 0, the unsteered model, is measured once and always.
        measure: called on the model while it is steered. It returns (bias, capability), or (bias, capability, result), where
            the result is anything worth keeping, such as a DecisionBias. Bias and capability are Estimates, or one value per
            cluster: a mapping or Series such as {"nurse": 0.4, "pilot": 0.1}, whose mean counts and whose clusters are
            resampled; only then can areas be compared.
        bias: in place of `measure`, together with `capability`: called first, returns the bias alone.
        capability: called after it, returns the capability alone.
        controls: which of the methods are controls.
        tokens: as in `steer`.
        path: a file that keeps every finished point, so that a run that was killed goes on where it was. It knows model,
            steerings, strengths and tokens, but not what is measured (use another file for other measures), and keeps bias
            and capability only: the `results` of points that were read from it are None.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The points and their Pareto front.

    Raises:
        SteerlibError: on bad names or strengths, a measure that returns something else, or a file of another run.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> late = [item for item in sl.tasks.pronoun("validation").ambiguous if item.template == "late"]
        >>> few = sl.tasks.Task("few", tuple(late[:4]), "occupation", "percent_women")
        >>> def measure(steered):
        ...     found = sl.decision_bias(steered, few, resamples=50)
        ...     return found.per_cluster(), 1 - found.per_cluster(), found
        >>> she = sl.contrastive(lm, ["he said", "he was"], ["she said", "she was"], layers="middle", operation="add")
        >>> curve = sl.tradeoff(lm, {"she": she}, [0.5], measure=measure, resamples=50)
        >>> curve.frame["strength"].tolist(), curve.results["she", 0.5].groups
        ([0.0, 0.5], ('man', 'woman'))
    """
    if (measure is None) == (bias is None) or (bias is None) != (capability is None):
        raise SteerlibError("a tradeoff takes either measure, or both bias and capability.")
    plan = _plan(steerings, strengths, controls)
    for steering in steerings.values():  # one that does not fit is refused before the work, not after hours of it
        with steer(model, steering, 0.0, tokens=tokens):
            pass
    done: dict[tuple[str, float], tuple[Score, Score]] = {}
    results: dict[tuple[str, float], Any] = {}
    if path is not None:
        opening, file = header(model, steerings, plan, tokens), Path(path)
        done = once(lambda: resume(file, opening, plan))
    with tqdm(total=len(plan), initial=len(done), desc="tradeoff", disable=not is_first()) as bar:
        for name, strength in plan:
            if (name, strength) in done:
                continue
            bar.set_postfix_str(f"{name or 'unsteered'} {strength:g}")
            steering = steerings[name] if name else next(iter(steerings.values()))
            with steer(model, steering, strength, tokens=tokens):
                if measure is None:
                    got: Any = [part(model) for part in (bias, capability) if part is not None]
                else:
                    got = measure(model)
                if not isinstance(got, (tuple, list)) or len(got) not in (2, 3):
                    raise SteerlibError(
                        f"measure must return (bias, capability) or (bias, capability, result), not {type(got).__name__}."
                    )
                scores = (_score(got[0], "bias"), _score(got[1], "capability"))
                results[name, strength] = got[2] if len(got) == 3 else None
            for what, score, first in zip(("bias", "capability"), scores, done.get(plan[0], scores), strict=True):
                if _clusters(score) != _clusters(first):
                    raise SteerlibError(f"{what} returned other clusters for '{name}' at {strength:g} than unsteered.")
            done[name, strength] = scores
            if path is not None and is_first():
                append(Path(path), {"method": name, "strength": strength, "scores": [plain(s) for s in scores]})
            bar.update()
    measured = _summary({key: done[key] for key in plan}, steerings, controls, resamples, seed)
    return replace(measured, results={key: results.get(key) for key in plan})


def pareto(frame: pd.DataFrame, *, bias: str = "bias", capability: str = "capability") -> pd.Series[bool]:
    """Which rows no other row dominates; equal rows do not dominate each other.

    Args:
        frame: one row per point.
        bias: the column where less is better.
        capability: the column where more is better.

    Returns:
        (rows,) bool, with the index of the frame.

    Raises:
        SteerlibError: on a missing value.

    Example:
        >>> pareto(pd.DataFrame({"bias": [0.4, 0.2, 0.3], "capability": [0.9, 0.8, 0.7]})).tolist()
        [True, True, False]
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
            f"{what} must return an Estimate or a mapping with one value per cluster, not {type(got).__name__}."
        )
    if not all(map(math.isfinite, score.values() if isinstance(score, dict) else [score.value])):
        raise SteerlibError(f"{what} returned a value that is NaN or infinite.")
    return score


def _clusters(score: Score) -> list[str] | None:
    """The names of the clusters, in order, if it has one value per cluster."""
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
