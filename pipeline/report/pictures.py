"""Pictures for MLflow, drawn to be read at the size its artifact view shows them (about 900 px wide).

In: plain numbers and arrays. Out: one PNG at the path given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, so it also works where there is no screen

import matplotlib.pyplot as plt
import numpy as np

BLUE, GREY = "#2f6db5", "#5f6b7a"
plt.rcParams.update(
    {
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "figure.dpi": 110,
        "text.parse_math": False,
    }
)


def curves(history: Sequence[Mapping[str, float]], metric: str, path: Path) -> None:
    """Losses and score over the epochs, a thin line a fold. history: one mapping an epoch and fold."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained")
    for fold in sorted({record["fold"] for record in history}):
        rows = [record for record in history if record["fold"] == fold]
        epochs = [record["epoch"] for record in rows]
        first = fold == 0
        train, valid = [r["train_loss"] for r in rows], [r["valid_loss"] for r in rows]
        left.plot(epochs, train, color=GREY, lw=1, label="training" if first else None)
        left.plot(epochs, valid, color=BLUE, lw=1.4, label="validation" if first else None)
        right.plot(epochs, [r["score"] for r in rows], color=BLUE, lw=1.4)
    left.set(title="loss", xlabel="epoch")
    left.legend(frameon=False)
    right.set(title=f"{metric} on validation rows", xlabel="epoch")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Out-of-fold counts, true classes in rows; colour is the share of the row, so rare classes can be read too."""
    n = len(classes)
    counts = np.bincount(targets * n + predictions, minlength=n * n).reshape(n, n)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = min(12.0, 2.5 + 0.42 * n)
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(n), yticks=range(n), xlabel="predicted", ylabel="true", title="out-of-fold images")
    names = [plain(name, i) for i, name in enumerate(classes)]
    axes.set_xticklabels(names, rotation=0 if max(map(len, names)) < 4 else 60)
    axes.set_yticklabels(names)
    if n <= 30:
        for i, j in zip(*np.nonzero(counts), strict=True):
            axes.text(
                j,
                i,
                f"{counts[i, j]}",
                ha="center",
                va="center",
                color="white" if shares[i, j] > 0.5 else "black",
                fontsize=9,
            )
    save(figure, path)


def scatter(targets: np.ndarray, answers: np.ndarray, path: Path) -> None:
    """Out-of-fold answers over the truth, for a regression; on the line they are right."""
    figure, axes = plt.subplots(figsize=(5.6, 5.4), layout="constrained")
    axes.scatter(targets, answers, s=9, alpha=0.35, color=BLUE, lw=0)
    ends = [min(targets.min(), answers.min()), max(targets.max(), answers.max())]
    axes.plot(ends, ends, color=GREY, lw=1)
    axes.set(xlabel="true", ylabel="predicted", title="out-of-fold images")
    save(figure, path)


def differences(
    difference: float,
    interval: tuple[float, float],
    by_fold: Mapping[int, float],
    metric: str,
    names: Sequence[str],
    path: Path,
) -> None:
    """Two runs in pairs: each fold's difference, and all rows' with its interval; right of 0 the second leads."""
    figure, axes = plt.subplots(figsize=(8.2, 1.6 + 0.34 * (len(by_fold) + 1)), layout="constrained")
    rows = len(by_fold)
    axes.axvline(0, color=GREY, lw=1)
    axes.plot(list(by_fold.values()), range(1, rows + 1), "o", color=BLUE, ms=6)
    axes.plot(interval, (0, 0), color=BLUE, lw=3, solid_capstyle="butt")
    axes.plot([difference], [0], "D", color=BLUE, ms=8)
    axes.set_yticks(range(rows + 1), ["all rows, 95 %", *(f"fold {fold}" for fold in by_fold)])
    axes.set(ylim=(-0.6, rows + 0.6), xlabel=f"difference in {metric}, better to the right",
             title=f"{plain(names[1], 1, 60)}\nagainst {plain(names[0], 0, 60)}")  # fmt: skip
    axes.margins(x=0.15)
    save(figure, path)


def plain(name: str, number: int, length: int = 36) -> str:
    """The name, cut to a length that a figure has room for; `#number` where the font has no such letters."""
    short = name if len(name) <= length else name[: length - 1] + "…"
    drawable = all((ord(letter) < 0x250 and letter.isprintable()) or letter == "…" for letter in short)
    return short if drawable else f"#{number}"


def save(figure, path: Path) -> None:
    """Writes and forgets a figure."""
    figure.savefig(path)
    plt.close(figure)
