"""What is learned of an image in the one pass that decodes it: enough for the whole first look, and 3.4 KB of it.

In: the pixels at the store's size. Out: one record of `RECORD`. Everything is computed from the reduced image,
so that a photograph of 20 megapixels costs no more than its decoding.
"""

import hashlib
import zlib
from typing import Any

import cv2
import numpy as np

from pipeline.images.decode import FileFacts

SIDE = 256  # the facts' own working size, whatever the store's
RECORD = np.dtype(
    [
        ("content", "S32"),  # SHA-256 of the file's bytes, hex
        ("offset", "<u8"),  # of the pixels in the store
        ("stored", "<u4", 3),  # their height, width and channels; 0 where only facts are kept
        ("width", "<u4"),
        ("height", "<u4"),
        ("mode", "S8"),
        ("format", "S8"),
        ("orientation", "u1"),
        ("frames", "<u4"),
        ("bits", "u1"),
        ("has_alpha", "?"),
        ("n_bytes", "<u8"),  # of the file
        ("quantisation", "<f4"),  # mean entry of a JPEG's tables, 0 for other formats
        ("camera", "S24"),
        ("extras", "S64"),  # names of what else the file holds
        ("brightness", "<f4"),  # mean luma, 0..1
        ("contrast", "<f4"),  # its standard deviation
        ("blur", "<f4"),  # variance of the Laplacian of luma (0..1): small where nothing is sharp
        ("mean", "<f4", 3),  # per channel of RGB, 0..1
        ("sq", "<f4", 3),  # mean of squares, so that means and deviations of a whole set can be summed up
        ("thumb", "u1", (32, 32, 3)),
        ("colour", "u1", (4, 4, 3)),
        ("pixels", "S32"),  # SHA-256 of size and pixels, hex: equal for one picture in two formats without loss
        ("check", "<u4"),  # CRC-32 of all the above
    ]
)


def facts_of(pixels: np.ndarray, file: FileFacts) -> np.ndarray:
    """() record of `RECORD`, without content, offset and stored. pixels: (h, w, 1 or 3) uint8, at the store's size."""
    record: Any = np.zeros((), RECORD)
    for name, value in vars(file).items():
        record[name] = value.encode("ascii", "replace") if isinstance(value, str) else value
    record["pixels"] = pixels_hash(file.width, file.height, pixels)
    if (block := min(pixels.shape[:2]) // SIDE) > 1:
        pixels = _shrunk(pixels, (pixels.shape[1] // block, pixels.shape[0] // block))
    luma = pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(luma)
    record["brightness"], record["contrast"] = float(mean[0, 0]) / 255, float(deviation[0, 0]) / 255
    mean, deviation = (values[:, 0] / 255 for values in cv2.meanStdDev(pixels))
    record["mean"], record["sq"] = mean, deviation**2 + mean**2
    record["blur"] = _laplacian_variance(luma)
    is_small = min(pixels.shape[:2]) < 32
    thumb = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_CUBIC if is_small else cv2.INTER_AREA)
    record["thumb"] = thumb.reshape(32, 32, -1)  # one grey channel stands for three
    half = _shrunk(pixels, (max(pixels.shape[1] // 2, 1), max(pixels.shape[0] // 2, 1)))  # fast, and the rest is less
    record["colour"] = _shrunk(half, (4, 4)).reshape(4, 4, -1)  # one grey channel stands for three
    return record


def pixels_hash(width: int, height: int, pixels: np.ndarray) -> str:
    """What a record says of its pixels. width, height: of the file's image."""
    digest = hashlib.sha256(f"{width} {height} ".encode())
    digest.update(pixels.data)
    return digest.hexdigest()[:32]


def checks_of(records: np.ndarray) -> np.ndarray:
    """(N,) uint32, what `check` of each record must be."""
    raw = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), RECORD.itemsize)
    return np.array([zlib.crc32(row[:-4].tobytes()) for row in raw], np.uint32)


def _shrunk(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # means of areas; linear where it enlarges


def _laplacian_variance(luma: np.ndarray) -> float:
    height, width = luma.shape[:2]
    if min(height, width) < 3:
        return 0.0
    if min(height, width) >= SIDE:
        luma = _shrunk(luma, (width // 2, height // 2))  # noise of single pixels is no sharpness
    laplacian = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)[1:-1, 1:-1]
    return float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2 / 255**2)
