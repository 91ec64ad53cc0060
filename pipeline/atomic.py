"""Files that are whole or absent: a kill at any moment leaves the old file or the new one, never half of one."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """Yields a path beside `path` to write to; it takes `path`'s place when the block ends well, else it is removed.

    The temporary file is in the same folder because a rename is atomic only within one file system; both the file
    and the folder are fsynced, or a power cut could keep the rename and lose the content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.touch()
    mode = temporary.stat().st_mode  # what the user's umask gives; some writers (safetensors) make files private
    try:
        yield temporary
        temporary.chmod(mode)
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
