"""Files on their way to MLflow: looked at before they are sent, and there, before they count as sent.

MLflow takes a folder that is absent without a word, and an upload can end early.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import FileInfo


class Refused(Exception):
    """MLflow is there, and this call is nothing for it: another try would not change that."""


class Unseen(Exception):
    """MLflow took files, and does not show them."""


def files_of(path: Path) -> dict[str, int]:
    """Size of each file, by its path below the file's, or in the folder. Raises `Refused` where none can be read."""
    try:
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        for file in files:
            file.open("rb").close()
        sizes = {(file.relative_to(path) if file != path else Path(path.name)).as_posix(): file.stat().st_size
                 for file in files}  # fmt: skip
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read ({error.strerror})") from error
    if not sizes:
        raise Refused(f"{path} {'holds no file' if path.exists() else 'is gone'}")
    return sizes


def check_seen(shown: Callable[[str | None], list[FileInfo]], sizes: dict[str, int], folder: str = "") -> None:
    """Raises `Unseen` unless MLflow shows every file at its size. shown: the content of a folder, None for the top."""
    wanted = {PurePosixPath(folder, name): size for name, size in sizes.items()}
    seen: dict[PurePosixPath, int | None] = {}
    for parent in {path.parent for path in wanted}:
        entries = shown(None if parent == PurePosixPath(".") else str(parent))
        seen |= {PurePosixPath(entry.path): entry.file_size for entry in entries if not entry.is_dir}
    # some stores do not know sizes
    lost = [str(path) for path, size in wanted.items() if path not in seen or seen[path] not in (size, None)]
    if lost:
        raise Unseen(f"of {len(wanted)} files that MLflow took it does not show {len(lost)} whole, as {lost[0]}")
