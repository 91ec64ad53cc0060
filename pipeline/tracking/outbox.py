"""Calls that MLflow could not take, kept on the disk until it can.

`mlruns/outbox/EXPERIMENT/`: a journal (`*.jsonl`, one call a line) and a folder of files for each command that met a
failure; `refused.jsonl` and `refused/`, what MLflow will never take. And `mlruns/outbox/ids.json`: which of our ids
became which of MLflow's. A journal that a living command still writes to is left alone, by its lock; one that goes on
with runs of another store waits for that store. Sending goes call by call and notes how far it came, so it may be
killed too; a journal and its files are deleted when all of it has been sent. Anybody may have written a journal: it
sends files of its own folder and no others, and a line that is no call is set aside.
"""

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic
from pipeline.tracking.lines import Call, parsed
from pipeline.tracking.locked import PRIVATE, Journal, abandoned
from pipeline.tracking.uploads import Refused

OURS = re.compile(r"offline-[0-9a-f]{32}")


class Waits(Exception):
    """A journal that cannot be sent yet."""


def new_id() -> str:
    """Of a run or a model that MLflow has not named yet."""
    return f"offline-{uuid.uuid4().hex}"


def real_id(run_id: str, root: Path) -> str:
    """MLflow's own id; empty while the run has not been sent. root: `mlruns/outbox`."""
    return _ids(root).get(run_id, "") if OURS.fullmatch(run_id) else run_id


