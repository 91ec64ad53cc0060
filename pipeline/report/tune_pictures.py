"""Pictures of a tuning study, drawn to be read at the size that MLflow's artifact view shows them (about 900 px wide).

In: the study as plain data, read with `tune_study`. Out: PNG files, each only where there is enough to draw. Scores
are out of fold, of a pruned trial the estimate of what it would have come to. Names that the font lacks are replaced by
their numbers, which stand in the page's table of the space too.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from pipeline.report.cv_pictures import drawable
from pipeline.report.pictures import BLUE, GREY, ORANGE, plain, save
from pipeline.report.tune_study import Scale, baseline_score, mean_curve, running_best, scale_of, shown, window, worth

Study = Mapping[str, Any]
Trial = Mapping[str, Any]
LIGHT = "#aab2bd"
SCORES = LinearSegmentedColormap.from_list("scores", ["#d3e2f1", "#7fadd8", BLUE, "#0b2a57"])  # the last is the best
MARKS = {  # kind -> marker, face, edge
    "finished": ("o", BLUE, BLUE),
    "inherited": ("s", "white", BLUE),
    "pruned": ("x", GREY, None),
    "running": ("|", GREY, None),
    "failed": ("v", ORANGE, ORANGE),
}


def draw(study: Study, folder: Path) -> list[Path]:
    """Writes the pictures that there is enough for; returns their paths, in the order of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    scored = [trial for trial in study["trials"] if math.isfinite(worth(trial))]
    panels = [name for name in study["space"] if sum(name in trial["params"] for trial in scored) >= 2]
    pictures = (
        (history, len(study["trials"]) >= 2 and scored),
        (importance, study["importance"]),
        (slices, panels),
        (parallel, len(panels) >= 2),
        (curves, sum(mean_curve(trial).size > 0 for trial in study["trials"]) >= 2),
        (confirmed, study["confirmed"]),
    )
    paths = []
    for picture, enough in pictures:
        if enough:
            paths.append(folder / f"{picture.__name__}.png")
            picture(study, paths[-1])
    return paths


def history(study: Study, path: Path) -> None:
    """The trials in their order with the best so far; what has no score stands at the bottom edge."""
    trials = sorted(study["trials"], key=lambda trial: trial["number"])
    values = np.array([worth(trial) for trial in trials])
    ends = window(study, values)
    figure, axes = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    size = 44 if len(trials) <= 100 else 20
    for kind, (marker, face, edge) in MARKS.items():
        of_kind = [i for i, trial in enumerate(trials) if kind_of(trial) == kind]
        if of_kind:
            y = np.nan_to_num(np.clip(values[of_kind], *ends), nan=ends[0])
            x = [trials[i]["number"] for i in of_kind]
            text = f"{kind}: {len(of_kind)}" + (", at their estimates" if kind == "pruned" else "")
            axes.scatter(x, y, size, face, marker=marker, edgecolor=edge, label=text, clip_on=False, zorder=3)
    order, best = [trial["number"] for trial in trials], running_best(trials, study["greater_is_better"])
    axes.step([*order, order[-1] + 0.5], [*best, best[-1]], BLUE, where="post", lw=1.8, zorder=0.5, label="best so far")
    _baseline_line(axes, study, label=True)
    axes.set(xlabel="trial", ylabel=_metric(study), ylim=ends)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.25)
    axes.set_title("score of each trial" + _beyond(values, ends), loc="left")
    _legend(figure)
    save(figure, path)


def importance(study: Study, path: Path) -> None:
    """A bar a parameter, the share of the score's variance that it explains, with the trials that this holds for."""
    ranked = sorted(study["importance"], key=lambda entry: -entry["share"])
    figure, axes = plt.subplots(figsize=(8.5, 1.0 + 0.52 * len(ranked)), layout="constrained")
    shares = [entry["share"] for entry in ranked]
    bars = axes.barh(range(len(ranked)), shares, height=0.42, color=BLUE)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares], padding=4, fontsize=10)
    names = [*study["space"], *(entry["param"] for entry in ranked)]
    for row, entry in enumerate(ranked):
        among = drawable(f"among {entry['among']}"[:64] + f" ({entry['n']})")
        param = plain(entry["param"], names.index(entry["param"]))
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(param, (0, row - 0.24), (3, 0), fontsize=10.5, **place)
        axes.annotate(among, (1, row - 0.24), (0, 0), fontsize=9, color=GREY, ha="right", **place)
    axes.set(xlim=(0, max(0.2, 1.1 * max(shares))), ylim=(len(ranked) - 0.6, -0.9), yticks=[])
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.spines["left"].set_visible(False)
    axes.set_title("share of the score's variance that a parameter explains", loc="left")
    save(figure, path)


