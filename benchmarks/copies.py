"""Are copies found, and nothing else? `pipeline/eda/duplicates.py` on real pictures, with seconds and memory.

    .venv/bin/python benchmarks/copies.py FOLDER [planted] [people] [fashion] [cells] [large]

FOLDER holds facemask3/ and mask18/; Fashion-MNIST is read where Debian's dataset-fashion-mnist puts it.

planted   50 copies of each of 34 kinds among the 2,252 faces of facemask3: the share found in a set with the original
people    the same, 40 of each kind, among the 3,500 photos of mask18; pairs of two people in a set (0 is right)
fashion   60,000 training pictures. Pairs whose pixels correlate by more than 0.998, by brute force, belong in one set;
          pairs in sets that correlate by less than 0.97 at every turn and shift of a pixel are counted
cells     share of a full search's candidates that the search by cells has too
large     200,000 blends of two photos each: seconds and peak memory

Seconds are CPU seconds of one thread, without decoding. Each part is best run by itself, for its peak memory.
"""

import gzip
import io
import itertools
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import cv2
import numpy as np
from PIL import Image, ImageOps

from pipeline.eda import candidates as closest
from pipeline.eda.duplicates import copies, luma
from pipeline.images.decode import open_image, shrink
from pipeline.images.facts import SIDE, facts_of

IN_CELL = closest.IN_CELL
FASHION = Path("/usr/share/datasets/fashion-mnist")
Picture = Image.Image


def thumbnail(file: Path | io.BytesIO) -> np.ndarray:
    """(32, 32, 3) as the store keeps it."""
    image, facts = open_image(str(file) if isinstance(file, Path) else file, SIDE)
    return facts_of(shrink(image, SIDE), facts)["thumb"]


def as_file(picture: Picture, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "PNG"} | options))
    buffer.seek(0)
    return buffer


# --- the kinds of copies -------------------------------------------------------------------------------------------


def crop(left: float, top: float, right: float, bottom: float) -> Callable[[Picture], Picture]:
    """Shares of width and height that are cut off."""

    def change(p: Picture) -> Picture:
        box = (left * p.width, top * p.height, (1 - right) * p.width, (1 - bottom) * p.height)
        return p.crop(tuple(map(round, box)))

    return change


def recompressed(quality: int) -> Callable[[Picture], Picture]:
    return lambda p: Image.open(as_file(p, format="JPEG", quality=quality)).convert("RGB")


def levels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Picture], Picture]:
    """change: of float levels, 0 to 255."""
    return lambda p: Image.fromarray(change(np.asarray(p, np.float32)).clip(0, 255).astype(np.uint8))


def moved(share: float) -> Callable[[Picture], Picture]:
    """To the right and down; the edge is repeated."""

    def change(p: Picture) -> Picture:
        x, y = max(1, round(share * p.width)), max(1, round(share * p.height))
        return Image.fromarray(np.pad(np.asarray(p), ((y, 0), (x, 0), (0, 0)), "edge")[: p.height, : p.width])

    return change


