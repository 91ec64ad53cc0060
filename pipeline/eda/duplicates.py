"""The same picture more than once: equal bytes, equal pixels, and near-duplicates, mirrored and turned ones too.

In: content hashes and facts of images. Out: pairs and sets as row numbers. A near-duplicate is a pair whose perceptual
hashes agree (pHash: signs of the low frequencies against their median, as in the imagehash package) and whose
thumbnails, shifted by up to `MAX_SHIFT` pixels, correlate. The hash alone is not enough: of 282 pairs within 6 bits
among the 3,500 photos of mask18, 83 show different people; with the correlation none of them is left (LOG.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.competition.grouping import sets_of

THUMB = 32  # side of the thumbnails
MAX_SHIFT = 3  # thumbnail pixels: how far two crops of one photo may lie apart
MIN_SIDE = 16  # px: in smaller images all is low frequency, and alike
BLOCK = 512
SIGNS = (-1.0) ** np.arange(8)
_K, _N = np.arange(8)[:, None], np.arange(THUMB)[None]
DCT = 2 * np.cos(np.pi * _K * (2 * _N + 1) / (2 * THUMB))  # (8, 32): the first rows of the DCT-II


@dataclass(frozen=True)
class NearPair:
    """Rows a < b. bits: how many of 64 differ; correlation: of the aligned thumbnails; turned: which of 8 ways."""

    a: int
    b: int
    bits: int
    correlation: float
    turned: str  # "" as it is, else e.g. "mirrored"


TURNS = {  # (transposed, flipped vertically, flipped horizontally) of the second picture
    (0, 0, 0): "",
    (0, 0, 1): "mirrored",
    (0, 1, 0): "upside down and mirrored",
    (0, 1, 1): "upside down",
    (1, 0, 0): "turned and mirrored",
    (1, 0, 1): "turned",
    (1, 1, 0): "turned",
    (1, 1, 1): "turned and mirrored",
}


def exact_sets(contents: Sequence[str], pixels: np.ndarray) -> list[list[int]]:
    """Sets of rows with equal bytes or equal decoded pixels, each sorted. pixels: (N,) digests of the pixels."""
    edges = [pair for keys in (contents, pixels.tolist()) for pair in _equal(keys)]
    return sets_of(len(contents), edges)


def near_pairs(thumbs: np.ndarray, sides: np.ndarray, max_bits: int, min_correlation: float) -> list[NearPair]:
    """All near-duplicate pairs. thumbs: (N, 32, 32) uint8 grey; sides: (N,) short sides of the images in px.

    Images below `MIN_SIDE` and images of one colour are left out: nothing in them tells copies from look-alikes.
    """
    if len(thumbs) < 2:
        return []
    flat = thumbs.reshape(len(thumbs), -1).std(axis=1) < 2.0
    rows = np.flatnonzero((sides >= MIN_SIDE) & ~flat)
    thumbs = thumbs[rows]
    hashes = dict(_hashes(thumbs))
    upright = hashes[0, 0, 0]
    best: dict[tuple[int, int], NearPair] = {}
    for turn, turned in hashes.items():
        for a, b, bits in _within(upright, turned, max_bits):
            correlation = _aligned_correlation(thumbs[a], _turn(thumbs[b], turn))
            for i in np.flatnonzero(correlation >= min_correlation):
                key = int(rows[a[i]]), int(rows[b[i]])
                if key not in best or correlation[i] > best[key].correlation:
                    best[key] = NearPair(*key, int(bits[i]), round(float(correlation[i]), 4), TURNS[turn])
    return [best[key] for key in sorted(best)]


def _equal(keys: Sequence) -> Iterator[tuple[int, int]]:
    first: dict = {}
    for i, key in enumerate(keys):
        if first.setdefault(key, i) != i:
            yield first[key], i


def _hashes(thumbs: np.ndarray) -> Iterator[tuple[tuple[int, int, int], np.ndarray]]:
    """(N,) uint64 pHash for each of the 8 ways to turn a picture, from one transform.

    A mirror image has the same frequencies with the odd ones negated, a transposed one has them transposed; so seven
    of the eight hashes cost a median each, and no further decode or transform.
    """
    low = np.einsum("ui,nij,vj->nuv", DCT, thumbs.astype(np.float64), DCT, optimize=True)
    for turn in TURNS:
        transposed, vertical, horizontal = turn
        turned = low.transpose(0, 2, 1) if transposed else low
        turned = turned * (SIGNS[:, None] if vertical else 1) * (SIGNS[None] if horizontal else 1)
        values = turned.reshape(len(thumbs), 64)
        bits = values > np.median(values, axis=1, keepdims=True)
        yield turn, np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _turn(thumbs: np.ndarray, turn: tuple[int, int, int]) -> np.ndarray:
    transposed, vertical, horizontal = turn
    thumbs = thumbs.transpose(0, 2, 1) if transposed else thumbs
    thumbs = thumbs[:, ::-1] if vertical else thumbs
    return thumbs[:, :, ::-1] if horizontal else thumbs


def _within(upright: np.ndarray, turned: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Blocks of (a, b, bits) with a < b and at most `max_bits` between upright[a] and turned[b]."""
    for start in range(0, len(upright), BLOCK):
        block = upright[start : start + BLOCK]
        distance = np.bitwise_count(block[:, None] ^ turned[None, start:])
        i, j = np.nonzero(distance <= max_bits)
        keep = j > i
        i, j = i[keep], j[keep]
        for part in range(0, len(i), 20_000):  # a bound on memory where very many are alike
            a, b = i[part : part + 20_000], j[part : part + 20_000]
            yield a + start, b + start, distance[a, b]


def _aligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) the best Pearson correlation of pairs of thumbnails over small shifts of the second. Both: (P, 32, 32)."""
    inner = slice(MAX_SHIFT, THUMB - MAX_SHIFT)
    a = _centred(first[:, inner, inner])
    best = np.full(len(first), -1.0, np.float32)
    for dy in range(2 * MAX_SHIFT + 1):
        for dx in range(2 * MAX_SHIFT + 1):
            side = THUMB - 2 * MAX_SHIFT
            b = _centred(second[:, dy : dy + side, dx : dx + side])
            best = np.maximum(best, (a * b).sum(axis=1))
    return best


def _centred(thumbs: np.ndarray) -> np.ndarray:
    """(P, n) float32 with mean 0 and norm 1 in each row; rows of one colour stay 0."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