def slices(study: Study, path: Path) -> None:
    """A panel a parameter: the score over its values."""
    trials = [trial for trial in study["trials"] if math.isfinite(worth(trial))]
    names = [name for name in study["space"] if sum(name in trial["params"] for trial in trials) >= 2]
    values = np.array([worth(trial) for trial in trials])
    ends = window(study, values)
    n_columns = min(3, len(names))
    n_rows = math.ceil(len(names) / n_columns)
    size = (8.5, 0.7 + 2.35 * n_rows)
    figure, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        _slice(axes, study, name, [trial for trial in trials if name in trial["params"]], ends)
    for axes in grid[:, 0]:
        axes.set_ylabel(_metric(study, short=n_rows > 1))
    _legend(figure)
    figure.suptitle("score over each parameter" + _beyond(values, ends), x=0.01, ha="left", fontsize=12)
    save(figure, path)


def _slice(axes, study: Study, name: str, trials: Sequence[Trial], ends: tuple[float, float]) -> None:
    spec = study["space"][name]
    scale = scale_of(spec, [trial["params"][name] for trial in trials])
    size = 24 if len(trials) <= 100 else 12
    kinds = {"pruned, at their estimates": ("x", GREY), "finished": ("o", BLUE), "baseline": ("D", ORANGE)}
    for kind, (marker, color) in kinds.items():
        members = [t for t in trials if kind.startswith("baseline" if t["is_baseline"] else t["state"])]
        if members:
            x = [scale.place(trial["params"][name], trial["number"]) for trial in members]
            y = np.clip([worth(trial) for trial in members], *ends)
            style = {"s": 60, "edgecolor": "white", "zorder": 4} if kind == "baseline" else {"s": size, "alpha": 0.75}
            axes.scatter(x, y, c=color, marker=marker, label=kind, **style)
    _baseline_line(axes, study)
    places, texts = zip(*scale.ticks(4), strict=True)
    axes.set(xlim=(-0.06, 1.06), ylim=ends)
    axes.set_xticks(places, [plain(text, i, 16) for i, text in enumerate(texts)], fontsize=9)
    if scale.choices and sum(len(text) + 1 for text in texts) > 30:
        plt.setp(axes.get_xticklabels(), rotation=25 if len(texts) < 6 else 60, ha="right", rotation_mode="anchor")
    axes.set_title(tail(name, list(study["space"]).index(name), 28), loc="left", fontsize=10.5)
    if spec["when"]:
        axes.set_xlabel(drawable(f"if {spec['when']}"[:36]), fontsize=8.5, color=GREY)
    axes.grid(alpha=0.25)