def written_on(top: float, height: float, paper: int) -> Callable[[Picture], Picture]:
    """A band with strokes over the left half, on paper of that level (-1: on the picture itself)."""

    def change(p: Picture) -> Picture:
        pixels, at = np.array(p), slice(round(top * p.height), round((top + height) * p.height))
        if paper >= 0:
            pixels[at] = paper
        pixels[at, 3 : p.width // 2 : 3] = 255
        return Image.fromarray(pixels)

    return change


def half(p: Picture) -> Picture:
    return p.resize((max(1, p.width // 2), max(1, p.height // 2)), Image.Resampling.BOX)


def tilted(degrees: float) -> Callable[[Picture], Picture]:
    return lambda p: p.rotate(degrees, Image.Resampling.BILINEAR)


def one_after_the_other(*changes: Callable[[Picture], Picture]) -> Callable[[Picture], Picture]:
    def change(p: Picture) -> Picture:
        for each in changes:
            p = each(p)
        return p

    return change


def framed(p: Picture) -> Picture:
    return ImageOps.expand(p, max(1, round(0.04 * min(p.size))), (255, 255, 255))


def quarter(p: Picture) -> Picture:
    return p.transpose(Image.Transpose.ROTATE_90)


def central(share: float) -> Callable[[Picture], Picture]:
    return crop(share, share, share, share)


def corner(share: float) -> Callable[[Picture], Picture]:
    return crop(0, share, share, 0)


DARKER = levels(lambda x: 0.8 * x)
CAPTION = written_on(0.88, 0.12, 0)
both = one_after_the_other
KINDS: dict[str, Callable[[Picture], Picture]] = {
    "JPEG 40": recompressed(40),
    "half": half,
    "brighter": levels(lambda x: 1.2 * x),
    "darker": DARKER,
    "flatter": levels(lambda x: 0.7 * x + 38),
    "gamma": levels(lambda x: 255 * (x / 255) ** 0.7),
    "warmer": levels(lambda x: x * np.float32([1.15, 1, 0.8])),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "noisy": levels(lambda x: x + np.random.default_rng(0).normal(0, 12, x.shape)),
    "mirrored": ImageOps.mirror,
    "quarter turn": quarter,
    "quarter turn, half": both(quarter, half),
    "mirrored, darker": both(ImageOps.mirror, DARKER),
    **{f"crop {100 * share:.0f} %": central(share) for share in (0.02, 0.05, 0.1, 0.15)},
    "crop 5 %, JPEG 40": both(central(0.05), recompressed(40)),
    **{f"corner {100 - 100 * share:.0f} %": corner(share) for share in (0.07, 0.12, 0.2)},
    "right 85 %": crop(0.15, 0, 0, 0),
    **{f"moved {100 * share:.0f} %": moved(share) for share in (0.03, 0.05, 0.08, 0.12)},
    **{f"tilted {degrees}": tilted(degrees) for degrees in (2, 5, 10)},
    "tilted 3, crop 5 %": both(tilted(3), central(0.05)),
    "framed": framed,
    "caption": CAPTION,
    "text": written_on(0.16, 0.17, -1),
    "caption, JPEG 40": both(CAPTION, recompressed(40)),
}


# --- the parts -----------------------------------------------------------------------------------------------------


def timed(thumbs: np.ndarray, name: str) -> list[list[int]]:
    start = time.process_time()
    sets = copies(thumbs)
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name:9} {len(thumbs):,} pictures, {seconds:.1f} CPU s, peak {peak:.2f} GB; {len(sets):,} sets", flush=True)
    return sets


def pairs_of(sets: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    return {pair for members in sets for pair in itertools.combinations(members, 2)}


def planted(name: str, files: list[Path], n_of_kind: int, owner: Callable[[Path], str]) -> None:
    rng = np.random.default_rng(0)
    large_enough = [i for i, file in enumerate(files) if min(Image.open(file).size) >= 40]
    thumbs, owners, truth = [thumbnail(file) for file in files], [owner(file) for file in files], {}
    for kind, change in KINDS.items():
        for i in rng.choice(large_enough, n_of_kind, replace=False).tolist():
            truth[i, len(thumbs)] = kind
            thumbs.append(thumbnail(as_file(change(Image.open(files[i]).convert("RGB")))))
            owners.append(owners[i])
    n = len(files)
    plain = pairs_of(timed(np.stack(thumbs[:n]), name))
    found = pairs_of(timed(np.stack(thumbs), name))
    shares = {kind: np.mean([pair in found for pair, its in truth.items() if its == kind]) for kind in KINDS}
    of_two = sum(owners[a] != owners[b] for a, b in plain | found)
    share = np.mean([pair in found for pair in truth])
    apart = "people" if name == "people" else "source photos"
    print(f"{name:9} found {share:.3f}; unplanted {len(plain):,} pairs; of different {apart} {of_two:,}")
    print("         ", ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items()))


def fashion_pictures(part: str) -> np.ndarray:
    data = gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)


def fashion_thumbs(pictures: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.repeat(cv2.resize(p, (32, 32), interpolation=cv2.INTER_CUBIC)[:, :, None], 3, 2) for p in pictures]
    )


def unit(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-6)


def fashion() -> None:
    x = fashion_pictures("train")
    found = pairs_of(timed(fashion_thumbs(x), "fashion"))
    flat, truth = unit(x), set()
    for start in range(0, len(x), 2000):
        i, j = np.nonzero(flat[start : start + 2000] @ flat[start:].T > 0.998)
        truth |= {(a + start, b + start) for a, b in zip(i.tolist(), j.tolist(), strict=True) if b > a}
    a, b = np.array(sorted(found)).T
    best = np.full(len(a), -1.0)
    for swapped, down, across in closest.TURNS:
        other = x[b].transpose(0, 2, 1) if swapped else x[b]
        other = other[:, :: 1 - 2 * down, :: 1 - 2 * across]
        for y, z in itertools.product(range(3), repeat=2):
            best = np.maximum(best, (unit(x[a][:, 1:-1, 1:-1]) * unit(other[:, y : y + 26, z : z + 26])).sum(axis=1))
    told = f"{len(found):,} pairs in sets, {(best < 0.97).sum():,} of them below 0.97"
    print(f"fashion   {len(truth & found)} of {len(truth)} pairs above 0.998; {told}", flush=True)


def cells() -> None:
    shirts, mixed = fashion_thumbs(fashion_pictures("train")[:20_000]), blends(10_000)
    for name, grey in (("fashion", luma(shirts)), ("blends", luma(mixed))):
        pairs, seconds = [], []
        for closest.IN_CELL in (len(grey), IN_CELL):
            start = time.process_time()
            a, b, _ = closest.candidates(grey)
            seconds.append(time.process_time() - start)
            pairs.append(set(zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True)))
        share = len(pairs[0] & pairs[1]) / len(pairs[0])
        told = f"{share:.3f} of {len(pairs[0]):,} candidates; {seconds[1]:.1f} CPU s, full search {seconds[0]:.1f}"
        print(f"cells     {len(grey):,} of {name}: {told}", flush=True)


