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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow

from pipeline.config.mistakes import first_line
from pipeline.config.settings import RUNS
from pipeline.tracking.alive import OpenRuns
from pipeline.tracking.calls import Refused, now_ms, send
from pipeline.tracking.outbox import OURS, Outbox, new_id, real_id
from pipeline.tracking.registry import Score

LOCAL_STORE = f"sqlite:///{RUNS / 'mlflow.db'}"  # absolute: a relative one makes a second store in every folder
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
        self._experiment = experiment
        self._client: Any = None
        self.experiment_id = ""
        self._told: set[str] = set()
        self.n_sent = 0  # kept calls of earlier commands that this one sent
        self._outbox = Outbox(RUNS / "outbox", experiment, self.uri)
        self._open = OpenRuns(RUNS / ".open", self.uri)
        try:
            self._connect()
            self._send_kept()
            self._open.close_orphans(self._close)
        except Exception as error:  # whatever it is, hours of training are worth more
            self._stop(error)

    def _connect(self) -> None:
        RUNS.mkdir(exist_ok=True)
        with (RUNS / ".mlflow.lock").open("w") as lock:
            # Two processes that create the schema at once ruin the store for good, so one does and the others wait.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._client = mlflow.MlflowClient(self.uri)
            own = str(ARTIFACTS / self._experiment) if self.uri == LOCAL_STORE else None  # else the server's affair
            self.experiment_id = self._find_or_create(own)

    def _find_or_create(self, artifact_location: str | None) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if not found:
            return self._client.create_experiment(self._experiment, artifact_location)
        if found.lifecycle_stage != "active":  # deleted in the UI: its name is taken all the same
            self._client.restore_experiment(found.experiment_id)
            self._say(f"MLflow experiment {self._experiment} was deleted; it is restored to take new runs")
        return found.experiment_id

    def _close(self, run_id: str) -> bool:
        """Of a command that was killed; gone on with, it is opened again. False: MLflow does not have it yet."""
        real = real_id(run_id, self._outbox.root)
        if real:
            with suppress(Refused):  # deleted meanwhile
                send(self._client, self.experiment_id, _end(real, "KILLED"))
        return bool(real)

    def _send_kept(self) -> None:
        def make(call: dict[str, Any]) -> bool:
            try:
                made = self._send(self._outbox.translated(call), again=True)
            except Refused as error:
                self._refused(call, error)
                return False
            if made:
                self._outbox.named(call["id"], made)
            return True

        if self._outbox.journals():
            self.n_sent = self._outbox.send(make)
            if self.n_sent:
                self._say(f"{self.n_sent} calls to MLflow that an earlier command kept are sent now")
            if n := self._outbox.n_elsewhere:
                self._say(f"the record of {n} earlier commands waits for another store than {shown_uri(self.uri)}: "
                          "make sync with the MLFLOW_TRACKING_URI that they had sends it")  # fmt: skip

    def _send(self, call: dict[str, Any], again: bool = False) -> str:
        if call["call"] != "ensemble":
            return send(self._client, self.experiment_id, call, again)
        with (RUNS / ".registry.lock").open("w") as lock:  # two trainings that end at once judge one after the other
            fcntl.flock(lock, fcntl.LOCK_EX)
            return send(self._client, self.experiment_id, call, again)

    @property
    def waiting(self) -> tuple[int, int]:
        """Journals of commands that still run, and those that wait for another store."""
        elsewhere = self._outbox.n_elsewhere
        return len(self._outbox.journals()) - elsewhere, elsewhere

    def start(self, name: str, tags: Mapping[str, str], parent: str = "", resume: str = "") -> str:
        """Opens a run and returns its id: MLflow's, or one of ours until it is sent.

        resume: a killed command's run to go on with.
        """
        if resume:
            self._call({"call": "resume", "run": resume, "name": name})
            self._open.begin(resume)
            return resume
        ours = new_id()
        made = self._call({"call": "start", "id": ours, "name": name, "tags": dict(tags), "parent": parent,
                           "time": now_ms()})  # fmt: skip
        self._open.begin(made or ours)
        return made or ours

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

    def curve(self, run_id: str, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Metrics of many steps in one call: (step, metrics)."""
        self._call({"call": "curve", "run": run_id, "time": now_ms(),
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
        self._call(_end(run_id, status))
        self._open.end(run_id)

    def _call(self, call: dict[str, Any]) -> str:
        """Makes the call, or keeps it. The id that MLflow gave, or empty."""
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


def shown_uri(uri: str) -> str:
    """Without a user's name and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def fetch(run_id: str, name: str, folder: Path) -> Path:
    """Downloads one artifact of a finished run. Raises what MLflow raises where it is not there."""
    client = mlflow.MlflowClient(store_uri())
    return Path(client.download_artifacts(real_id(run_id, RUNS / "outbox"), name, str(folder)))


def _end(run_id: str, status: str) -> dict[str, Any]:
    return {"call": "end", "run": run_id, "status": status, "time": now_ms()}


def _legal(values: Mapping[str, Any], text: Callable[[Any], Any]) -> dict[str, Any]:
    """With names that MLflow takes; a setting's key may hold what they may not (`match.mask*`), as may `map@5`."""
    legal: dict[str, Any] = {}
    for key, value in values.items():
        name = ILLEGAL.sub("_", key)
        legal[name if name not in legal else f"{name}.{len(legal)}"] = text(value)
    return legal