def parallel(study: Study, path: Path) -> None:
    """Parallel coordinates on their side, for names and ticks need the width: a row a parameter, then the score."""
    names = [name for name in study["space"] if any(name in trial["params"] for trial in study["trials"])]
    scored = sorted(
        (trial for trial in study["trials"] if math.isfinite(worth(trial))),
        key=lambda trial: (trial["state"] == "finished", worth(trial) * (1 if study["greater_is_better"] else -1)),
    )
    values = np.array([worth(trial) for trial in scored])
    low, high = window(study, values)
    scales = {n: scale_of(study["space"][n], [t["params"][n] for t in scored if n in t["params"]]) for n in names}
    score = Scale(False, (), *((low, high) if study["greater_is_better"] else (high, low)))  # better to the right
    rows, unused = np.arange(len(names) + 1), -0.13
    figure, axes = plt.subplots(figsize=(8.5, 1.1 + 0.72 * len(rows)), layout="constrained")
    paint = _paint(study, (low, high))
    n_finished = sum(trial["state"] == "finished" for trial in scored)
    for i, trial in enumerate(scored):
        has = trial["params"]
        x = [scales[n].place(has[n], trial["number"]) if n in has else unused for n in names]
        x.append(score.place(float(np.clip(worth(trial), low, high)), 0))
        bold = i >= len(scored) - min(n_finished / 10, 10) or trial["is_baseline"]
        style: dict[str, Any] = _style(trial, paint, bold) | {"alpha": 1 if bold or len(scored) <= 100 else 0.25}
        axes.plot(x, rows, **style)
        axes.plot(x[-1:], rows[-1:], "o", ms=5, color=style["color"], zorder=4 + trial["is_baseline"], clip_on=False)
    box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.6}
    axes.axvspan(unused - 0.05, unused + 0.05, color=LIGHT, alpha=0.2, lw=0)
    for row, scale in zip(rows, [*scales.values(), score], strict=True):
        axes.plot([0, 1], [row, row], color=GREY, lw=1, zorder=3.5)
        ticks = scale.ticks(6)
        for i, (place, text) in enumerate(ticks):
            axes.plot([place, place], [row, row + 0.09], color=GREY, lw=1, zorder=3.5)
            short = plain(text, i, max(3, 80 // len(ticks)))
            axes.text(place, row + 0.15, short, fontsize=8.5, ha="center", va="top", zorder=5, bbox=box)
    labels = [tail(name, list(study["space"]).index(name), 28) for name in names]
    axes.set_yticks(rows, [*labels, plain(study["metric"], 0, 28)])
    axes.tick_params(length=0)
    axes.set(ylim=(len(rows) - 0.5, -0.3), xlim=(unused - 0.05, 1.04), xticks=[])
    axes.spines[:].set_visible(False)
    axes.text(unused, -0.34, "not used", ha="center", va="bottom", fontsize=9, color=GREY)
    text = "a line a trial, its score at the bottom, better to the right and darker\ngrey: pruned; dashed: baseline"
    axes.set_title(text + _beyond(values, (low, high)), x=0.13, loc="left", fontsize=10)
    save(figure, path)


def curves(study: Study, path: Path) -> None:
    """Score on the validation rows after each epoch, mean of a trial's folds; a cross where a trial was pruned."""
    drawn = [(trial, mean_curve(trial)) for trial in study["trials"]]
    drawn = [(trial, curve) for trial, curve in drawn if curve.size]
    drawn.sort(key=lambda pair: (pair[0]["state"] == "finished", pair[0]["number"]))
    paint = _paint(study, window(study, np.array([worth(t) for t, _ in drawn if t["state"] == "finished"])))
    ends = window(study, np.concatenate([curve for _, curve in drawn]))
    figure, axes = plt.subplots(figsize=(8.5, 4.9), layout="constrained")
    for trial, curve in drawn:
        epochs = np.arange(1, len(curve) + 1)
        label = "baseline" if trial["is_baseline"] else {"failed": "failed", "running": "running"}.get(trial["state"])
        axes.plot(epochs, curve, marker="." if len(curve) == 1 else "", label=label, **_style(trial, paint))
        if trial["state"] == "pruned":
            stop = len(list(trial["folds"].values())[-1])  # of the fold that was trained last
            y = np.clip(curve[stop - 1 : stop], *ends)
            axes.plot(range(stop, stop + len(y)), y, "x", color=GREY, ms=6, ls="", label="pruned here", zorder=3)
    axes.set(xlabel="epoch", ylabel=_metric(study), ylim=ends)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    axes.set_title("score after each epoch, mean of the folds that got there", loc="left")
    if any(trial["state"] == "finished" for trial, _ in drawn):
        figure.colorbar(paint, ax=axes, pad=0.02, aspect=30, label="score of the finished trial")
    _legend(figure)
    save(figure, path)


def confirmed(study: Study, path: Path) -> None:
    """The settings that were trained again: scores of the study and of fresh seeds, and differences to the baseline."""
    entries = study["confirmed"]
    rows, names = np.arange(len(entries)), [*study["space"], *(key for entry in entries for key in entry["changes"])]
    size = (8.5, 1.7 + 0.75 * len(entries))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    scores = np.array([[entry["study_value"], entry["fresh_value"]] for entry in entries], dtype=float)
    left.hlines(rows, scores.min(axis=1), scores.max(axis=1), color=LIGHT, lw=2)
    left.plot(scores[:, 0], rows, "o", mfc="white", mec=BLUE, mew=1.8, ms=9, label="in the study")
    left.plot(scores[:, 1], rows, "D", color=BLUE, ms=7, label="with fresh seeds")
    left.set(zorder=1, facecolor="none")
    box = {"fc": "white", "ec": "none", "pad": 1.5}
    style: dict[str, Any] = {"transform": left.get_yaxis_transform(), "va": "center", "fontsize": 9.5, "bbox": box}
    right.axvline(0, color=ORANGE, ls="--", lw=1.6)
    for row, entry in zip(rows, entries, strict=True):
        name = ("baseline" if entry["is_baseline"] else f"trial {entry['number']}") + ", chosen" * entry["chosen"]
        changes = [f"{plain(key, names.index(key))} {plain(shown(v), 0)}" for key, v in entry["changes"].items()]
        text = plain(": ".join([name, ", ".join(changes)][: 1 + bool(changes)]), row, 96)
        at = left.text(0, row - 0.3, text, weight="bold" if entry["chosen"] else "normal", **style)
        at.set_in_layout(False)  # it may go on over the second panel
        if entry["difference"] is not None:
            if entry["low"] is not None and entry["high"] is not None:
                right.plot([entry["low"], entry["high"]], [row, row], color=BLUE, lw=3, solid_capstyle="butt")
            right.plot([entry["difference"]], [row], "D", color=BLUE, ms=8)
    left.set(yticks=[], ylim=(len(entries) - 0.5, -0.6), xlabel=_metric(study))
    left.set_title("scores", loc="left")
    right.set_title("difference to the baseline", loc="left")
    right.set_xlabel("with fresh seeds, better to the right")
    for axes in (left, right):
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.12)
        axes.grid(axis="x", alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure)
    save(figure, path)


def kind_of(trial: Trial) -> str:
    """Its state; of a finished trial of an older study, `inherited`."""
    return "inherited" if trial["inherited"] and trial["state"] == "finished" else trial["state"]


def tail(name: str, number: int, length: int) -> str:
    """A name cut at its beginning: parameters differ in their last words. `#number` where the font lacks letters."""
    return plain(name if len(name) <= length else "…" + name[1 - length :], number, length)


def _beyond(values: np.ndarray, ends: tuple[float, float]) -> str:
    n = int(((values < ends[0]) | (values > ends[1])).sum())
    return f"; {n} far worse, at the edge" if n else ""


def _baseline_line(axes, study: Study, label: bool = False) -> None:
    value = baseline_score(study)
    if math.isfinite(value):
        axes.axhline(value, color=ORANGE, ls="--", lw=1.4, zorder=1, label=f"baseline, {value:.4f}" if label else None)


def _paint(study: Study, ends: tuple[float, float]) -> ScalarMappable:
    return ScalarMappable(Normalize(*ends), SCORES if study["greater_is_better"] else SCORES.reversed())


def _style(trial: Trial, paint: ScalarMappable, bold: bool = False) -> dict[str, Any]:
    """Of its line: coloured by the score, grey where there is no final one."""
    if trial["is_baseline"]:
        return {"color": ORANGE, "lw": 2.4, "ls": "--", "zorder": 3}
    if trial["state"] == "finished":
        return {"color": paint.to_rgba(np.atleast_1d(worth(trial)))[0], "lw": 2.2 if bold else 1.3}
    return {"color": LIGHT, "lw": 0.8} if trial["state"] == "pruned" else {"color": GREY, "lw": 1, "ls": ":"}


def _legend(figure) -> None:
    """Beneath the figure, each text once."""
    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    texts = {text: handle for handle, text in pairs}
    if texts:
        figure.legend(texts.values(), texts, loc="outside lower center", ncols=4, frameon=False, fontsize=10)


def _metric(study: Study, short: bool = False) -> str:
    more = "" if short else f", {'more' if study['greater_is_better'] else 'less'} is better"
    return plain(study["metric"], 0) + more
