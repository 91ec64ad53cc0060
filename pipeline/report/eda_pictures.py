"""The first look's figures as PNG files, drawn to be read at the size that MLflow's artifact view shows them.

In: `findings` as plain data, thumbnails. Out: the files, each figure one. Names of classes that the font lacks are
replaced by their numbers on the figure; the page, which is text, shows them as they are.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.atomic import atomic
from pipeline.report.pictures import BLUE, GREY, ORANGE, plain, save

MAX_BARS, MAX_ROWS = 40, 24
TITLES = {"width": "width, px", "height": "height, px", "aspect": "width to height", "brightness": "brightness",
          "contrast": "contrast", "sharpness": "sharpness, log10"}  # fmt: skip


def draw(findings: Mapping[str, Any], thumbnails: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    """All figures for which there is something to show."""
    paths = [folder / "class_counts.png", folder / "examples.png", folder / "images.png"]
    class_counts(findings["classes"], paths[0])
    examples(findings["samples"], thumbnails, paths[1])
    histograms(findings["images"], paths[2])
    if findings["joint"]:
        paths.append(folder / "label_parts.png")
        joint_tables(findings["joint"], paths[-1])
    if findings["shift"]["verdict"] != "not measured":
        paths.append(folder / "shift.png")
        shift(findings["shift"], paths[-1])
    pairs = [finding for finding in findings["findings"] if any(len(images) > 1 for images in finding["images"])]
    if pairs:
        paths.append(folder / "copies.png")
        copies(pairs[0], thumbnails, paths[-1])
    return paths


def class_counts(classes: list[dict[str, Any]], path: Path) -> None:
    """A bar a class, with its number; of very many classes the largest and the smallest."""
    if len(classes) > MAX_BARS:
        ranked = sorted(classes, key=lambda entry: -entry["n"])
        classes = [*ranked[: MAX_BARS // 2], *ranked[-MAX_BARS // 2 :]]
    labels = [plain(f"{entry['name']}  {entry['means']}".strip(), i) for i, entry in enumerate(classes)]
    figure, axes = plt.subplots(figsize=(8.5, max(2.5, 0.34 * len(classes))), layout="constrained")
    bars = axes.barh(range(len(classes)), [entry["n"] for entry in classes], color=BLUE)
    axes.set_yticks(range(len(classes)), labels)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4, color=GREY)
    axes.invert_yaxis()
    axes.set_title("training images a class", loc="left")
    axes.margins(x=0.08)
    save(figure, path)


def examples(samples: list[dict[str, Any]], thumbnails: Mapping[str, np.ndarray], path: Path) -> None:
    """A row of images a class. Pasted, not plotted: matplotlib takes seconds for as many axes."""
    samples = [s for s in samples[:MAX_ROWS] if all(key in thumbnails for key in s["images"])]
    n_columns = max((len(sample["images"]) for sample in samples), default=1)
    margin, cell = 210, 104
    canvas = Image.new("RGB", (margin + n_columns * cell, max(1, len(samples)) * cell), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for i, sample in enumerate(samples):
        pen.text((margin - 12, i * cell + cell // 2), plain(sample["class"], i, 24), "#1d2129", font, anchor="rm")
        for j, key in enumerate(sample["images"]):
            pixels = thumbnails[key]
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            scale = (cell - 8) / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            canvas.paste(picture.resize(size), (margin + j * cell, i * cell + (cell - size[1]) // 2))
    with atomic(path) as temporary:
        canvas.save(temporary, "PNG")


def histograms(images: Mapping[str, Any], path: Path) -> None:
    """Distributions of sizes and pixels, train as bars and test as a line."""
    keys = [
        key
        for key in TITLES
        if images["train"][key]["counts"] and images["train"][key]["low"] < images["train"][key]["high"]
    ]
    rows = max(1, math.ceil(len(keys) / 3))
    figure, grid = subplots(rows, 3, (8.5, 2.3 * rows))
    for axes in grid.flat[len(keys) :]:
        axes.set_axis_off()
    for axes, key in zip(grid.flat, keys, strict=False):
        edges = images["train"][key]["edges"]
        axes.stairs(
            np.array(images["train"][key]["counts"]) / images["train"]["n"], edges, fill=True, color=BLUE, label="train"
        )
        if images["test"]["n"]:
            shares = np.array(images["test"][key]["counts"]) / images["test"]["n"]
            axes.stairs(shares, edges, color=ORANGE, lw=1.6, label="test")
        axes.set_title(TITLES[key], loc="left", fontsize=11)
        axes.set_yticks([])
    if keys and images["test"]["n"]:
        grid.flat[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def joint_tables(joint: list[dict[str, Any]], path: Path) -> None:
    """Each two parts of the label against each other."""
    figure, grid = plt.subplots(
        1, len(joint), figsize=(min(3.4 * len(joint), 12), 3.2), squeeze=False, layout="constrained"
    )
    for axes, table in zip(grid.flat, joint, strict=True):
        counts = np.array(table["counts"])
        axes.imshow(counts, cmap="Blues", vmin=0, vmax=counts.max() * 1.4 or 1, aspect="auto")
        axes.set_xticks(range(counts.shape[1]), [plain(v, i) for i, v in enumerate(table["column_values"])])
        axes.set_yticks(range(counts.shape[0]), [plain(v, i) for i, v in enumerate(table["row_values"])])
        axes.set_title(plain(f"{table['rows']} and {table['columns']}", 0), loc="left", fontsize=11)
        for i, j in np.ndindex(*counts.shape):
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=9)
    save(figure, path)


def shift(measured: Mapping[str, Any], path: Path) -> None:
    """The AUC of train against test with its interval, over the band of train against train."""
    figure, grid = subplots(1, 1, (8.5, 1.7))
    axes = grid[0, 0]
    axes.axvspan(measured["null_low"], measured["null_high"], color=BLUE, alpha=0.22, label="train against train")
    reach = [[measured["auc"] - measured["low"]], [measured["high"] - measured["auc"]]]
    axes.errorbar([measured["auc"]], [0], xerr=reach, fmt="o", color=ORANGE, capsize=4, label="train against test")
    axes.set(xlim=(0.4, 1.0), ylim=(-1, 1), yticks=[])
    axes.set_title(f"AUC of telling test images from training images: {measured['verdict']}", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    save(figure, path)


def copies(finding: Mapping[str, Any], thumbnails: Mapping[str, np.ndarray], path: Path) -> None:
    """The first sets of copies, side by side."""
    sets = [images for images in finding["images"] if len(images) > 1][:12]
    n_rows = math.ceil(len(sets) / 4)
    figure, grid = subplots(n_rows, 4, (8.5, 1.3 * n_rows + 0.4))
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, images in zip(grid.flat, sets, strict=False):
        for i, key in enumerate(images[:2]):
            inset = axes.inset_axes((0.5 * i, 0, 0.48, 1))
            inset.set_axis_off()
            show(inset, thumbnails[key])
    figure.suptitle(plain(finding["title"], 0, 90), ha="left", x=0.01, fontsize=11)
    save(figure, path)


def show(axes, pixels: np.ndarray) -> None:
    """A thumbnail of one channel or three."""
    axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)


def subplots(n_rows: int, n_columns: int, size: tuple[float, float]):
    """(figure, (n_rows, n_columns) array of axes)"""
    return plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
