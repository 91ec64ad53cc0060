"""Which runs are open, and whose: so that runs of a command that was killed do not stay RUNNING for ever.

Each command that opens runs holds a locked file under `mlruns/.open/`, with a line for each run begun and ended; the
next command finds the file abandoned and closes what it names.
"""

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.tracking.locked import abandoned, claim


class OpenRuns:
    """This command's open runs, in order. uri: of the store that they are in."""

    def __init__(self, folder: Path, uri: str):
        self.folder, self.uri = folder, uri
        self.ids: list[str] = []
        self._path: Path | None = None
        self._file = -1  # a descriptor, open as long as this command lives

    def begin(self, run_id: str) -> None:
        self.ids.append(run_id)
        if self._path is None:
            self._path = self.folder / f"{uuid.uuid4().hex}.jsonl"
            self._file = claim(self._path)
        self._write(run_id, True)

    def end(self, run_id: str) -> None:
        if run_id not in self.ids:
            return
        self.ids.remove(run_id)
        self._write(run_id, False)
        if not self.ids and self._path:
            self._path.unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        """As the end of the command does: runs that are still open are the next one's to close."""
        if self._path:
            os.close(self._file)
            self._path = None

    def _write(self, run_id: str, is_open: bool) -> None:
        os.write(self._file, (json.dumps([self.uri, run_id, is_open]) + "\n").encode())

    def close_orphans(self, close: Callable[[str], bool]) -> None:
        """Calls `close` with each run of this store that a command left open when it ended.

        close: whether that is done; a run that MLflow does not know yet is asked about again by the next command.
        """
        for path in sorted(self.folder.glob("*.jsonl")):
            with abandoned(path) as is_ours:
                if not is_ours:
                    continue
                left: dict[str, str] = {}
                for line in path.read_text().splitlines():
                    with suppress(ValueError):  # cut off
                        uri, run_id, is_open = json.loads(line)
                        if is_open:
                            left[run_id] = uri
                        else:
                            left.pop(run_id, None)
                for run_id, uri in [*left.items()]:
                    if uri == self.uri and close(run_id):
                        del left[run_id]
                if not left:
                    path.unlink(missing_ok=True)
