"""Which blend? Every candidate scored by cross-fitting, and kept only where it beats equal weights by more than noise.

Cross-fitting: what is fitted (weights, a bias) is fitted on the rows of the other folds and applied to the rows of one,
so that every row is answered by something that did not see it; then all rows are scored at once, as ever. Intervals are
those of `compare`: paired, by whole units. Where several candidates stand against equal weights at once, each needs a
wider interval (Bonferroni), since the luckiest of several is what would be chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.compare import Comparison, compare
from pipeline.crossval import oof_table
from pipeline.ensemble.bias import apply_bias, can_be_shifted, fit_bias
from pipeline.ensemble.weights import FITS, Rows, equal
from pipeline.metrics import bootstrap_interval, score

PARTS = 5  # of a hold-out, which has no folds to fit across


@dataclass(frozen=True)
class Candidate:
    """One blend and what it is worth. fitted: weights of all rows, as the test rows would get them."""

    name: str
    weights: tuple[float, ...]
    bias: tuple[float, ...]
    outputs: np.ndarray = field(repr=False)  # (N, C) of the out-of-fold rows, cross-fitted
    score: float
    low: float
    high: float
    seen: float  # the score that fitting and scoring on the same rows would show
    against: str = ""  # what it is compared with, and by how much it is better
    gain: float = 0.0
    gain_low: float = 0.0
    gain_high: float = 0.0
    chance: float = 1.0  # share of the resamples in which it is not better


@dataclass(frozen=True)
class Blend:
    """The choice, and all that it was made from."""

    chosen: Candidate
    candidates: list[Candidate]
    singles: list[Candidate]  # each run by itself
    reason: str


def choose(
    rows: Rows, folds: np.ndarray, blend: str, bias: str, seed: int, names: Sequence[str] = (),
    tell: Callable[[str], None] = lambda step: None,
) -> Blend:  # fmt: skip
    """blend, bias: as in `submit`'s settings. folds: (N,) of the rows. tell: told what is done next."""
    several = len(rows.members) > 1
    parts = parts_of(folds, rows.units)
    wanted = [name for name in FITS if name != "equal" and several and blend in ("auto", name)]
    reference = _candidate(rows, parts, "equal", "equal", False, seed)
    candidates, reasons, chosen = [reference], [], reference
    level = 1 - 0.05 / max(len(wanted), 1)
    for name in wanted:
        tell(f"fitting {name} weights, {len(parts)} times over")
        candidates.append(_against(_candidate(rows, parts, name, name, False, seed), reference, rows, folds, level))
    if several:
        rivals = candidates[1:]
        if blend not in ("auto", "equal"):
            [chosen] = rivals
            reasons.append(f"{blend} weights, as asked")
        elif better := [rival for rival in rivals if rival.gain_low > 0]:
            chosen = max(better, key=lambda rival: rival.gain)
            reasons.append(f"{chosen.name} weights: better than equal ones by more than noise")
        else:
            reasons.append("equal weights" + (": nothing fitted beats them by more than noise" if rivals else ""))
    if bias != "off" and can_be_shifted(rows.metric, rows.kind):
        tell(f"fitting a bias for each class, {len(parts)} times over")
        name = f"{chosen.name} + bias"
        moved = _candidate(rows, parts, name, chosen.name, True, seed)
        moved = _against(moved, chosen, rows, folds, 0.95)
        candidates.append(moved)
        if bias == "on" or moved.gain_low > 0:
            chosen = moved
            reasons.append("a bias for each class" + (", as asked" if bias == "on" else ", which helps beyond noise"))
        else:
            reasons.append("no bias, which would not help beyond noise")
    singles = []
    if several:
        for i, single in enumerate(names or [str(i) for i in range(len(rows.members))]):
            only = np.eye(len(rows.members))[i]
            singles.append(_scored(rows, single, only, (), rows.outputs(only), None))
    return Blend(chosen, candidates, singles, "; ".join(reasons) or "one run, as it is")


def parts_of(folds: np.ndarray, units: np.ndarray) -> list[np.ndarray]:
    """Booleans (N,) of each fold's rows; where there is only one fold, whole units are shared out by chance."""
    numbers = np.unique(folds)
    if len(numbers) < 2:
        _, unit = np.unique(units, return_inverse=True)
        n = unit.max() + 1
        folds = (np.random.default_rng(0).permutation(n) % PARTS)[unit]
        numbers = np.unique(folds)
    return [folds == number for number in numbers]


def _candidate(rows: Rows, parts: list[np.ndarray], name: str, fit: str, with_bias: bool, seed: int) -> Candidate:
    def fitted(some: Rows) -> tuple[np.ndarray, np.ndarray]:
        weights = FITS[fit](some, seed)
        bias = fit_bias(some.outputs(weights), some.targets, rows.metric, rows.kind) if with_bias else np.empty(0)
        return weights, bias

    weights, bias = fitted(rows)
    crossed = None
    if fit != "equal" or with_bias:
        crossed = np.empty_like(rows.members[0])
        for part in parts:
            of_others = fitted(rows.of(~part)) if len(parts) > 1 else (equal(rows), np.zeros(len(bias)))
            crossed[part] = apply_bias(rows.of(part).outputs(of_others[0]), of_others[1], rows.kind)
    return _scored(rows, name, weights, tuple(bias.tolist()), crossed, bias)


def _scored(
    rows: Rows, name: str, weights: np.ndarray, bias: tuple[float, ...], crossed: np.ndarray | None,
    shift: np.ndarray | None,
) -> Candidate:  # fmt: skip
    """crossed: the cross-fitted outputs; None where nothing was fitted."""
    seen = apply_bias(rows.outputs(weights), shift if shift is not None else np.empty(0), rows.kind)
    outputs = seen if crossed is None else crossed
    interval = bootstrap_interval(rows.metric, rows.targets, outputs, rows.units, rows.kind)
    return Candidate(
        name=name,
        weights=tuple(weights.tolist()),
        bias=bias,
        outputs=outputs,
        score=score(rows.metric, rows.targets, outputs, rows.kind),
        low=interval.low,
        high=interval.high,
        seen=score(rows.metric, rows.targets, seen, rows.kind),
    )


def _against(new: Candidate, reference: Candidate, rows: Rows, folds: np.ndarray, level: float) -> Candidate:
    result = compared(reference.outputs, new.outputs, rows, folds, level)
    return Candidate(
        **{name: getattr(new, name) for name in ("name", "weights", "bias", "outputs", "score", "low", "high", "seen")},
        against=reference.name,
        gain=result.difference,
        gain_low=result.low,
        gain_high=result.high,
        chance=result.chance,
    )


def compared(a: np.ndarray, b: np.ndarray, rows: Rows, folds: np.ndarray, level: float = 0.95) -> Comparison:
    """`compare` of two outputs (N, C) for the same rows."""
    ids = np.arange(len(folds)).astype(str)
    one, other = (oof_table(ids, folds, rows.targets, outputs) for outputs in (a, b))
    group_of = {image_id: f"unit {unit:09}" for image_id, unit in zip(ids, rows.units.tolist(), strict=True)}
    return compare(one, other, group_of, rows.metric, rows.kind, level=level)
