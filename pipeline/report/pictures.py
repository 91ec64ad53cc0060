"""Pictures for MLflow, drawn to be read at the size its artifact view shows them (about 900 px wide).

In: plain numbers and arrays. Out: one PNG at the path given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, so it also works where there is no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

BLUE, GREY, ORANGE = "#2f6db5", "#5f6b7a", "#b4541a"
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


def curves(
    history: Sequence[Mapping[str, float]], metric: str, path: Path, greater_is_better: bool | None = None
) -> None:
    """Losses, score, learning rate and gradient norm over the epochs: a thin line a model, a thick one for their mean.

    history: one mapping an epoch and model. The mean goes as far as all models do, for where some stopped early it
    would be one of others. greater_is_better: of the metric; where it is given, the best epoch of the mean is marked.
    """
    figure, axes = plt.subplot_mosaic(
        [["loss", "score"], ["lr", "grad_norm"]], figsize=(8.5, 4.6), height_ratios=[3.6, 1], layout="constrained"
    )
    _lines(axes["loss"], history, "train_loss", GREY, "training")
    valid = _lines(axes["loss"], history, "valid_loss", BLUE, "validation")
    score = _lines(axes["score"], history, "score", BLUE, "")
    _mark(axes["loss"], valid, lower=True)
    if greater_is_better is not None:
        _mark(axes["score"], score, lower=not greater_is_better)
    for name, key in (("lr", "learning rate"), ("grad_norm", "gradient norm")):
        _lines(axes[name], history, name, GREY, "")
        axes[name].set(xlabel="epoch", ylabel=key, ylim=(0, None))
        axes[name].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes["loss"].set_title("loss", loc="left")
    axes["score"].set_title(f"{metric} on validation rows", loc="left")
    axes["loss"].legend(frameon=False, fontsize=10)
    if axes["score"].get_legend_handles_labels()[0]:
        axes["score"].legend(frameon=False, fontsize=10)
    last = max((record["epoch"] for record in history), default=1)
    for each in axes.values():
        each.set_xlim(*((1, 1.02 * last) if last > 1 else (0.5, 1.5)))
        each.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        each.grid(alpha=0.25)
    save(figure, path)


def _lines(axes, history: Sequence[Mapping[str, float]], key: str, color: str, label: str) -> np.ndarray:
    """Draws every model's values and their mean; returns the mean, (epochs that all models reached,)."""
    models: dict[tuple[float, float], list[float]] = {}
    for record in sorted(history, key=lambda record: record["epoch"]):
        models.setdefault((record["fold"], record.get("seed", 0)), []).append(record[key])
    shared = min(map(len, models.values()), default=0)
    mean = np.mean([values[:shared] for values in models.values()], axis=0) if shared else np.empty(0)
    for values in models.values():
        axes.plot(range(1, len(values) + 1), values, color=color, lw=0.8, alpha=0.4)
    marker = "o" if shared == 1 else ""
    axes.plot(range(1, shared + 1), mean, marker=marker, color=color, lw=2.2, label=label or None)
    return mean


def _mark(axes, mean: np.ndarray, lower: bool) -> None:
    """A ring on the best epoch of a mean curve, which the legend names."""
    if np.isfinite(mean).any():
        best = int(np.nanargmin(mean) if lower else np.nanargmax(mean))
        text = f"best mean: {mean[best]:.4g}, epoch {best + 1}"
        axes.plot([best + 1], [mean[best]], "o", mfc="white", mec=ORANGE, mew=2, ms=8, ls="", label=text)


MOST_DRAWN = 60  # classes of a table of confusion


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Out-of-fold counts, true classes in rows; colour is the share of the row, so rare classes can be read too."""
    kept, title = np.arange(len(classes)), "out-of-fold images"
    if len(classes) > MOST_DRAWN:  # those that are mixed up most: a table of thousands by thousands shows nothing
        wrong = np.concatenate([targets[targets != predictions], predictions[targets != predictions]])
        kept = np.sort(np.argsort(-np.bincount(wrong, minlength=len(classes)), kind="stable")[:MOST_DRAWN])
        title += f", the {MOST_DRAWN} classes of {len(classes):,} with the most mistakes"
    totals, n = np.bincount(targets, minlength=len(classes))[kept], len(kept)
    place = np.full(len(classes), -1)
    place[kept] = np.arange(n)
    rows, columns = place[targets], place[predictions]
    drawn = (rows >= 0) & (columns >= 0)
    counts = np.bincount(rows[drawn] * n + columns[drawn], minlength=n * n).reshape(n, n)
    shares = counts / totals[:, None].clip(min=1)
    side = min(12.0, 2.5 + 0.42 * n)
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(n), yticks=range(n), xlabel="predicted", ylabel="true", title=title)
    names = [plain(classes[i], i) for i in kept.tolist()]
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
