"""The image store: every file is decoded once in the project's life, and read from a memory map ever after.

In: rows of a competition and the content hashes of their files. Out: uint8 pixels with a short side of at most `side`,
and the facts of each image. Keyed by content, so a file that was renamed or downloaded again costs nothing and one that
changed is noticed.

Two files: `pixels.bin`, images one behind the other, and `index.bin`, one fixed-size record each. A record is written
only after its pixels are on the disk, so whatever kills a build leaves whole records and perhaps a tail that no record
names, which the next build cuts off. One process writes at a time; readers need no lock. Records and pixels carry
checksums; what does not match is decoded again, behind the others.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.atomic import atomic
from pipeline.competition.contract import WHERE, Row
from pipeline.config.data import STORE_SIDES, Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.images.content import MISSING
from pipeline.images.decode import BROKEN, FORMATS, Unreadable, open_image, opened, shrink
from pipeline.images.facts import RECORD, SIDE, checks_of, facts_of, pixels_hash
from pipeline.kept import tell

VERSION = "podium images 5"
CHUNK = 128  # images between two writes: what a kill can cost
TASK = 8  # images that a thread takes at once
RESERVE = 1 << 30  # bytes of disk that stay free beside a large store; beside a small one, as many as it takes
Side = int | Literal["off"]
Decoded = tuple[np.ndarray, np.ndarray]  # an image's record and pixels


def side_for(setting: int | Literal["auto", "off"], spec: Preprocessing, crop_area: float = 1.0) -> Side:
    """The store's short side for a model's preprocessing. `auto` takes one that many models share.

    crop_area: the mean share of an image that random crops keep; a tenth too few pixels for those is put up with.
    """
    if setting != "auto":
        return setting
    needed = max(int(spec.px / spec.crop), int(0.9 * spec.px / crop_area**0.5))
    return next((side for side in STORE_SIDES if side >= needed), needed)


def check_side(setting: int | Literal["auto", "off"], spec: Preprocessing) -> list[Mistake]:
    """A store that is smaller than what the model is to see would enlarge what it had shrunk."""
    needed = int(spec.px / spec.crop)
    if not isinstance(setting, int) or setting >= needed:
        return []
    found = f"found {setting}, and the preprocessing needs a short side of {needed} (images.px / images.crop)"
    return [Mistake("images.store", found, f"valid: {needed} or more, auto, or off", "image store")]


class Store:
    """Pixels and facts under `folder`; with side `off`, facts alone."""

    def __init__(self, folder: Path, side: Side):
        self.folder = folder
        self.side: Side = side
        self._pixels_path, self._index_path = folder / "pixels.bin", folder / "index.bin"
        self._records: Any = np.zeros(0, RECORD)
        self._row_of: dict[bytes, int] = {}
        self._dropped: set[bytes] = set()  # contents whose pixels were changed since, until they are decoded again
        self._map: np.ndarray = np.zeros(0, np.uint8)
        if folder.is_dir() and self._is_ours():
            self._read()

    @property
    def n_bytes(self) -> int:
        """On the disk."""
        paths = (self._pixels_path, self._index_path)
        return sum(path.stat().st_size for path in paths if path.is_file())

    def missing(self, hashes: Sequence[str]) -> list[int]:
        """Rows whose content is not in the store, one row for each content."""
        first: dict[str, int] = {}
        for i, content in enumerate(hashes):
            if content != MISSING and content.encode() not in self._row_of:
                first.setdefault(content, i)
        return list(first.values())

    def has(self, content: str) -> bool:
        """Whether the content is in the store; a file that is no image never is."""
        return content.encode() in self._row_of

    def facts(self, hashes: Sequence[str]) -> np.ndarray:
        """(N,) records, in the order asked for. Raises KeyError for a content that is not in the store."""
        return self._records[[self._row_of[content.encode()] for content in hashes]]

    def pixels(self, content: str) -> np.ndarray | None:
        """(h, w, C) uint8, a view of the memory map, C = 1 for grey files; None where the store holds none."""
        row = self._row_of.get(content.encode())
        if row is None or self.side == "off":
            return None
        record = self._records[row]
        shape = tuple(int(n) for n in record["stored"])
        start = int(record["offset"])
        return self._map[start : start + shape[0] * shape[1] * shape[2]].reshape(shape)

    def is_reduced(self, content: str) -> bool:
        """Whether the file has more pixels than the store keeps of it."""
        record = self._records[self._row_of[content.encode()]]
        return int(record["stored"][0]) < int(record["height"])

    def drop_changed(self, hashes: Sequence[str]) -> None:
        """Forgets the contents whose pixels are not those that were written: they are missing from here on."""

        def is_changed(content: str) -> bool:
            record, pixels = self._records[self._row_of[content.encode()]], self.pixels(content)
            size = int(record["width"]), int(record["height"])
            return pixels is not None and pixels_hash(*size, pixels).encode() != record["pixels"]

        there = sorted({content for content in hashes if self.has(content)})
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib lets go of the interpreter lock
            changed = [c for c, is_other in zip(there, pool.map(is_changed, there), strict=True) if is_other]
        if changed:
            tell(self._pixels_path)
        self._dropped |= {content.encode() for content in changed}
        for content in self._dropped:
            self._row_of.pop(content, None)

    def build(self, rows: Sequence[Row], hashes: Sequence[str], advance: Callable[[int], None]) -> list[Mistake]:
        """Decodes what is missing and returns a `Mistake` for each file that is no whole image.

        advance: told how many images are done. Raises `Mistakes` where the disk has no room, before it writes.
        """
        if not self.missing(hashes):
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._make_ready()
            todo = self.missing(hashes)  # another process may have done some of it meanwhile
            self._check_disk([rows[i]["path"] for i in todo])
            mistakes: list[Mistake] = []
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of the interpreter lock
                chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]

                def start(chunk: list[int]) -> Iterator[list[Decoded | Mistake]]:
                    parts = [chunk[i : i + TASK] for i in range(0, len(chunk), TASK)]
                    return pool.map(lambda part: [self._decode(rows[i], hashes[i]) for i in part], parts)

                under_way = start(chunks[0]) if chunks else iter([])
                for chunk, following in zip(chunks, [*chunks[1:], []], strict=False):
                    done = [result for part in under_way for result in part]
                    under_way = start(following)  # while this one is written
                    mistakes += [result for result in done if isinstance(result, Mistake)]
                    self._append([result for result in done if not isinstance(result, Mistake)])
                    advance(len(chunk))
            self._read()
        return mistakes

    def _decode(self, row: Row, content: str) -> Decoded | Mistake:
        """(record, pixels), or why there are none."""
        side = SIDE if self.side == "off" else self.side
        try:
            image, file = open_image(opened(row["path"], content), side)
            array = shrink(image, side)
            record = facts_of(array, file)
        except (Unreadable, *BROKEN) as error:
            return unreadable(row, error)
        pixels = np.zeros(0, np.uint8)
        if self.side != "off":
            record["stored"] = array.shape
            pixels = array.reshape(-1)
        record["content"] = content
        return record, pixels

    def _append(self, done: list[Decoded]) -> None:
        if not done:
            return
        with self._pixels_path.open("ab") as file:
            offset = file.tell()
            for record, pixels in done:
                record["offset"] = offset
                record["check"] = checks_of(record.reshape(1))[0]
                offset += pixels.nbytes
                file.write(pixels.data)
            file.flush()
            os.fsync(file.fileno())
        with self._index_path.open("ab") as file:
            file.write(np.stack([record for record, _ in done]).tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._dropped -= {bytes(record["content"]) for record, _ in done}

    def _read(self) -> None:
        """Whole records whose pixels are there; a tail that a kill left, or a record that was changed, is no record."""
        size = self._index_path.stat().st_size if self._index_path.is_file() else 0
        n = size // RECORD.itemsize
        records: Any = np.fromfile(self._index_path, RECORD, count=n) if n else np.zeros(0, RECORD)
        n_pixels = self._pixels_path.stat().st_size if self._pixels_path.is_file() else 0
        whole = (checks_of(records) == records["check"]) & (_ends(records) <= n_pixels)
        if not whole.all():
            tell(self._index_path)
        self._records = records[: int(np.flatnonzero(whole).max(initial=-1)) + 1]
        places = np.flatnonzero(whole).tolist()
        self._row_of = {self._records["content"][i]: i for i in places}
        for content in self._dropped:
            self._row_of.pop(content, None)
        if n_pixels:
            self._map = np.memmap(self._pixels_path, np.uint8, "r")

    def _make_ready(self) -> None:
        """Under the lock: a store of this version, cut to its whole records."""
        header = self.folder / "store.json"
        if not self._is_ours():
            if self._index_path.exists():
                print(f"images  {shown(self.folder)} is of another version and is made anew", file=sys.stderr)
            for path in (self._index_path, self._pixels_path):
                path.unlink(missing_ok=True)
            with atomic(header) as temporary:
                temporary.write_text(json.dumps(self._header()))
        self._read()
        self._map = np.zeros(0, np.uint8)  # no map may be open over a file that is cut
        ends = _ends(self._records)
        for path, size in ((self._index_path, self._records.nbytes), (self._pixels_path, int(ends.max(initial=0)))):
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)

    def _header(self) -> dict:
        return {"version": VERSION, "side": self.side, "record": str(RECORD.descr)}

    def _is_ours(self) -> bool:
        try:
            return json.loads((self.folder / "store.json").read_text()) == self._header()
        except (FileNotFoundError, ValueError, RecursionError):
            return False

    @contextmanager
    def _locked(self) -> Generator[None]:
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"images  another command is decoding into {shown(self.folder)}: waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the system, however that process ends
            yield

    def _check_disk(self, paths: list[str]) -> None:
        """Raises `Mistakes` where the images would not fit, by the sizes that a sample of files names."""
        needed = estimate(paths, self.side)
        free = shutil.disk_usage(self.folder).free - min(RESERVE, needed)
        if needed > free:
            found = (
                f"{len(paths):,} images need about {needed / 1e9:,.1f} GB, and {max(free, 0) / 1e9:,.1f} GB are free"
            )
            valid = "valid: a smaller images.store, images.store=off (decodes anew each time), or more room"
            raise Mistakes([Mistake(shown(self.folder), found, valid, "disk")])


def estimate(paths: Sequence[str], side: Side) -> int:
    """Bytes that the store would take for these files, from the headers of at most 100 of them."""
    if side == "off" or not paths:
        return len(paths) * RECORD.itemsize
    sizes = []
    for path in paths[:: max(1, len(paths) // 100)]:
        try:
            with Image.open(path, formats=FORMATS) as image:
                scale = min(1.0, side / min(image.size))
                channels = 1 if image.mode in ("L", "1", "LA") else 3
                sizes.append(image.width * image.height * scale**2 * channels)
        except BROKEN:  # told when it is decoded
            continue
    return int(len(paths) * (float(np.mean(sizes)) if sizes else 0.0)) + len(paths) * RECORD.itemsize


def unreadable(row: Row, error: BaseException) -> Mistake:
    """A file that is no whole image, with its reason."""
    found = f"image {row['image_id']!r} is unreadable: {error}"
    valid = f"valid: a whole image file ({', '.join(FORMATS)}) at {shown(Path(row['path']))}"
    return Mistake(row[WHERE], found, valid, "unreadable images", row["image_id"] if "label" in row else "")


def _ends(records: np.ndarray) -> np.ndarray:
    """(N,) where the pixels of each record end; never falling in a whole index, since images are appended."""
    return records["offset"].astype(np.int64) + records["stored"].astype(np.int64).prod(axis=1)