def blends(n: int) -> np.ndarray:
    """(n, 32, 32, 3) two photos over each other, 70 to 30, each pair once."""
    photos = np.stack([thumbnail(file) for file in sorted((FOLDER / "mask18/train/images").glob("*/*"))])
    a, b = np.divmod(np.random.default_rng(0).choice(len(photos) ** 2, n, replace=False), len(photos))
    out = np.empty((n, 32, 32, 3), np.uint8)
    for i in range(0, n, 4096):
        out[i : i + 4096] = 0.7 * photos[a[i : i + 4096]] + np.float32(0.3) * photos[b[i : i + 4096]]
    return out


def faces() -> None:
    planted("planted", sorted((FOLDER / "facemask3/images").iterdir()), 50, lambda file: file.name.split("_")[0])


def people() -> None:
    planted("people", sorted((FOLDER / "mask18/train/images").glob("*/*")), 40, lambda file: file.parent.name)


FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "")
PARTS: dict[str, Callable[[], object]] = {
    "planted": faces,
    "people": people,
    "fashion": fashion,
    "cells": cells,
    "large": lambda: timed(blends(200_000), "large"),
}
if __name__ == "__main__":
    if len(sys.argv) < 2 or not FOLDER.is_dir() or not set(sys.argv[2:]) <= set(PARTS):
        sys.exit(__doc__)
    cv2.setNumThreads(1)
    for part in sys.argv[2:] or PARTS:
        PARTS[part]()
