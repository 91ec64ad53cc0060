"""Where studies are kept: a journal file that survives half a line, or a URL that several machines share."""

from __future__ import annotations

from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from pipeline.config.mistakes import Mistake, Mistakes, first_line


def open_storage(storage: str, journal: Path) -> BaseStorage:
    """journal: the file that `tune.storage=journal` means. Raises `Mistakes` where a URL leads nowhere."""
    if storage == "journal":
        journal.parent.mkdir(parents=True, exist_ok=True)
        _mend(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        return RDBStorage(storage)
    except Exception as error:  # SQLAlchemy, a missing driver, the network: each means that it cannot be had
        valid = "valid: journal, or a URL that Optuna can open (sqlite:///FILE, postgresql://...)"
        found = f"found {storage.split('@')[-1]!r} ({first_line(error)})"
        raise Mistakes([Mistake("tune.storage", found, valid, "tune.storage")]) from error


def _mend(journal: Path) -> None:
    """Cuts off half a last line, of a full disk or a power cut, onto which Optuna would write; and a dead one's lock.

    Called while the experiment's own lock is held, so nobody else writes.
    """
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    if not journal.is_file():
        return
    with journal.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
