"""Where studies are kept: a journal file that survives half a line, or a URL that several machines share."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from pipeline.config.mistakes import Mistake, Mistakes, first_line, shown
from pipeline.config.secrets import hidden

NEWLINE = b"\n"


def open_storage(storage: str, journal: Path) -> BaseStorage:
    """journal: the file that `tune.storage=journal` means. Raises `Mistakes` where a URL leads nowhere."""
    if storage == "journal":
        journal.parent.mkdir(parents=True, exist_ok=True)
        for lock in journal.parent.glob(f"{journal.name}.lock*"):
            lock.unlink(missing_ok=True)  # of a command that was killed: the experiment's own lock is held by this one
        return JournalStorage(Summed(journal))
    try:
        return RDBStorage(storage)
    except Exception as error:  # SQLAlchemy, a missing driver, the network: each means that it cannot be had
        valid = "valid: journal, or a URL that Optuna can open (sqlite:///FILE, postgresql://...)"
        found = f"found {hidden(storage)!r} ({first_line(error)})"
        raise Mistakes([Mistake("tune.storage", found, valid, "tune.storage")]) from error


class Summed(JournalFileBackend):
    """A journal in which each entry carries the checksum of itself and all before it."""

    def __init__(self, journal: Path):
        self._journal, self._last, self._size = journal, _mend(journal), -1
        super().__init__(str(journal))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        last = self._last if self._journal.stat().st_size == self._size else _mend(self._journal)
        summed = []
        for log in logs:
            last = _sum(last, log)
            summed.append({**log, "sum": last})
        super().append_logs(summed)
        self._last, self._size = last, self._journal.stat().st_size


def _sum(before: str, log: dict[str, Any]) -> str:
    as_read = json.loads(json.dumps(log))
    return hashlib.sha256(f"{before}{json.dumps(as_read, sort_keys=True)}".encode()).hexdigest()[:16]


def _mend(journal: Path) -> str:
    """Cuts off half a last line, of a full disk or a power cut, onto which Optuna would write, and all from the first
    entry that was changed. The last checksum. Earlier versions wrote entries without one.
    """
    last, good, data = "", 0, journal.read_bytes() if journal.is_file() else b""
    whole = data[: data.rfind(NEWLINE) + 1]
    for line in whole.splitlines(keepends=True):
        try:
            log = json.loads(line)
            noted = log.pop("sum", "")
        except (ValueError, AttributeError, TypeError, RecursionError):
            break
        if (noted or last) and noted != _sum(last, log):
            break
        last, good = noted, good + len(line)
    if good < len(whole):
        aside = shutil.copyfile(journal, journal.with_name(f"{journal.name}.changed"))
        told = f"{shown(journal)} was changed: the last {whole[good:].count(NEWLINE):,} entries are not believed"
        print(f"tune    {told}, and are tried again ({shown(aside)} keeps them)", file=sys.stderr)
    if good < len(data):
        with journal.open("rb+") as file:
            file.truncate(good)
    return last
