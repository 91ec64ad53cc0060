"""From an image file to pixels: upright, 8 bits, grey or RGB; and the fixed preprocessing of one such image.

In: a path. Out: a PIL image, or `Unreadable` with the reason. What is unusual in a file (EXIF rotation, a palette, 16
bits, transparency, CMYK, several frames, another format than its name says) is handled here and noted in `FileFacts`.
"""

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from pipeline.config.data import Preprocessing
from pipeline.images.content import OURS

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # not the parsers that photographs never need
MAX_PIXELS = 89_000_000  # Pillow only warns up to twice this many
ORIENTATION = 0x0112  # EXIF's tag
CAMERA = (0x010F, 0x0110)  # EXIF's tags of make and model
DCT_GAP = 1.25  # a JPEG is decoded at a half, quarter or eighth where that is still so many times the size asked for
MIDDLE = (0.5, 0.5)  # where a square lies in an image, from 0 (left, top) to 1
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# what parsers raise on damaged files, and warnings that were turned into errors
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError, Warning),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class Unreadable(Exception):
    """The file is no whole image; the message says why."""


@dataclass(frozen=True)
class FileFacts:
    """What a file says of itself. width, height: of the upright image, in its own pixels."""

    width: int
    height: int
    mode: str
    format: str
    orientation: int
    frames: int
    bits: int
    has_alpha: bool  # some pixel really lets something through
    n_bytes: int  # of the whole file
    quantisation: float  # mean entry of a JPEG's tables: the larger, the coarser; 0 for other formats
    camera: str  # make and model by EXIF
    extras: str  # what else the file holds, by Pillow's names in alphabetical order: "dpi exif icc_profile jfif"


