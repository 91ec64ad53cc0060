"""From image files to one uint8 array, through the fixed preprocessing that validation, out-of-fold and test share.

In: rows of a competition and a `Preprocessing`. Out: `(N, px, px, channels)` uint8, in the order of the rows. Every
file that is no readable image becomes a `Mistake`; all of them are collected before anything is raised.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from pipeline.competition.contract import WHERE, Row
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.config.settings import Preprocessing

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # not the parsers that photographs never need
MAX_PIXELS = 89_000_000  # Pillow only warns up to twice this many
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def load_images(rows: Sequence[Row], spec: Preprocessing) -> np.ndarray:
    """`(N, px, px, C)` uint8, C = 3 for RGB and 1 for L. Raises `Mistakes` naming every unreadable file."""
    channels = {"RGB": 3, "L": 1}[spec.mode]
    images = np.empty((len(rows), spec.px, spec.px, channels), np.uint8)

    def fill(index: int) -> Mistake | None:
        image, mistake = _open(rows[index], spec.mode)
        if image is not None:
            images[index] = _resize_and_crop(image, spec).reshape(spec.px, spec.px, channels)
        return mistake

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of the interpreter lock while it decodes
        mistakes = [mistake for mistake in pool.map(fill, range(len(rows))) if mistake]
    if mistakes:
        raise Mistakes(mistakes)
    return images


def describe(rows: Sequence[Row]) -> tuple[list[dict], list[Mistake]]:
    """Decodes every file whole: (width, height, mode, format and mean brightness 0..1 of each, the unreadable ones)."""

    def look(row: Row) -> tuple[dict, Mistake | None]:
        image, mistake = _open(row, "L")
        if image is None:
            return {}, mistake
        info = image.info["podium"]
        return {"image_id": row["image_id"], **info, "brightness": float(np.asarray(image).mean() / 255)}, None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = list(pool.map(look, rows))
    return [facts for facts, mistake in seen if not mistake], [mistake for _, mistake in seen if mistake]


def _open(row: Row, mode: str) -> tuple[Image.Image | None, Mistake | None]:
    """The decoded, upright image in `mode`, or why there is none."""
    try:
        with Image.open(row["path"], formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: a bomb?")
            facts = {"width": image.width, "height": image.height, "mode": image.mode, "format": image.format}
            image.load()  # decodes: a truncated file fails here, not in epoch 7
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
            upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        converted = upright.convert(mode)
        converted.info["podium"] = facts
        return converted, None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        found = f"image {row['image_id']!r} is unreadable: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        valid = f"valid: a whole image file ({', '.join(FORMATS)}) at {row['path']}"
        return None, Mistake(row[WHERE], found, valid, "unreadable images")


def _resize_and_crop(image: Image.Image, spec: Preprocessing) -> np.ndarray:
    """Short side to px / crop, then the centre square: pixel by pixel what timm's evaluation transform gives.

    The roundings are torchvision's (`Resize`: down; `CenterCrop`: to even), because a pretrained network's published
    score was measured with them.
    """
    short = int(spec.px / spec.crop)
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if size != image.size:
        image = image.resize(size, RESAMPLING[spec.interpolation])
    left, top = round((size[0] - spec.px) / 2), round((size[1] - spec.px) / 2)
    return np.asarray(image.crop((left, top, left + spec.px, top + spec.px)))
