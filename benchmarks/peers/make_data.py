"""Writes photo-like JPEGs of about 512x384 in six classes, with train.csv (image_id, label, fold) beside them.

    make_data.py FOLDER [--n 600] [--seed 0]

A picture is a sum of octaves of smoothed noise whose amplitude falls with frequency, as in photographs, a faint sensor
noise, and a shape that tells the class (its colour leans on the class too, so that two epochs learn something). The
same seed writes the same pixels.
"""

import argparse
import colorsys
import math
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

CLASSES = ("disc", "triangle", "square", "star", "ring", "bars")
FOLDS = 5


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Octaves from 3 cells a side down to nearly single pixels; colour varies slowly, brightness at every scale."""
    pixels = np.full((height, width, 3), 115.0)
    for octave in range(8):
        cells = (max(2, round(3 * 2**octave * height / width)), 3 * 2**octave)
        amplitude = 40 * 2 ** (-0.35 * octave)
        for colour, weight in ((False, 1.0), (True, 0.3 if octave < 6 else 0.0)):
            channels = 3 if colour else 1
            for channel in range(channels if weight else 0):
                noise = Image.fromarray(rng.normal(0, amplitude * weight, cells).astype(np.float32))
                smooth = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
                if colour:
                    pixels[..., channel] += smooth
                else:
                    pixels += smooth[..., None]
    return pixels


def outline(kind: str, x: float, y: float, r: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a polygon around (x, y); a disc is a polygon of many corners."""
    corners = {"disc": 60, "ring": 60, "triangle": 3, "square": 4, "star": 10}[kind]
    radii = [r * (0.4 if kind == "star" and i % 2 else 1) for i in range(corners)]
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for radius, a in zip(radii, angles, strict=True)]


def shape(rng: np.random.Generator, kind: str, width: int, height: int) -> Image.Image:
    """A mask of the class's shape, drawn at twice the size so that its edges are soft."""
    mask = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(mask)
    r = height * rng.uniform(0.36, 0.6)
    x, y = 2 * width * rng.uniform(0.35, 0.65), 2 * height * rng.uniform(0.4, 0.6)
    turn = rng.uniform(0, 2 * math.pi)
    if kind == "bars":
        for i in (-1, 0, 1):
            cx, cy = x + 0.7 * i * r * math.cos(turn), y + 0.7 * i * r * math.sin(turn)
            dx, dy = -r * math.sin(turn), r * math.cos(turn)
            draw.line([(cx - dx, cy - dy), (cx + dx, cy + dy)], fill=255, width=round(0.35 * r))
    else:
        draw.polygon(outline(kind, x, y, r, turn), fill=255)
        if kind == "ring":
            draw.polygon(outline(kind, x, y, 0.55 * r, turn), fill=0)
    return mask.resize((width, height), Image.Resampling.BOX)


def picture(seed: int, index: int, label: int) -> Image.Image:
    rng = np.random.default_rng((seed, index))
    width, height = int(rng.integers(496, 529)), int(rng.integers(372, 397))
    pixels = background(rng, width, height)
    hue = (label / len(CLASSES) + rng.normal(0, 0.06)) % 1
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 0.8), rng.uniform(0.6, 1)))
    cover = 0.6 * np.asarray(shape(rng, CLASSES[label], width, height))[..., None] / 255
    pixels = (1 - cover) * pixels + cover * colour + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    labels = rng.permutation(np.arange(args.n) % len(CLASSES))
    folds = np.empty(args.n, int)
    folds[np.lexsort((rng.random(args.n), labels))] = np.arange(args.n) % FOLDS  # class after class, dealt in turn
    ids = [f"img_{i:05d}" for i in range(args.n)]
    (args.folder / "images").mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(ids):
        picture(args.seed, index, int(labels[index])).save(args.folder / "images" / f"{name}.jpg", quality=90)
    table = pd.DataFrame({"image_id": ids, "label": [CLASSES[k] for k in labels], "fold": folds})
    table.to_csv(args.folder / "train.csv", index=False)


if __name__ == "__main__":
    main()