def open_image(path: str | BinaryIO, side: int = 0) -> tuple[Image.Image, FileFacts]:
    """The upright image in mode L (grey files) or RGB. side: the short side that is wanted, 0 for all there is.

    path: of the file, or the file opened, which may lie in memory.

    With a side, a JPEG may come smaller than it is, but no smaller than `DCT_GAP` times that. Raises `Unreadable`.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}: a bomb?")
            mode, kind, frames = image.mode, str(image.format), getattr(image, "n_frames", 1)
            if mode == "F":
                raise ValueError("its pixels are floating-point numbers, whose black and white nobody knows")
            n_bytes, quantisation = _size_and_quantisation(image)
            exif = image.getexif()
            turned = exif.get(ORIENTATION, 1)
            orientation = turned if turned in range(1, 9) else 1  # others mean nothing
            if side and kind in ("JPEG", "MPO"):
                share = min(1.0, DCT_GAP * side / min(width, height))
                image.draft(None, (max(1, int(width * share)), max(1, int(height * share))))
            image.load()  # decodes: a truncated file fails here, not in epoch 7
            upright = image if orientation == 1 else ImageOps.exif_transpose(image)  # which copies
            camera = " ".join(str(exif[tag]).strip() for tag in CAMERA if tag in exif)
            extras = " ".join(sorted(str(name) for name in image.info))
        pixels, bits, has_alpha = _eight_bits(upright)
    except BROKEN as error:
        said = str(error).replace(f" {path!r}", "")  # of a file in memory it would be an address
        reason = said.splitlines()[0][:120] if said else "no reason given"
        raise Unreadable(f"{type(error).__name__}: {reason}") from None
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    about = (n_bytes, quantisation, camera, extras)
    return pixels, FileFacts(width, height, mode, kind, orientation, frames, bits, has_alpha, *about)


def opened(path: str, content: str) -> BytesIO:
    """The file in memory: the very bytes that were hashed. Raises `Unreadable` where it holds others by now."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        if error.errno in OURS:
            raise
        raise Unreadable(f"{type(error).__name__}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest()[:32] != content:
        raise Unreadable("it was replaced while this command worked; let it be, and give the same command again")
    return BytesIO(data)


def _size_and_quantisation(image: Image.Image) -> tuple[int, float]:
    """Of an image that is opened and not yet decoded: (bytes of the file, mean entry of a JPEG's tables or 0)"""
    file: Any = getattr(image, "fp")  # noqa: B009 - of image files, which Pillow's types do not tell from others
    place = file.tell()
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(place)
    tables = [value for table in getattr(image, "quantization", {}).values() for value in table]
    return n_bytes, sum(tables) / max(len(tables), 1)


def _eight_bits(image: Image.Image) -> tuple[Image.Image, int, bool]:
    """(the image in mode L or RGB, bits of a channel in the file, whether any pixel is transparent)"""
    if image.mode.startswith("I"):  # Pillow's own conversion of 16 bits would clip, not scale
        deep = np.asarray(image).astype(np.int64)
        if image.mode != "I" or deep.max() > 255:  # 32 bits may hold values of 8
            deep >>= 8
        return Image.fromarray(deep.clip(0, 255).astype(np.uint8)), 16, False
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        alpha = clear.getchannel("A")
        if np.asarray(alpha).min() < 255:  # what hides under a clear pixel is arbitrary, so white is put behind it
            white = Image.new("RGBA", clear.size, "white")
            return Image.alpha_composite(white, clear).convert("RGB"), 8, True
        return clear.convert("L" if image.mode in ("LA", "La", "L") else "RGB"), 8, False
    kept = "L" if image.mode in ("L", "1") else "RGB"
    return (image if image.mode == kept else image.convert(kept)), 8, False


def shrink(image: Image.Image, side: int) -> np.ndarray:
    """(h, w, 1 or 3) uint8: short side at most `side`, by the roundings of `resize_and_crop`; never enlarged."""
    pixels = np.array(image).reshape(image.height, image.width, -1)
    return pixels if min(image.size) <= side else _resample(pixels, _short_to(image.size, side), "bicubic")


def _resample(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """(h, w, C) uint8 to (height, width, C) of `size`, bilinear or bicubic.

    torch's resampling of bytes is Pillow's to one grey level, in a quarter of its time.
    """
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # a view: channels last, which is the fast way
    resized = F.interpolate(planes, size=size[::-1], mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def enlarge(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """The whole image with the short side that `resize_and_crop` gives it; never shrunk."""
    size = _short_to(image.size, int(spec.px / spec.crop))
    return image if size[0] <= image.width else image.resize(size, RESAMPLING[spec.interpolation])


def resize_and_crop(image: Image.Image, spec: Preprocessing, at: tuple[float, float] = MIDDLE) -> np.ndarray:
    """(px, px, C) uint8: short side to px / crop, then the centre square, pixel by pixel timm's evaluation transform.

    at: where the square lies instead, from 0 (left, top) to 1.

    The roundings are torchvision's (`Resize`: down; `CenterCrop`: to even), because a pretrained network's published
    score was measured with them. Grey is made last, so that stored and decoded images come the same way.
    """
    size = _short_to(image.size, int(spec.px / spec.crop))
    if size != image.size:
        image = image.resize(size, RESAMPLING[spec.interpolation])
    left, top = _corner(size, spec.px, at)
    square = image.crop((left, top, left + spec.px, top + spec.px)).convert(spec.mode)
    return np.asarray(square).reshape(spec.px, spec.px, -1)


def resize_and_crop_fast(pixels: np.ndarray, spec: Preprocessing, at: tuple[float, float] = MIDDLE) -> np.ndarray:
    """The same of (h, w, 1 or 3) uint8, to one grey level; for pixels that were resampled once already."""
    if spec.interpolation not in ("bilinear", "bicubic"):
        return resize_and_crop(as_image(pixels), spec, at)
    size = _short_to((pixels.shape[1], pixels.shape[0]), int(spec.px / spec.crop))
    if size != (pixels.shape[1], pixels.shape[0]):
        pixels = _resample(np.array(pixels), size, spec.interpolation)  # torch wants what it could write to
    left, top = _corner(size, spec.px, at)
    square = pixels[top : top + spec.px, left : left + spec.px]
    if square.shape[2] == len(spec.mode):
        return square
    return np.asarray(as_image(square).convert(spec.mode)).reshape(spec.px, spec.px, -1)


def as_image(pixels: np.ndarray) -> Image.Image:
    """(h, w, 1 or 3) uint8 as an image of mode L or RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _corner(size: tuple[int, int], px: int, at: tuple[float, float]) -> tuple[int, int]:
    """Left and top of the square; in the middle with torchvision's rounding."""
    return round((size[0] - px) * at[0]), round((size[1] - px) * at[1])


def _short_to(size: tuple[int, int], short: int) -> tuple[int, int]:
    width, height = size
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
