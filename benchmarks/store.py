"""How fast the image store is built and read, against plain decode-and-resize with Pillow on the same files.

    .venv/bin/python benchmarks/store.py FOLDER [--side 256] [--rounds 5]
    .venv/bin/python benchmarks/store.py --synthetic 1500x1000 --n 300

Rounds are interleaved and run in one process; figures are medians with the spread, CPU time beside wall time. `plain`
is what a script does: open, convert to RGB, resize the short side, keep the array; nothing is written or measured.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.competition.contract import WHERE
from pipeline.config.data import Preprocessing
from pipeline.images.content import content_hashes
from pipeline.images.load import load_images
from pipeline.images.store import Store

SPEC = Preprocessing(mode="RGB", px=224, crop=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


def synthetic(folder: Path, size: str, n: int) -> None:
    """Photo-like JPEGs: large shapes, finer ones, noise."""
    width, height = (int(v) for v in size.split("x"))
    for i in range(n):
        rng = np.random.default_rng(i)
        layers = [Image.fromarray(rng.integers(0, 255, (s, s, 3), dtype=np.uint8)) for s in (7, 60, 300)]
        large = [np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), float) for layer in layers]
        pixels = 0.6 * large[0] + 0.25 * large[1] + 0.15 * large[2] + rng.normal(0, 2, (height, width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=90)


def plain(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    scale = side / min(rgb.size)
    if scale < 1:
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--synthetic", metavar="WxH")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if args.synthetic:
            (work / "images").mkdir()
            synthetic(work / "images", args.synthetic, args.n)
        folder = work / "images" if args.synthetic else args.folder
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        rows = [{"image_id": str(i), "path": str(p), WHERE: str(i)} for i, p in enumerate(paths)]
        hashes = content_hashes([row["path"] for row in rows], work / "memory.json")
        for path in paths:
            path.read_bytes()  # into the page cache, for all alike

        def build() -> None:
            shutil.rmtree(work / "store", ignore_errors=True)
            assert Store(work / "store", args.side).build(rows, hashes, lambda n: None) == []

        def opened() -> Store:
            return Store(work / "store", args.side)

        def with_threads() -> None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for _ in pool.map(lambda path: plain(path, args.side), paths):
                    pass

        cases = {
            "plain Pillow, one thread": lambda: [plain(path, args.side) for path in paths],
            f"plain Pillow, {os.cpu_count()} threads": with_threads,
            "store: build (decode, shrink, facts, write)": build,
            "fixed preprocessing from the files": lambda: load_images(rows, SPEC),
            "fixed preprocessing from the store": lambda: load_images(rows, SPEC, opened(), hashes),
        }
        seconds: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
        for _ in range(args.rounds):
            for case, run in cases.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                seconds[case].append((time.perf_counter() - wall, time.process_time() - cpu))
        with Image.open(paths[0]) as first:
            size = first.size
        total = sum(path.stat().st_size for path in paths)
        print(f"{len(paths):,} files, first of {size[0]}x{size[1]}, {total / 1e6:,.1f} MB; side {args.side}")
        print(f"store on disk: {Store(work / 'store', args.side).n_bytes / 1e6:,.1f} MB\n")
        print("| what | images/s, median (min to max) | CPU ms an image |\n| --- | --- | --- |")
        for case, times in seconds.items():
            rates = [len(paths) / wall for wall, _ in times]
            cpu = statistics.median(cpu for _, cpu in times) / len(paths) * 1000
            print(f"| {case} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {cpu:.2f} |")


if __name__ == "__main__":
    main()
