"""What out-of-fold rows show, as PNG files for MLflow's artifact view (about 900 px wide).

In: plain arrays, tables and texts, as `review` makes them. Out: the file at the path given. Names of classes come from
outside: the caller passes them through `plain` with their number, so that all pictures call a class the same.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from pipeline.atomic import atomic
from pipeline.report.pictures import BLUE, GREY, ORANGE, plain, save

BLACK = "#1d2129"
MAX_CLASSES = 40
N_COLUMNS, N_ROWS, CELL, GAP, LINE = 6, 4, 150, 8, 16  # of a grid of images; px


def reliability(bins: pd.DataFrame, error: float, path: Path) -> None:
    """Accuracy over confidence, bin by bin, with how many decisions each bin has beneath.

    bins, error: as of `review.calibration`. The whiskers are 95 % Wilson intervals (Wilson 1927) of independent rows: a
    bin of ten rows is off the diagonal by chance alone.
    """
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.6, 6.4), layout="constrained", sharex=True, height_ratios=[3, 1.2]
    )
    seen = bins[bins["n"] > 0]
    width = bins["high"] - bins["low"]
    low, high = wilson(seen["accuracy"].to_numpy(), seen["n"].to_numpy())
    above.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="as sure as right")
    above.bar(seen["low"], seen["accuracy"], width[seen.index], align="edge", color=BLUE, alpha=0.22, edgecolor="white")
    above.vlines(seen["confidence"], low, high, color=BLUE, lw=1.4)
    above.plot(seen["confidence"], seen["accuracy"], "o", color=BLUE, ms=5, label="a bin, with its 95 % interval")
    above.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.14), yticks=np.linspace(0, 1, 6))
    above.legend(frameon=False, loc="upper left", ncols=2, fontsize=10)  # over the bars, which may be anywhere
    above.set_title(f"expected calibration error {error:.4f}", loc="left")
    below.bar(bins["low"], bins["n"], width, align="edge", color=GREY, alpha=0.6, edgecolor="white")
    for middle, n in zip((bins["low"] + width / 2), bins["n"], strict=True):
        text = f"{n:,}" if n < 10_000 else f"{n / 1000:,.0f}k"
        below.annotate(text if n else "", (middle, n), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    below.set(xlabel="confidence in what was said", ylabel="decisions", yticks=[])
    below.margins(y=0.18)
    source = "Guo et al. 2017, arXiv 1706.04599"
    definition = f"error: |accuracy - confidence| of 15 bins, weighed by their decisions ({source})"
    figure.supxlabel(definition, fontsize=8.5, color=GREY)
    save(figure, path)


def wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share of n independent decisions."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - reach, middle + reach


def per_class(table: pd.DataFrame, path: Path) -> None:
    """F1 as bars with precision and recall on them, the worst class first. table: as of `review.per_class_table`."""
    ranked = table.sort_values("f1", kind="stable", na_position="last")
    names = {index: plain(str(name), index) for index, name in table["class"].items()}
    drawn = ranked.head(MAX_CLASSES)
    rows = np.arange(len(drawn))
    figure, (axes, side) = plt.subplots(
        1, 2, figsize=(8.5, 1.3 + 0.3 * len(drawn)), width_ratios=[6, 1], sharey=True, layout="constrained"
    )
    axes.barh(rows, drawn["f1"].fillna(0), color=BLUE, alpha=0.35, height=0.72, label="F1")
    axes.plot(drawn["precision"], rows, "o", mec=BLUE, mfc="none", mew=1.6, ms=9, label="precision", clip_on=False)
    axes.plot(drawn["recall"], rows, "D", color=ORANGE, ms=4.5, label="recall", clip_on=False)
    axes.set_yticks(rows, [names[index] for index in drawn.index])
    axes.set(xlim=(0, 1), ylim=(len(drawn) - 0.4, -1.2))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    side.set_axis_off()
    side.set_xlim(0, 1)
    scores = [f"{f1:.3f}" if np.isfinite(f1) else "none" for f1 in drawn["f1"]]
    of_rows = zip(scores, [f"{n:,}" for n in drawn["support"]], strict=True)
    for row, texts in zip((-0.85, *rows), (("F1", "rows"), *of_rows), strict=True):
        for x, text in zip((0.42, 1), texts, strict=True):
            side.text(x, row, text, ha="right", va="center", fontsize=10, color=BLACK if row >= 0 else GREY)
    more = len(ranked) - len(drawn)
    title = "classes out of fold, the worst first" + (f"; {more:,} better ones are not drawn" if more else "")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    save(figure, path)


def mistakes(
    thumbnails: Sequence[np.ndarray],
    said: Sequence[str],
    truth: Sequence[str],
    confidence: Sequence[float],
    ids: Sequence[str],
    path: Path,
    measure: str = "confidence",
) -> None:
    """The most confident mistakes, at most 24, in the order given. thumbnails: (h, w, 1 or 3) uint8 each.

    measure: what the numbers are; of a regression `error`.
    """
    digits = "%.4g" if measure == "error" else "%.3f"
    captions = [
        [("true: ", right, BLUE), ("said: ", wrong, ORANGE), (f"{measure} ", digits % value, BLACK), ("", name, GREY)]
        for right, wrong, value, name in zip(truth, said, confidence, ids, strict=True)
    ]
    title = "largest errors out of fold" if measure == "error" else "most confident mistakes out of fold"
    grid([[each] for each in thumbnails], captions, title, path)


def label_errors(
    thumbnails: Sequence[np.ndarray],
    given: Sequence[str],
    suggested: Sequence[str],
    self_confidence: Sequence[float],
    ids: Sequence[str],
    path: Path,
) -> None:
    """Rows whose label is suspected to be wrong, at most 24, in the order given.

    self_confidence: the probability of the given label, out of fold.
    """
    captions = [
        [("label: ", old, BLUE), ("or: ", new, ORANGE), ("p(label) ", f"{value:.2g}", BLACK), ("", name, GREY)]
        for old, new, value, name in zip(given, suggested, self_confidence, ids, strict=True)
    ]
    grid(
        [[each] for each in thumbnails],
        captions,
        "suspected label errors: the label given, and what else it may be",
        path,
    )


def attention(images: np.ndarray, heats: np.ndarray, said: Sequence[str], truth: Sequence[str], path: Path) -> None:
    """Images, and beneath each the same one with where the model looked (Grad-CAM) laid over it; at most 24.

    images: (N, H, W, 1 or 3) uint8; heats: (N, H, W) in 0..1.
    """
    colours = matplotlib.colormaps["inferno"]
    pairs = []
    for image, heat in zip(images, heats, strict=True):
        grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)  # colours are left to the heat
        over = 255 * colours(heat)[:, :, :3]
        share = 0.2 + 0.45 * heat[:, :, None]  # the image stays visible where it is cold
        pairs.append([image, ((1 - share) * grey + share * over).astype(np.uint8)])
    captions = [[("true: ", right, BLUE), ("said: ", word, ORANGE)] for right, word in zip(truth, said, strict=True)]
    grid(pairs, captions, "what speaks for the class that was said (Grad-CAM; bright: most)", path)


def grid(
    columns: Sequence[Sequence[np.ndarray]],
    captions: Sequence[Sequence[tuple[str, str, str]]],
    title: str,
    path: Path,
) -> None:
    """Cells of images above each other and a caption, `N_COLUMNS` x `N_ROWS` of them at most.

    captions: lines of (what it is, text, colour); a text that is too long for one line goes on in a second, and is cut
    there. Pasted, not plotted: matplotlib takes seconds for as many axes.
    """
    font, bold = (ImageFont.truetype(font_manager.findfont(f"DejaVu Sans:{w}"), 12) for w in ("regular", "bold"))
    wrapped = []
    for caption in captions[: N_COLUMNS * N_ROWS]:
        words = [(drawable(what + text), colour) for what, text, colour in caption]
        wrapped.append([(line, colour) for text, colour in words for line in wrap(text, font, CELL - GAP)])
    n_lines = max((len(lines) for lines in wrapped), default=1)
    n_images = max((len(column) for column in columns), default=0)
    height, head = n_images * CELL + n_lines * LINE + 2 * GAP, 34
    n_rows = -(-len(wrapped) // N_COLUMNS)
    canvas = Image.new("RGB", (N_COLUMNS * CELL + GAP, head + max(n_rows * height, LINE)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), title + ("" if wrapped else ": none"), BLACK, bold)
    for i, (column, lines) in enumerate(zip(columns, wrapped, strict=False)):
        left, top = GAP + i % N_COLUMNS * CELL, head + i // N_COLUMNS * height
        for pixels in column:
            picture = fitted(pixels)
            canvas.paste(picture, (left, top + (CELL - GAP - picture.height) // 2))
            top += CELL
        for j, (line, colour) in enumerate(lines):
            pen.text((left, top - GAP // 2 + j * LINE), line, colour, font)
    with atomic(path) as temporary:
        canvas.save(temporary, "PNG")


def fitted(pixels: np.ndarray) -> Image.Image:
    """(h, w, 1 or 3) uint8 as large as a cell allows; small ones keep their pixels visible."""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = (CELL - GAP) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS)


def drawable(text: str) -> str:
    """The text with a box for each letter that not every font has, a line's end among them."""
    return "".join(letter if plain(letter, 0) == letter else "\u25a1" for letter in text)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """One line or two that fit into so many px; what is longer is cut. Names of files have no spaces to break at."""
    lines = []
    for last in (False, True):
        if font.getlength(text) <= width:
            return [*lines, text]
        dots = "…" if last else ""
        n = next(n for n in range(min(len(text), width), 0, -1) if font.getlength(text[:n] + dots) <= width)
        if not last and " " in text[:n] and text.index(" ") != text.rindex(" ", 0, n + 1):
            n = text.rindex(" ", 0, n + 1)
        lines.append(text[:n].rstrip() + dots)
        text = text[n:].lstrip()
    return lines
