"""Which runs are open, and whose: so that runs of a command that was killed do not stay RUNNING for ever.

Each command that opens runs holds a locked file under `mlruns/.open/`, with a line for each run: before MLflow makes it
(by an id of ours, which the run bears as a tag), and when it has ended. The next command finds the file abandoned and
closes what it names.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.tracking.locked import Journal, abandoned, append

Note = tuple[str, str, bool, str]  # key of the store, id of the run, whether it is open, experiment


class OpenRuns:
    """This command's open runs, in order. stores: keys of the store that they are in (`place.keys_of`).

    `begin` and `end` raise OSError where the disk does not take the note; the run is begun, or ended, all the same.
    """

    def __init__(self, folder: Path, stores: Sequence[str], experiment: str):
        self.folder, self.stores, self.experiment = folder, stores, experiment
        self._noted: dict[str, str] = {}  # MLflow's id -> the one it is noted by
        self._journal: Journal | None = None

    @property
    def ids(self) -> list[str]:
        return [*self._noted]

    def begin(self, run_id: str) -> None:
        self._noted[run_id] = run_id
        if self._journal is None:
            self._journal = Journal(self.folder / f"{uuid.uuid4().hex}.jsonl")
        self._journal.write((self.stores[0], run_id, True, self.experiment))

    def named(self, ours: str, real: str) -> None:
        """The run has MLflow's own id from here on."""
        self._noted = {real if key == ours else key: noted for key, noted in self._noted.items()}

    def end(self, run_id: str) -> None:
        noted = self._noted.pop(run_id, "")
        if noted and self._journal:
            self._journal.write((self.stores[0], noted, False, self.experiment))
            if not self._noted:
                self._journal.path.unlink(missing_ok=True)
                self.let_go()

    def let_go(self) -> None:
        """As the end of the command does: runs that are still open are the next one's to close."""
        if self._journal:
            self._journal.close()
            self._journal = None

    def close_orphans(self, close: Callable[[str, str], bool]) -> list[str]:
        """Calls `close` with (id, experiment) of each run of this store that a command left open when it ended.

        close: whether that is done; other runs stay noted. Returns names of files that hold what is no note.
        """
        strange = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with abandoned(path) as held:
                if held is None:
                    continue
                file, lines = held
                notes = [note for note in map(_note, lines) if note]
                left: dict[str, Note] = {}
                for note in notes:
                    left.pop(note[1], None)
                    if note[2]:
                        left[note[1]] = note
                for store, noted, _, experiment in [*left.values()]:
                    if store in self.stores and close(noted, experiment):
                        del left[noted]
                        append(file, (store, noted, False, experiment))  # another command may open this run again
                is_whole = len(notes) == len(lines)
                if not is_whole:
                    strange.append(path.name)
                if not left:
                    path.unlink() if is_whole else path.rename(path.with_suffix(".set-aside"))
        return strange


def _note(line: bytes) -> Note | None:
    """None for a line that is no note. Earlier versions named no experiment."""
    try:
        match json.loads(line):
            case [str(store), str(noted), bool(is_open)]:
                return store, noted, is_open, ""
            case [str(store), str(noted), bool(is_open), str(experiment)]:
                return store, noted, is_open, experiment
    except (ValueError, RecursionError):
        pass
    return None
