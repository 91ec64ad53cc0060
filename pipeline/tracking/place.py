"""Where the local store lies: also in a checkout that moved, that was copied, or whose path holds `?`, `%` or quotes.

MLflow writes into its database where each file lies, from the root of the disk on. So what another place recorded is
moved to this one, in the database itself: by it MLflow's own pages and clients find the files too.
"""

import hashlib
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from alembic.config import Config
from mlflow.tracking._tracking_service import utils as mlflow_stores

from pipeline.config.secrets import hidden

COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
           ("model_versions", "source"), ("model_versions", "storage_location"))  # fmt: skip
PLACE = re.compile(r"((?:file://)?/(?:.*/)?mlruns/artifacts)/[^/]+")  # of an experiment's files
_copies: list[tempfile.TemporaryDirectory] = []  # deleted when this process ends


def _set_option(config: Config, name: str, value: str, original=Config.set_main_option) -> None:
    """MLflow 3.17 hands its own folder to a parser that reads `%` as the beginning of a variable."""
    original(config, name, value.replace("%", "%%") if name == "script_location" else value)


Config.set_main_option = _set_option  # ty: ignore[invalid-assignment]


def uri_of(database: Path) -> str:
    """By `+pysqlite`, since for plain `sqlite` MLflow makes a folder of the escaped name."""
    return f"sqlite+pysqlite:///{quote(str(database))}"


def location_of(folder: Path) -> str:
    """As MLflow is to note it: escaped, where MLflow would read the plain path as something else."""
    return folder.as_uri() if re.search(r"[%?#\x00-\x1f]", str(folder)) else str(folder)


def database_of(uri: str) -> Path:
    return Path(unquote(uri.partition(":///")[2]))


def keys_of(uri: str, local: Path | None) -> tuple[str, ...]:
    """By which journals know the store, without its passwords; then by which those of earlier versions know it.

    local: the database, where the store is the checkout's own: it may move.
    """
    before = [uri, f"sqlite:///{local}"] if local else [uri]
    key = "local" if local else hashlib.sha256(hidden(uri).encode()).hexdigest()[:16]
    return (key, *before, *(hashlib.sha256(each.encode()).hexdigest()[:12] for each in before))


def may_write(database: Path, runs: Path) -> bool:
    """Whether the store is this user's to write to, or is yet to be made."""
    return not runs.exists() or (os.access(runs, os.W_OK) and (not database.exists() or os.access(database, os.W_OK)))


def copy_to_read(database: Path) -> Path:
    """SQLite writes beside a database even where it only reads, so what may not be written to is read as a copy."""
    _copies.append(tempfile.TemporaryDirectory(prefix="podium-store-"))
    copy = Path(_copies[-1].name) / database.name
    try:
        with (
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=20)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.OperationalError:  # absent, or its last writer was killed: SQLite undoes that in the copy
        for end in ("", "-journal", "-wal"):
            if (part := database.with_name(database.name + end)).is_file():
                shutil.copyfile(part, copy.with_name(part.name))
    return copy


def make(database: Path, artifacts: Path) -> None:
    """A new store. MLflow would take a default from the working folder, whose name its SQL does not escape."""
    if not database.exists():
        mlflow_stores._get_store(uri_of(database), artifacts.as_uri())  # it quotes a plain path wrongly


def settle(database: Path, artifacts: Path) -> None:
    """Moves what was recorded below another checkout's `mlruns/artifacts` to `artifacts`, and says so.

    All or nothing; a database that is right already is only read. Raises sqlite3.Error.
    """
    if not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=20)) as store, store:
        columns = [(table, column) for table, column in COLUMNS
                   if column in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}]  # fmt: skip
        if not columns:
            return
        places = store.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        before = {match[1] for (place,) in places if (match := PLACE.fullmatch(place or ""))}
        moved: Counter[Path] = Counter()
        for former in before - {str(artifacts), artifacts.as_uri()}:
            path = Path(unquote(former.removeprefix("file://")) if former.startswith("file:") else former)
            if path == artifacts or (path.exists() and artifacts.exists() and path.samefile(artifacts)):
                continue  # by another name, such as a link
            for table, column in columns:
                changed = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"  # noqa: S608
                length = len(former) + 1
                values = (f"{location_of(artifacts)}/", length + 1, length, f"{former}/")
                moved[path.parent.parent] += store.execute(changed, values).rowcount
    for path, n in moved.items():
        print(f"this checkout moved (it was {path}): {n} places in MLflow's record follow it", file=sys.stderr)
