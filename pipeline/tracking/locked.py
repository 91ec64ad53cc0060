"""Files that belong to the command that writes them, for as long as it lives.

The system lets go of a lock however a command ends, so a file that can be locked is nobody's any more. Nobody else may
read them.
"""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PRIVATE = 0o600


class Journal:
    """A new file of lines of JSON, held until it is closed. Raises OSError where the disk does not take it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._file = path, -1
        while self._file < 0:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # between the two calls another command may have found it free and empty, and removed it
            if not path.exists() or os.fstat(self._file).st_ino != path.stat().st_ino:
                self.close()

    def write(self, data: Any) -> None:
        append(self._file, data)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def append(file: int, data: Any) -> None:
    """One line, whole or not at all: a disk that fills up takes a part of it without a word. Raises OSError."""
    line = (json.dumps(data) + "\n").encode()
    before = os.fstat(file).st_size
    if os.write(file, line) != len(line):
        os.ftruncate(file, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file)


@contextmanager
def abandoned(path: Path) -> Generator[tuple[int, list[bytes]] | None]:
    """(its descriptor, its whole lines) where the command that wrote it has ended, held within the block; else None.

    None too for what this user may not write to, and for what is no file: its content is nobody's to act on.
    """
    file = -1
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if file < 0 or not stat.S_ISREG(os.fstat(file).st_mode):
            yield None
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not path.exists():  # another command has seen to it meanwhile
            yield None
            return
        with os.fdopen(os.dup(file), "rb") as opened:
            content = opened.read()
        yield file, content.split(b"\n")[:-1]  # what has no end is the line that a killed command was writing
    finally:
        if file >= 0:
            os.close(file)
