"""Which bytes the image files hold: SHA-256 of each, read again only where size or modification time changed.

In: paths. Out: one hash a path, and one for a whole list. The memory of earlier readings is a JSON file in the cache
folder; losing it costs time, never correctness. Like git's index it trusts size, times (that of the last change too,
which no user can set) and inode, but not of a file that was changed just before it was read.
"""

import errno
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG

from pipeline import kept
from pipeline.config.settings import fingerprint

MISSING = "missing"
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the system, not of the file
TICK_NS = 100_000_000  # two changes of a file within so much time may bear one time stamp


def content_hashes(paths: list[str], memory: Path) -> list[str]:
    """SHA-256 (32 hex digits of it) of each file in `paths`, or `MISSING`; `memory` is the cache file."""
    known: dict[str, list] = kept.read_json(memory)
    stats = [_stat(path) for path in paths]
    new = [path for path, stat in zip(paths, stats, strict=True) if stat and known.get(path, [None])[0] != stat]
    if new:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib lets go of the interpreter lock
            hashes = dict(zip(new, pool.map(_sha256, new), strict=True))
        read = {path: content for path, content in hashes.items() if content != MISSING}
        known |= {path: [stat, read[path]] for path, stat in zip(paths, stats, strict=True) if path in read}
        settled = {path: said for path, said in known.items() if path not in read or _is_settled(path, said[0])}
        with kept.where_allowed():  # else they are hashed anew each time
            kept.write_json(memory, settled)
    return [
        known[path][1] if stat and path in known and known[path][0] == stat else MISSING
        for path, stat in zip(paths, stats, strict=True)
    ]


def images_hash(ids: list[str], hashes: list[str]) -> str:
    """Of the pictures behind ids, in any order: moved or renamed files with equal content count as equal."""
    return fingerprint(sorted(zip(ids, hashes, strict=True)))


def _stat(path: str) -> str | None:
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    if not S_ISREG(stat.st_mode):  # a device or a pipe has no end
        return None
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _is_settled(path: str, before: str) -> bool:
    """Whether a change from now on would show in what `_stat` says of the file."""
    return _stat(path) == before and time.time_ns() - int(before.split()[2]) > TICK_NS


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        if error.errno in OURS:
            raise
        return MISSING
