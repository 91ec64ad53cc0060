"""Pictures of blends and of the leaderboard, for MLflow and for the terminal's reader.

In: plain numbers. Out: one PNG at the path given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.pictures import BLUE, GREY, ORANGE, plt, save


def blends(candidates: Sequence[Any], singles: Sequence[Any], chosen: str, metric: str, path: Path) -> None:
    """Each run by itself and each blend, cross-fitted, with its 95 % interval; the chosen one in colour.

    candidates, singles: each with `name`, `score`, `low`, `high`.
    """
    each = [*singles, *candidates]
    figure, axes = plt.subplots(figsize=(8.5, 0.9 + 0.42 * len(each)), layout="constrained")
    for i, one in enumerate(each):
        taken = one.name == chosen and i >= len(singles)
        color = BLUE if taken else GREY
        axes.plot([one.low, one.high], [i, i], color=color, lw=2.6 if taken else 1.4)
        axes.plot([one.score], [i], "o", color=color, ms=7 if taken else 5)
        axes.annotate(f"{one.score:.4f}", (one.score, i), xytext=(0, 7), textcoords="offset points", ha="center",
                      fontsize=9, color=color)  # fmt: skip
    if singles:
        axes.axhline(len(singles) - 0.5, color=GREY, lw=0.6, alpha=0.5)
    axes.set_yticks(range(len(each)), [one.name for one in each])
    axes.set_ylim(len(each) - 0.4, -0.75)
    axes.set_xlabel(f"{metric} out of fold, cross-fitted, with 95 % interval by whole groups")
    axes.grid(axis="x", alpha=0.25)
    save(figure, path)


def board(
    cv: Sequence[tuple[float, float, float]], expected: Sequence[float | None], public: Sequence[float | None],
    names: Sequence[str], odd: Sequence[bool], recommended: Sequence[int], metric: str, where: str, path: Path,
) -> None:  # fmt: skip
    """Cross-validation against a leaderboard, a point a submission, and hollow what was expected of its average.

    cv: (score, low, high). where: the leaderboard.
    """
    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    known = [i for i, value in enumerate(public) if value is not None]
    for i in known:
        value, (score, low, high) = public[i], cv[i]
        color = ORANGE if odd[i] else BLUE if i in recommended else GREY
        axes.plot([low, high], [value, value], color=color, lw=1, alpha=0.5)
        axes.plot([score], [value], "o", color=color, ms=8 if i in recommended else 6)
        if (ahead := expected[i]) is not None:
            axes.plot([ahead], [value], "D", color=color, mfc="none", ms=6)
        place = (6, (4, -13)[i % 2])
        axes.annotate(names[i], (score, value), xytext=place, textcoords="offset points", fontsize=9, color=color)
    if known:
        ahead_of_it = [v for i in known if (v := expected[i]) is not None]
        values = [cv[i][0] for i in known] + ahead_of_it + [v for v in public if v is not None]
        ends = [min(values), max(values)]
        axes.plot(ends, ends, color=GREY, lw=0.8, ls=":", label="equal")
        axes.plot([], [], "o", color=BLUE, ms=8, label="to select")
        if ahead_of_it:
            axes.plot([], [], "D", color=GREY, mfc="none", label="expected of the average")
        if any(odd):
            axes.plot([], [], "o", color=ORANGE, label="deviates from the others")
        axes.legend(frameon=False, fontsize=10)
    else:
        axes.text(0.5, 0.5, "no leaderboard score yet", transform=axes.transAxes, ha="center", color=GREY)
    axes.set_xlabel(f"{metric} cross-validated, with 95 % interval")
    axes.set_ylabel(f"{metric} {where}")
    axes.grid(alpha=0.25)
    save(figure, path)
