"""Calls that MLflow could not take, kept on the disk until it can.

`mlruns/outbox/EXPERIMENT/`: a journal (`*.jsonl`, one call a line) and a folder of files for each command that met a
failure; `refused.jsonl` and `refused/`, what MLflow will never take. And `mlruns/outbox/ids.json`: which of our ids
became which of MLflow's. A journal that a living command still writes to is left alone, by its lock; one that goes on
with runs of another store waits for that store. Sending goes call by call and notes how far it came, so it may be
killed too.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic
from pipeline.tracking.locked import abandoned, claim

OURS = re.compile(r"offline-[0-9a-f]{32}")


def new_id() -> str:
    """Of a run or a model that MLflow has not named yet."""
    return f"offline-{uuid.uuid4().hex}"


def real_id(run_id: str, root: Path) -> str:
    """MLflow's own id; empty while the run has not been sent. root: `mlruns/outbox`."""
    return _ids(root).get(run_id, "") if OURS.fullmatch(run_id) else run_id


def _ids(root: Path) -> dict[str, str]:
    try:
        return json.loads((root / "ids.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}


class Outbox:
    """The kept calls of one experiment."""

    def __init__(self, root: Path, experiment: str, uri: str):
        self.root = root
        self.store = hashlib.sha256(uri.encode()).hexdigest()[:12]  # not the URI: it may hold a password
        self.n_elsewhere = 0  # journals that `send` left for another store
        self.folder = root / experiment
        self._journal: Path | None = None  # this command's own, made by its first failure
        self._file = -1  # its descriptor, open as long as this command lives

    def keep(self, call: dict[str, Any]) -> None:
        """Appends to this command's journal. A file that a call names is linked or copied: it may change later."""
        if self._journal is None:
            journal = self.folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{os.getpid()}.jsonl"
            self._file, self._journal = claim(journal), journal
            self._write({"call": "store", "store": self.store})
        if "file" in call:
            call = {**call, "file": str(_kept(Path(call["file"]), self._journal.with_suffix("")))}
        self._write(call)

    def _write(self, call: dict[str, Any]) -> None:
        """One line, whole or not at all: a disk that fills up takes a part of it without a word."""
        line = (json.dumps(call) + "\n").encode()
        before = os.fstat(self._file).st_size
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, before)
            raise OSError(28, "No space left on device")
        os.fsync(self._file)

    def let_go(self) -> None:
        """As the end of the command does: what was kept is the next one's to send."""
        if self._journal:
            os.close(self._file)
            self._journal = None

    def refuse(self, call: dict[str, Any], why: str) -> None:
        """Keeps what MLflow will never take, so that nothing is lost."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if "file" in call and Path(call["file"]).exists():  # a journal's own files go with it
            call = {**call, "file": str(_kept(Path(call["file"]), self.folder / "refused"))}
        with (self.folder / "refused.jsonl").open("a") as file:
            file.write(json.dumps({**call, "why": why}) + "\n")

    def named(self, ours: str, real: str) -> None:
        """Remembers which id MLflow gave."""
        with (self.root / ".ids.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two commands may send at once
            with atomic(self.root / "ids.json") as temporary:
                temporary.write_text(json.dumps({**_ids(self.root), ours: real}))

    def translated(self, call: dict[str, Any]) -> dict[str, Any]:
        """With MLflow's ids in place of ours, wherever they stand: in links between runs and in descriptions too."""
        text = json.dumps(call)
        if not OURS.search(text):
            return call
        ids = _ids(self.root)
        own = call.get("id")  # by which MLflow can be asked for it again
        changed = json.loads(OURS.sub(lambda match: ids.get(match[0], match[0]), text))
        return {**changed, "id": own} if own else changed

    def journals(self) -> list[Path]:
        """Of commands that have ended or still run, the oldest first."""
        return sorted(path for path in self.folder.glob("*.jsonl") if path.name != "refused.jsonl")

    def _is_for_another_store(self, lines: list[str], sent_to: str) -> bool:
        """Whether a journal began to be sent elsewhere, or names runs that only the store it was kept for has."""
        if sent_to:
            return sent_to != self.store
        calls = [call for call in map(_parsed, lines) if call]
        kept_for = next((call["store"] for call in calls if call["call"] == "store"), self.store)
        return kept_for != self.store and any(not OURS.fullmatch(call["run"]) for call in calls if call.get("run"))

    def send(self, make: Callable[[dict[str, Any]], bool]) -> int:
        """Makes every kept call of ended commands, in order; the number that MLflow took, as `make` says.

        Goes on upwards with what `make` raises. What was made is forgotten only after it was made.
        """
        n = self.n_elsewhere = 0
        for journal in self.journals():
            with abandoned(journal) as is_ours:
                if not is_ours:
                    continue
                progress = journal.with_suffix(".sent")
                start, _, sent_to = progress.read_text().partition(" ") if progress.is_file() else ("0", "", "")
                lines = journal.read_text().splitlines()
                if self._is_for_another_store(lines, sent_to):
                    self.n_elsewhere += 1
                    continue
                for i, line in enumerate(lines):
                    call = _parsed(line)
                    # what is no call is the last line of a command that was killed while it wrote
                    if i < int(start) or call is None or call["call"] == "store":
                        continue
                    n += make(call)
                    with atomic(progress) as temporary:
                        temporary.write_text(f"{i + 1} {self.store}")
                journal.unlink()
                progress.unlink(missing_ok=True)
                shutil.rmtree(journal.with_suffix(""), ignore_errors=True)
        return n


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _kept(path: Path, folder: Path) -> Path:
    """A second name for the file, which keeps its content even where the first is replaced; a copy of a folder."""
    place = folder / uuid.uuid4().hex[:12] / path.name
    place.parent.mkdir(parents=True)
    if path.is_dir():
        shutil.copytree(path, place, copy_function=_link)
    else:
        _link(str(path), str(place))
    return place


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, place)
