"""The runs of one MLflow experiment.

In: what a stage did. Out: runs in the experiment named after the competition, in `mlruns/mlflow.db` with artifacts
under `mlruns/artifacts/`, or on the server that the environment's MLFLOW_TRACKING_URI names. Tracking never stops
training: what fails is told once, and from then on every call of this command is kept under `mlruns/outbox/`, from
where the next command sends it, or `make sync`.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow

from pipeline.config.mistakes import first_line, shown
from pipeline.config.secrets import hidden
from pipeline.config.settings import RUNS
from pipeline.tracking.alive import OpenRuns
from pipeline.tracking.calls import ended, now_ms, send
from pipeline.tracking.earlier import Earlier
from pipeline.tracking.outbox import OURS, Outbox, new_id, real_id
from pipeline.tracking.place import copy_to_read, database_of, keys_of, location_of, make, may_write, settle, uri_of
from pipeline.tracking.registry import Score
from pipeline.tracking.uploads import Refused

LOCAL_STORE = uri_of(RUNS / "mlflow.db")  # absolute: a relative one makes a second store in every folder
ARTIFACTS = RUNS / "artifacts"
PARAM_LENGTH = 500
ILLEGAL = re.compile(r"[^A-Za-z0-9_\-.:/ ]")
for chatty in ("alembic", "mlflow.store.db.utils"):  # a line for each of some fifty migrations of an empty store
    logging.getLogger(chatty).setLevel(logging.ERROR)


class Tracker:
    """The runs of one experiment. Every method survives a tracking failure and says so once."""

    def __init__(self, experiment: str):
        self.failure = ""  # why calls are kept instead of made; empty while tracking works
        self.uri = store_uri()
        self.is_local = self.uri == LOCAL_STORE
        self._experiment = experiment
        self._client: Any = None
        self.experiment_id = ""
        self._told: set[str] = set()
        stores = keys_of(self.uri, database_of(LOCAL_STORE) if self.is_local else None)
        self._outbox = Outbox(RUNS / "outbox", experiment, stores)
        self._open = OpenRuns(RUNS / ".open", stores, experiment)
        self.may_write, self._lost = True, False  # _lost: a call was neither made nor kept
        try:
            self._client, self.may_write = connect()
            self.uri = self._client.tracking_uri
            # where a server keeps the files is the server's affair
            self.experiment_id = self._find_or_create(location_of(ARTIFACTS / experiment) if self.is_local else None)
            self.earlier = Earlier(self._client, self.experiment_id, self._outbox, self._open, self._say)
            if self.may_write:
                self.earlier.send(self._send, self._refused)
                with self._bookkeeping("which runs are closed"):
                    self.earlier.close()
        except Exception as error:  # whatever it is, hours of training are worth more
            self._stop(error)

    def _find_or_create(self, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if not found:
            try:
                return self._client.create_experiment(self._experiment, artifacts)
            except mlflow.MlflowException:
                if not (found := self._client.get_experiment_by_name(self._experiment)):  # by another command, just now
                    raise
        if found.lifecycle_stage != "active" and self.may_write:  # deleted in the UI: its name is taken all the same
            self._client.restore_experiment(found.experiment_id)
            self._say(f"MLflow experiment {self._experiment} was deleted; it is restored to take new runs")
        return found.experiment_id

    @contextmanager
    def _bookkeeping(self, what: str) -> Generator[None]:
        """Notes are worth less than the work: a disk that does not take them is told, once."""
        try:
            yield
        except OSError as error:
            self._say(f"{what} cannot be noted ({first_line(error)}); the work goes on")

    def _send(self, call: dict[str, Any], again: bool = False) -> str:
        if self.is_local and ("file" in call or "text" in call):
            settle(database_of(LOCAL_STORE), ARTIFACTS)  # a container may have this checkout at another place, just now
        if call["call"] != "ensemble":
            return send(self._client, self.experiment_id, call, again)
        with (RUNS / ".registry.lock").open("w") as lock:  # two trainings that end at once judge one after the other
            fcntl.flock(lock, fcntl.LOCK_EX)
            return send(self._client, self.experiment_id, call, again)

    @property
    def shown_uri(self) -> str:
        """As a person reads it: the local store by its file, others without passwords and tokens."""
        return shown(database_of(LOCAL_STORE)) if self.is_local else hidden(self.uri)

    def start(self, name: str, tags: Mapping[str, str], parent: str = "", resume: str = "") -> str:
        """Opens a run and returns its id: MLflow's, or one of ours until it is sent.

        resume: a killed command's run to go on with.
        """
        if resume:
            self._begin(resume)
            self._call({"call": "resume", "run": resume, "name": name})
            return resume
        self._begin(ours := new_id())  # before MLflow makes it: a command may be killed in between
        made = self._call({"call": "start", "id": ours, "name": name, "tags": dict(tags), "parent": parent,
                           "time": now_ms()})  # fmt: skip
        self._open.named(ours, made or ours)
        return made or ours

    def _begin(self, run_id: str) -> None:
        if self.may_write:
            with self._bookkeeping("which runs are open"):
                self._open.begin(run_id)

    def open_runs(self) -> list[str]:
        """Started here and not ended yet, the youngest first."""
        return self._open.ids[::-1]

    def exists(self, run_id: str) -> bool:
        """Whether the run is there to go on with; it may have been deleted since it was noted."""
        real = real_id(run_id, self._outbox.root)
        if not run_id or self.failure or not real:
            return bool(run_id)  # nobody can say, so what was noted holds
        try:
            return self._client.get_run(real).info.lifecycle_stage == "active"
        except Exception as error:  # as in `_call`
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return False
            self._stop(error)
            return True

    def search(self, wanted: str) -> list[Any]:
        """MLflow's own runs by a filter in its language, page by page. Raises what MLflow raises."""
        found, token = [], None
        while True:
            page = self._client.search_runs([self.experiment_id], wanted, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def let_go(self) -> None:
        """As the end of the command does: open runs and kept calls are the next one's."""
        self._open.let_go()
        self._outbox.let_go()

    def params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Once a run; values longer than MLflow's columns show are clipped (the whole settings are an artifact)."""
        self._call({"call": "params", "run": run_id, "params": _legal(params, lambda v: str(v)[:PARAM_LENGTH])})

    def metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """All metrics of one step in one call: the call costs 10 ms, whatever it carries."""
        self._call({"call": "metrics", "run": run_id, "metrics": _legal(metrics, float), "step": step,
                    "time": now_ms()})  # fmt: skip

    def curve(self, run_id: str, steps: Sequence[tuple[int, Mapping[str, float]]], time: int) -> None:
        """Metrics of many steps in one call: (step, metrics). The same again, at the same time (ms), adds nothing."""
        self._call({"call": "curve", "run": run_id, "time": time,
                    "steps": [[step, _legal(metrics, float)] for step, metrics in steps]})  # fmt: skip

    def tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self._call({"call": "tags", "run": run_id, "tags": _legal(tags, str)})

    def describe(self, run_id: str, markdown: str) -> None:
        """What the run's page says first."""
        self._call({"call": "tags", "run": run_id, "tags": {"mlflow.note.content": markdown}})

    def artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """folder: the run's, `` for its top."""
        self._call({"call": "artifact", "run": run_id, "file": str(path.absolute()), "folder": folder})

    def text(self, run_id: str, text: str, name: str) -> None:
        """`text` as the artifact `name`."""
        self._call({"call": "text", "run": run_id, "text": text, "name": name})

    def inputs(self, run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """What the run read; each with name, digest, source, profile (a JSON text) and context."""
        self._call({"call": "inputs", "run": run_id, "datasets": [dict(dataset) for dataset in datasets]})

    def model(
        self, run_id: str, name: str, params: Mapping[str, Any], metrics: Mapping[str, float], step: int,
        tags: Mapping[str, str], parent: str = "",
    ) -> None:  # fmt: skip
        """A checkpoint for the Models view, which ranks by `metrics`. parent: a run that is to name it too.

        The same one again is no second model: a command that was killed at its end logs its models anew.
        """
        ours = hashlib.sha256(json.dumps([run_id, name, dict(tags)]).encode()).hexdigest()[:32]
        self._call({"call": "model", "id": ours, "run": run_id, "name": name, "params": _legal(params, str),
                    "metrics": _legal(metrics, float), "step": step, "tags": dict(tags), "parent": parent,
                    "time": now_ms()})  # fmt: skip

    def ensemble(
        self, run_id: str, name: str, folder: Path, score: Score, made_of: Sequence[str], against: str = "",
        pairs: float | None = None, interval: Any = None,
    ) -> str:  # fmt: skip
        """A package for the registered model `name`; the number of its version, empty while it is kept.

        made_of: hashes of the checkpoints; the same ones again are no second version. against: the run of the champion
        that it was compared with in pairs, and `pairs` the lower end of the gain's interval (`registry.beats`).
        interval: the champion's own by units (`metrics.Interval`), where an older version made it.
        """
        ours = hashlib.sha256(json.dumps([run_id, name, *made_of]).encode()).hexdigest()[:32]
        return self._call({"call": "ensemble", "id": ours, "run": run_id, "name": name, "score": asdict(score),
                           "metrics": _legal({f"oof_{score.metric}": score.value}, float), "time": now_ms(),
                           "file": str(folder.absolute()), "against": against, "pairs": pairs,
                           "interval": asdict(interval) if interval else {}})  # fmt: skip

    @property
    def client(self) -> mlflow.MlflowClient:
        """MLflow's own, for what is asked and not told. Use it only while nothing failed."""
        return self._client

    def rename(self, run_id: str, name: str) -> None:
        self._call({"call": "rename", "run": run_id, "name": name})

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """status: FINISHED, FAILED or KILLED."""
        self._lost = False
        self._call(ended(run_id, status))
        if not self._lost:  # else it stays noted, and the next command closes it
            with self._bookkeeping("which runs are open"):
                self._open.end(run_id)

    def _call(self, call: dict[str, Any]) -> str:
        """Makes the call, or keeps it. The id that MLflow gave, or empty."""
        if not self.may_write:
            self._say(f"{shown(RUNS)} is not this user's to write to: nothing of this is recorded")
            return ""
        call = self._outbox.translated(call)
        if not self.failure and not OURS.fullmatch(call.get("run", "")):  # of a run that is still kept, it is kept too
            try:
                return self._send(call)
            except Refused as error:
                self._refused(call, error)
                return ""
            except Exception as error:  # whatever it is, hours of training are worth more
                self._stop(error)
        try:
            self._outbox.keep(call)
        except OSError as error:
            self._lost = True
            self._say(f"what tracking cannot take cannot be kept either ({first_line(error)}); the work goes on")
        return ""

    def _refused(self, call: dict[str, Any], error: Refused) -> None:
        self._say(f"MLflow does not take one thing ({error}); it is kept in mlruns/outbox/")
        with suppress(OSError):
            self._outbox.refuse(call, str(error))

    def _stop(self, error: BaseException) -> None:
        self.failure = first_line(error)
        self._say(f"tracking stopped ({self.failure}); the work goes on, and its record is kept in mlruns/outbox/, to "
                  "be sent by the next command that reaches MLflow, or by make sync")  # fmt: skip

    def _say(self, text: str) -> None:
        if text not in self._told:
            print(text, file=sys.stderr)
        self._told.add(text)


def store_uri() -> str:
    """The environment's MLFLOW_TRACKING_URI, or the local store."""
    return os.environ.get("MLFLOW_TRACKING_URI", "") or LOCAL_STORE


def connect() -> tuple[mlflow.MlflowClient, bool]:
    """(client, whether the store may be written to). Raises what MLflow raises where it cannot be reached."""
    if (uri := store_uri()) != LOCAL_STORE:
        return mlflow.MlflowClient(uri), True
    database = database_of(uri)
    if not may_write(database, RUNS):
        uri = uri_of(copy := copy_to_read(database))
        settle(copy, ARTIFACTS)
        return mlflow.MlflowClient(uri), False
    RUNS.mkdir(exist_ok=True)
    with (RUNS / ".mlflow.lock").open("w") as lock:
        # Two processes that create the schema at once ruin the store for good, so one does and the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        settle(database, ARTIFACTS)
        make(database, ARTIFACTS)
        return mlflow.MlflowClient(uri), True


def fetch(run_id: str, name: str, folder: Path) -> Path:
    """Downloads one artifact of a finished run. Raises what MLflow raises where it is not there."""
    return Path(connect()[0].download_artifacts(real_id(run_id, RUNS / "outbox"), name, str(folder)))


def _legal(values: Mapping[str, Any], text: Callable[[Any], Any]) -> dict[str, Any]:
    """With names that MLflow takes; a setting's key may hold what they may not (`match.mask*`), as may `map@5`."""
    legal: dict[str, Any] = {}
    for key, value in values.items():
        name = ILLEGAL.sub("_", key)
        legal[name if name not in legal else f"{name}.{len(legal)}"] = text(value)
    return legal
