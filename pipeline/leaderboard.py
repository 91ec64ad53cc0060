"""What a leaderboard says beside the cross-validation: what to expect, what deviates, what to select in the end.

In: plain numbers of past submissions. Out: numbers, and the words for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ENOUGH = 3  # pairs of scores, from which on their spread says something
SHOWN = 5e-5  # what a leaderboard of four decimals cannot show


@dataclass(frozen=True)
class Expected:
    """A leaderboard's score, from past pairs. low, high: None where there are too few of them to say."""

    value: float
    low: float | None
    high: float | None
    n: int
    shift: float  # mean of leaderboard less cross-validation


def expected(
    cv: float, pairs: Sequence[tuple[float, float]], span: tuple[float, float] = (-np.inf, np.inf)
) -> Expected | None:
    """What the leaderboard should show for a cross-validated score; None without past pairs (cv, leaderboard).

    A shift and no slope: submissions of one competition lie within a few points of each other, and a slope fitted to
    such a range is mostly noise. The interval is the 95 % prediction interval of one more pair (Student's t).
    span: what the metric can be, beyond which nothing is expected.
    """
    if not pairs:
        return None
    shifts = np.array([board - score for score, board in pairs])
    n, shift = len(shifts), float(shifts.mean())
    if n < ENOUGH:
        return Expected(float(np.clip(cv + shift, *span)), None, None, n, shift)
    half = float(stats.t.ppf(0.975, n - 1) * shifts.std(ddof=1) * (1 + 1 / n) ** 0.5)
    value, low, high = (float(np.clip(cv + shift + d, *span)) for d in (0, -half, half))
    return Expected(value, low, high, n, shift)


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, of cross-validation with the leaderboard; None for fewer than three pairs, or where all are equal."""
    if len(pairs) < ENOUGH:
        return None
    a, b = np.array(pairs).T
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(stats.spearmanr(a, b).statistic)


def deviating(pairs: Sequence[tuple[float, float]]) -> list[bool]:
    """Which pairs lie off the others' shift by more than luck; none where there are fewer than four.

    Each shift against the mean of the others, in standard errors of one more of them (the externally studentised
    residual; Cook & Weisberg 1982, section 2.2.2), beyond Student's t at 5 % for the whole board, by Bonferroni: with
    medians and a fixed limit, one of five boards of four submissions would name somebody who is like all others.
    """
    n = len(pairs)
    if n < ENOUGH + 1:
        return [False] * n
    shifts = np.array([board - score for score, board in pairs])
    limit, found = float(stats.t.ppf(1 - 0.05 / (2 * n), n - 2)), []
    for i in range(n):
        others = np.delete(shifts, i)
        spread = max(float(others.std(ddof=1)), SHOWN)
        found.append(bool(abs(shifts[i] - others.mean()) > limit * spread * (1 + 1 / (n - 1)) ** 0.5))
    return found


@dataclass(frozen=True)
class Entry:
    """A submission as it stands for selection. answers: what it says, row by row."""

    name: str
    cv: float
    low: float
    high: float
    answers: tuple[str, ...]


def recommended(entries: Sequence[Entry], greater_is_better: bool) -> tuple[int, int | None, float]:
    """(best by cross-validation, most different among the good or None, their agreement), as places in `entries`.

    Good: no worse than the best by more than half of its own interval's nearer side, since scores on the same rows rise
    and fall together and differ by less than either varies. Two that answer alike are one try twice. Ties: the first.
    """
    sign = 1 if greater_is_better else -1
    best = max(range(len(entries)), key=lambda i: sign * entries[i].cv)
    top = entries[best]
    slack = (top.cv - top.low if greater_is_better else top.high - top.cv) / 2
    good = [
        i for i, entry in enumerate(entries)
        if i != best and sign * (top.cv - entry.cv) <= slack and len(entry.answers) == len(top.answers)
    ]  # fmt: skip
    agreements = {i: agreement(top.answers, entries[i].answers) for i in good}
    different = [i for i in good if agreements[i] < 1]
    if not different:
        return best, None, 1.0
    other = min(different, key=lambda i: agreements[i])
    return best, other, agreements[other]


def agreement(a: Sequence[str], b: Sequence[str]) -> float:
    """Share of rows with the same answer."""
    return float(np.mean([x == y for x, y in zip(a, b, strict=True)])) if len(a) else 1.0
