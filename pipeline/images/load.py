"""From rows of a competition to one uint8 array through the fixed preprocessing, out of the store or the files.

In: rows and a `Preprocessing`. Out: `(N, px, px, channels)` uint8, in the order of the rows. Validation, out-of-fold
and test all come through here. From the files it is timm's evaluation transform to the pixel; from the store it is that
too where the file was not larger than the store, and else within `TOLERANCE` of it on photographs.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.competition.contract import Row
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.images.decode import (
    MAX_PIXELS,
    MIDDLE,
    Unreadable,
    as_image,
    enlarge,
    open_image,
    resize_and_crop,
    resize_and_crop_fast,
    shrink,
)
from pipeline.images.store import Side, Store, unreadable

TOLERANCE = {"mean": 1.0, "99.9 %": 8.0}  # grey levels of 255 between store and file, tested on photo-like images
TASK = 16  # images that a thread takes at once, since handing one over costs as much as resizing a small one
IN_MEMORY = 1 << 30  # bytes; larger arrays lie in a file without a name, so that they may exceed the memory


def load_images(
    rows: Sequence[Row], spec: Preprocessing, store: Store | None = None, hashes: Sequence[str] = (),
    at: tuple[float, float] = MIDDLE,
) -> np.ndarray:  # fmt: skip
    """`(N, px, px, C)` uint8, C = 3 for RGB and 1 for L. Raises `Mistakes` naming every unreadable file.

    store, hashes: where the pixels are, and the content hash of each row; without them the files are decoded. at: which
    square of an image, from its left or top edge (0) to the other (1).
    """
    channels = {"RGB": 3, "L": 1}[spec.mode]
    images = _array((len(rows), spec.px, spec.px, channels), store.folder.parent if store else None)

    def fill(index: int) -> Mistake | None:
        stored = store.pixels(hashes[index]) if store else None
        if store and stored is not None and store.is_reduced(hashes[index]):
            images[index] = resize_and_crop_fast(stored, spec, at)
            return None
        try:
            image = open_image(rows[index]["path"])[0] if stored is None else as_image(stored)
        except Unreadable as error:
            return unreadable(rows[index], error)
        images[index] = resize_and_crop(image, spec, at)
        return None

    parts = [range(start, min(start + TASK, len(rows))) for start in range(0, len(rows), TASK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # resizing lets go of the interpreter lock
        done = pool.map(lambda part: [fill(index) for index in part], parts)
        mistakes = [mistake for part in done for mistake in part if mistake]
    if mistakes:
        raise Mistakes(mistakes)
    return images


def load_one(source: str | BinaryIO, spec: Preprocessing, side: Side) -> np.ndarray:
    """(px, px, C) uint8 of a file that is in no store, as `load_images` gives it out of a store of that side.

    Raises `Unreadable`, also for a picture so narrow that it would fill the memory once it is enlarged.
    """
    image, file = open_image(source, 0 if side == "off" else side)
    short, sides = int(spec.px / spec.crop), sorted((file.width, file.height))
    if short * short * sides[1] / sides[0] > MAX_PIXELS:
        raise Unreadable(f"{file.width} x {file.height} px, which at a short side of {short} px is a bomb")
    if side != "off":
        pixels = shrink(image, side)
        if pixels.shape[0] < file.height:
            return resize_and_crop_fast(pixels, spec)
    return resize_and_crop(image, spec)


def row_pixels(
    rows: Sequence[Row], spec: Preprocessing, store: Store, hashes: Sequence[str]
) -> Callable[[int], np.ndarray]:
    """Row number -> (h, w, 1 or 3) uint8, its whole image: a view of the store's map, or the file decoded anew.

    An image that is smaller than the preprocessing's is enlarged by it here: training would else see another kind of
    blur than validation, which cost the digits half a point.
    """
    stored = [store.pixels(content) for content in hashes]
    short = int(spec.px / spec.crop)

    def pixels(row: int) -> np.ndarray:
        view = stored[row]
        if view is not None and min(view.shape[:2]) >= short:
            return view
        image = open_image(rows[row]["path"])[0] if view is None else as_image(view)
        image = enlarge(image, spec)
        return np.asarray(image).reshape(image.height, image.width, -1)

    return pixels


def load_thumbnails(rows: Sequence[Row], side: int, store: Store, hashes: Sequence[str]) -> list[np.ndarray]:
    """(h, w, 1 or 3) uint8 each, whole images with a long side of at most `side`."""
    thumbnails = []
    for row, content in zip(rows, hashes, strict=True):
        stored = store.pixels(content)
        image = open_image(row["path"], side)[0] if stored is None else as_image(stored)
        image.thumbnail((side, side))
        thumbnails.append(np.asarray(image).reshape(image.height, image.width, -1))
    return thumbnails


def _array(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    if int(np.prod(shape)) <= IN_MEMORY or folder is None:
        return np.empty(shape, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:  # gone when the array is, whatever ends this process
        file.truncate(int(np.prod(shape)))
        return np.memmap(file, np.uint8, "r+", shape=shape)
