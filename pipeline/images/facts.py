"""What is learned of an image in the one pass that decodes it: enough for the whole first look, and 1.3 KB of it.

In: the decoded image at the store's size. Out: one record of `RECORD`. Everything is computed from the reduced image,
so that a photograph of 20 megapixels costs no more than its decoding.
"""

import hashlib
from typing import Any

import cv2
import numpy as np
from PIL import Image

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
        ("brightness", "<f4"),  # mean luma, 0..1
        ("contrast", "<f4"),  # its standard deviation
        ("blur", "<f4"),  # variance of the Laplacian of luma (0..1): small where nothing is sharp
        ("mean", "<f4", 3),  # per channel of RGB, 0..1
        ("sq", "<f4", 3),  # mean of squares, so that means and deviations of a whole set can be summed up
        ("thumb", "u1", (32, 32)),  # luma
        ("colour", "u1", (4, 4, 3)),
        ("pixels", "S32"),  # SHA-256 of size and pixels, hex: equal for one picture in two formats without loss
    ]
)


def facts_of(image: Image.Image, pixels: np.ndarray, file: FileFacts) -> np.ndarray:
    """() record of `RECORD`, without content, offset and stored.

    image: mode L or RGB, at the store's size. pixels: the same as a contiguous array.
    """
    record: Any = np.zeros((), RECORD)
    for name in ("width", "height", "mode", "format", "orientation", "frames", "bits", "has_alpha"):
        record[name] = getattr(file, name)
    digest = hashlib.sha256(f"{file.width} {file.height} ".encode())
    digest.update(pixels.data)
    record["pixels"] = digest.hexdigest()[:32]
    if min(image.size) > SIDE:
        image = image.reduce(min(image.size) // SIDE)
        pixels = np.asarray(image)
    luma = image.convert("L")
    mean, deviation = cv2.meanStdDev(np.asarray(luma))
    record["brightness"], record["contrast"] = float(mean[0, 0]) / 255, float(deviation[0, 0]) / 255
    mean, deviation = (values[:, 0] / 255 for values in cv2.meanStdDev(pixels))
    record["mean"], record["sq"] = mean, deviation**2 + mean**2  # one grey channel stands for three
    record["blur"] = _laplacian_variance(luma)
    record["thumb"] = np.asarray(luma.resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=2.0))
    record["colour"] = np.asarray(image.resize((4, 4), Image.Resampling.BOX).convert("RGB"))
    return record


def _laplacian_variance(luma: Image.Image) -> float:
    if min(luma.size) < 3:
        return 0.0
    if min(luma.size) >= SIDE:
        luma = luma.reduce(2)  # noise of single pixels is no sharpness
    laplacian = cv2.Laplacian(np.asarray(luma), cv2.CV_16S, ksize=1)[1:-1, 1:-1]
    return float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2 / 255**2)
