"""Files that a later command believes, with a checksum beside each: what was changed since is made again.

In: a path. Out: `.NAME.sha256` beside the file. A hand, a bad disk and half a copy change files in silence, so whoever
reads a kept file compares first, and a line on the terminal says what was not believed.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic
from pipeline.config.mistakes import shown

MOST = 2 << 30  # bytes of a cache that `forget` leaves
REMEMBERED = 4  # checksums: a kill may leave the file before
_told: set[Path] = set()


@contextmanager
def sealed(path: Path) -> Generator[Path]:
    """`atomic`, with the checksum of what was written beside it."""
    with atomic(path) as temporary:
        yield temporary
        seal(path, sha256(temporary))


def seal(path: Path, digest: str) -> None:
    """Notes the checksum that `path` is about to have; the earlier ones stay, for a kill may leave the file before."""
    with atomic(_sums(path)) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in [digest, *_digests(path)][:REMEMBERED]))


def was_changed(path: Path, sealed_as: Path | None = None) -> bool:
    """Whether the file is another than was sealed, which is told. False where nothing was sealed.

    sealed_as: the name under which the file was written, where it was renamed since.
    """
    digests = _digests(sealed_as or path)
    if not digests or not path.is_file() or sha256(path) in digests:
        return False
    tell(path)
    return True


def is_intact(path: Path) -> bool:
    """Whether the file is there, and is the one that was sealed. Without a checksum it is not believed."""
    if path.is_file() and not _digests(path):
        tell(path)
        return False
    return path.is_file() and not was_changed(path)


def tell(path: Path) -> None:
    """Says, once in a command, that a kept file is made again."""
    if path not in _told:
        _told.add(path)
        print(f"kept    {shown(path)} is not as it was written: it is made again", file=sys.stderr, flush=True)


def read_json(path: Path) -> Any:
    """What `write_json` wrote; an empty dict where there is no such file, or another one."""
    return json.loads(path.read_text()) if is_intact(path) else {}


def write_json(path: Path, data: Any) -> None:
    with sealed(path) as temporary:
        temporary.write_text(json.dumps(data))


def remove(path: Path) -> None:
    """The file and its checksum."""
    for each in (path, _sums(path)):
        each.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _digests(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return _sums(path).read_text(errors="replace").split()
    return []


@contextmanager
def at_work(root: Path) -> Generator[None]:
    """Around a command. Where no other one works in the checkout, what killed ones left half-written is removed.

    root: of the checkout. Names of what is half-written begin with a dot and end in `.tmp`, files and folders.
    """
    runs, lock = root / "mlruns", -1
    with where_allowed():
        runs.mkdir(exist_ok=True)
        lock = os.open(runs / ".commands.lock", os.O_RDWR | os.O_CREAT, 0o666)
    if lock < 0:
        yield
        return
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, however this command ends
            _sweep(root, runs)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _sweep(root: Path, runs: Path) -> None:
    others = ("artifacts", "outbox", "reproduce")  # nothing of ours is half-written in there
    folders = [root / "experiments", root / "data", runs]
    for top in (path for path in runs.iterdir() if path.is_dir() and path.name not in others):
        folders += [Path(folder) for folder, _, _ in os.walk(top)]
    drafts = (root / "experiments").glob("*-tuned*-[0-9]*.tmp")  # an experiment's name cannot begin with a dot
    for path in [*drafts, *(path for folder in folders for path in folder.glob(".*.tmp"))]:
        with where_allowed():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    forget(runs / "cache" / "runs")


def forget(folder: Path) -> None:
    """Keeps `MOST` bytes of a cache, the folders that were written last; so what an unfinished command needs stays."""
    total = 0
    with suppress(OSError):  # another command may be at work in there: then the next one forgets
        each = [path for path in folder.iterdir() if path.is_dir()]
        for path in sorted(each, key=lambda path: path.stat().st_mtime, reverse=True):
            total += sum(file.stat().st_size for file in path.iterdir())
            if total > MOST:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def where_allowed() -> Generator[None]:
    """For what is written only to save time: nothing happens in another user's folder, or one that is read-only."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