def _ids(root: Path) -> dict[str, str]:
    try:
        ids = json.loads((root / "ids.json").read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return {key: real for key, real in ids.items() if isinstance(real, str)} if isinstance(ids, dict) else {}


class Outbox:
    """The kept calls of one experiment. stores: keys of the store that they are for (`place.keys_of`)."""

    def __init__(self, root: Path, experiment: str, stores: Sequence[str]):
        self.root, self.experiment, self.stores = root, experiment, stores
        self.folder = root / experiment
        self._journal: Journal | None = None  # this command's own, made by its first failure

    def keep(self, call: dict[str, Any]) -> None:
        """Appends to this command's journal. A file that a call names is linked or copied: it may change later.

        Raises OSError where the disk does not take it.
        """
        if self._journal is None:
            path = self.folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{os.getpid()}.jsonl"
            self._journal = Journal(path)
            self._journal.write({"call": "store", "store": self.stores[0]})
        if "file" in call:
            folder = self._journal.path.with_suffix("")
            # from the journal's folder: the checkout may move
            call = {**call, "file": str(_kept(Path(call["file"]), folder).relative_to(folder))}
        self._journal.write(call)

    def let_go(self) -> None:
        """As the end of the command does: what was kept is the next one's to send."""
        if self._journal:
            self._journal.close()
            self._journal = None

    def refuse(self, call: Call, why: str) -> None:
        """Keeps what MLflow will never take, so that nothing is lost."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if "file" in call and Path(call["file"]).exists():  # a journal's own files go with it
            call = {**call, "file": str(_kept(Path(call["file"]), self.folder / "refused"))}
        with open(self.folder / "refused.jsonl", "a", opener=_private) as file:
            file.write(json.dumps({**call, "why": why}) + "\n")

    def named(self, ours: str, real: str) -> None:
        """Remembers which id MLflow gave."""
        lock = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two commands may send at once
            with atomic(self.root / "ids.json") as temporary:
                temporary.write_text(json.dumps({**_ids(self.root), ours: real}))
        finally:
            os.close(lock)

    def translated(self, call: Call) -> dict[str, Any]:
        """With MLflow's ids in place of ours: in links between runs and in descriptions too, but in no path."""
        text = json.dumps(call)
        if not OURS.search(text):
            return dict(call)
        ids = _ids(self.root)
        changed = json.loads(OURS.sub(lambda match: ids.get(match[0], match[0]), text))
        # by its own id MLflow can be asked for it again
        return {**changed, **{key: call[key] for key in ("id", "file") if key in call}}

    def journals(self) -> list[Path]:
        """Of commands that have ended or still run, the oldest first."""
        paths = (path for path in self.folder.glob("*.jsonl") if path.name != "refused.jsonl")
        return sorted(path for path in paths if path.is_file() and not path.is_symlink())

    def holds(self, run_id: str, besides: Path | None = None) -> bool:
        """Whether a journal of any experiment begins this run. besides: a journal that does not count."""
        start, ours = b'"call": "start"', run_id.encode()
        return any(
            ours in line and start in line
            for path in self.root.glob("*/*.jsonl")
            if path not in (besides, path.with_name("refused.jsonl")) and path.is_file() and os.access(path, os.R_OK)
            for line in path.read_bytes().splitlines()
        )

    def send(self, journal: Path, make: Callable[[dict[str, Any]], None]) -> list[str]:
        """Makes every call of an ended command's journal, in order, and deletes it; what was set aside, in words.

        Goes on upwards with what `make` raises. Raises `Waits` for a journal of another store, or of runs that another
        journal begins. What was made is forgotten only after it was made.
        """
        with abandoned(journal) as held:
            if held is None:
                return []
            progress = journal.with_suffix(".sent")
            start, sent_to = _progress(progress)
            calls = [self._parsed(line, journal) for line in held[1]]
            kept_for = next((call["store"] for call, _ in calls if call.get("call") == "store"), self.stores[0])
            runs = [call["run"] for call, why in calls if not why and call.get("run")]
            is_bound = sent_to or not all(map(OURS.fullmatch, runs))
            if (sent_to or kept_for) not in self.stores and is_bound:
                raise Waits("another store")
            aside = []
            for i, (call, why) in enumerate(calls):
                if i < start or call.get("call") == "store":
                    continue
                if why:
                    self.refuse(call, why)
                    aside.append(f"line {i + 1} of mlruns/outbox/{self.experiment}/{journal.name}: {why}")
                else:
                    call = self.translated(call)
                    if OURS.fullmatch(call.get("run", "")) and self.holds(call["run"], journal):
                        raise Waits("another command's record")
                    make(call)
                with atomic(progress) as temporary:
                    temporary.write_text(f"{i + 1} {self.stores[0]}")
            shutil.rmtree(journal.with_suffix(""), ignore_errors=True)
            journal.unlink()
            progress.unlink(missing_ok=True)
            return aside

    def tidy(self) -> None:
        """Deletes what a command left that was killed when all was sent; the folder too, once nothing is in it."""
        if self.folder.is_dir():
            names = {path.stem for path in self.journals()}
            for path in [*self.folder.glob("*.sent"), *self.folder.glob(".*.tmp")]:
                if path.name.split(".")[path.suffix == ".tmp"] not in names:
                    path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _parsed(self, line: bytes, journal: Path) -> tuple[dict[str, Any], str]:
        """(a call, its file in this journal's folder; why it is refused, or empty)."""
        call: dict[str, Any] = {"line": line.decode(errors="replace")}
        try:
            call = dict(parsed(line, self.experiment))
            return (call | {"file": str(self._own(Path(call["file"]), journal))} if "file" in call else call), ""
        except Refused as error:
            call.pop("file", None)  # whatever it is, it is not kept
            return call, str(error)

    def _own(self, file: Path, journal: Path) -> Path:
        """A file that the journal keeps. Raises `Refused` for any other."""
        home = self.root.resolve() / self.experiment / journal.stem
        if file.is_absolute() and journal.stem in file.parts:  # as earlier versions wrote it, perhaps in another place
            file = Path(*file.parts[file.parts.index(journal.stem) + 1 :])
        path = journal.with_suffix("") / file
        is_own = not file.is_absolute() and path.resolve().is_relative_to(home) and path.resolve() != home
        if not is_own or any(each.is_symlink() for each in path.rglob("*")):
            raise Refused("its file is none that this journal keeps")
        return path


def _progress(path: Path) -> tuple[int, str]:
    """(calls that were made, key of the store that took them)."""
    try:
        start, _, sent_to = path.read_text().partition(" ")
        return int(start), sent_to
    except (FileNotFoundError, ValueError):
        return 0, ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)


def _kept(path: Path, folder: Path) -> Path:
    """A second name for the file, which keeps its content even where the first is replaced; a copy of a folder."""
    place = folder / uuid.uuid4().hex[:12] / path.name
    place.parent.mkdir(parents=True)
    try:
        if path.is_dir():
            shutil.copytree(path, place, copy_function=_link)
        else:
            _link(str(path), str(place))
    except OSError:
        shutil.rmtree(place.parent, ignore_errors=True)
        raise
    return place


def _link(source: str, place: str) -> None:
    try:
        os.link(os.path.realpath(source), place)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, place)
