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
from PIL import Image

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
    opened,
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
            image = _decoded(rows[index], hashes[index] if store else "") if stored is None else as_image(stored)
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
    if why := _narrow(file.width, file.height, spec):
        raise Unreadable(why)
    if side != "off":
        pixels = shrink(image, side)
        if pixels.shape[0] < file.height:
            return resize_and_crop_fast(pixels, spec)
    return resize_and_crop(image, spec)


def too_narrow(rows: Sequence[Row], hashes: Sequence[str], store: Store, spec: Preprocessing) -> list[Mistake]:
    """Images so narrow that, enlarged to the model's size, they would fill the memory."""
    there = [i for i, content in enumerate(hashes) if store.has(content)]
    records = store.facts([hashes[i] for i in there])
    reasons = [_narrow(int(record["width"]), int(record["height"]), spec) for record in records]
    return [unreadable(rows[i], ValueError(why)) for i, why in zip(there, reasons, strict=True) if why]


def _narrow(width: int, height: int, spec: Preprocessing) -> str:
    short, sides = int(spec.px / spec.crop), sorted((width, height))
    is_bomb = short * short * sides[1] / sides[0] > MAX_PIXELS
    return f"{width} x {height} px, which at a short side of {short} px is a bomb" if is_bomb else ""


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
        try:
            image = _decoded(rows[row], hashes[row]) if view is None else as_image(view)
        except Unreadable as error:  # whole when the command began
            raise Mistakes([unreadable(rows[row], error)]) from None
        image = enlarge(image, spec)
        return np.asarray(image).reshape(image.height, image.width, -1)

    return pixels


def load_thumbnails(rows: Sequence[Row], side: int, store: Store, hashes: Sequence[str]) -> list[np.ndarray]:
    """(h, w, 1 or 3) uint8 each, whole images with a long side of at most `side`."""
    thumbnails = []
    for row, content in zip(rows, hashes, strict=True):
        stored = store.pixels(content)
        try:
            image = _decoded(row, content, side) if stored is None else as_image(stored)
        except Unreadable as error:
            raise Mistakes([unreadable(row, error)]) from None
        image.thumbnail((side, side))
        thumbnails.append(np.asarray(image).reshape(image.height, image.width, -1))
    return thumbnails


def _decoded(row: Row, content: str, side: int = 0) -> Image.Image:
    """The file's image; with its content hash, of those bytes alone. Raises `Unreadable`."""
    return open_image(opened(row["path"], content) if content else row["path"], side)[0]


def _array(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    if int(np.prod(shape)) <= IN_MEMORY or folder is None:
        return np.empty(shape, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:  # gone when the array is, whatever ends this process
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))  # a full disk would else end the process by a signal
        return np.memmap(file, np.uint8, "r+", shape=shape)
