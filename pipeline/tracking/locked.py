"""Files that belong to the command that writes them, for as long as it lives.

The system lets go of a lock however a command ends, so a file that can be locked is nobody's any more.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def claim(path: Path) -> int:
    """Makes the file and holds it: a descriptor to append to. The lock lasts until it is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            # between the two calls another command may have found it free and empty, and removed it
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        os.close(file)


@contextmanager
def abandoned(path: Path) -> Generator[bool]:
    """Whether the command that claimed the file has ended; then the file is held within the block."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        yield False
        return
    try:
        yield path.exists()  # another command may have seen to it meanwhile
    finally:
        os.close(file)
