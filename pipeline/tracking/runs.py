"""The runs of one MLflow experiment.

In: what a stage did. Out: runs in the experiment named after the competition, in `mlruns/mlflow.db` with artifacts
under `mlruns/artifacts/`, or on the server that the environment's MLFLOW_TRACKING_URI names. Tracking never stops
training: the first call that fails is told once, and the run goes on without; all that training makes is in
`mlruns/NAME/` already.
"""

import fcntl
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag

from pipeline.config.settings import RUNS

LOCAL_STORE = f"sqlite:///{RUNS / 'mlflow.db'}"  # absolute: a relative one makes a second store in every folder
ARTIFACTS = RUNS / "artifacts"
PARAM_LENGTH = 500
ILLEGAL = re.compile(r"[^A-Za-z0-9_\-.:/ ]")
for chatty in ("alembic", "mlflow.store.db.utils"):  # a line for each of some fifty migrations of an empty store
    logging.getLogger(chatty).setLevel(logging.ERROR)


class Tracker:
    """The runs of one experiment. Every method survives a tracking failure and says so once."""

    def __init__(self, experiment: str):
        self.failure = ""  # why tracking stopped; empty while it works
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", "") or LOCAL_STORE
        self._experiment = experiment
        self._client: Any = None
        self._open: list[str] = []
        self.experiment_id = ""
        self._survive(self._connect)

    def _connect(self) -> None:
        if self.uri == LOCAL_STORE:
            RUNS.mkdir(exist_ok=True)
            with (RUNS / ".mlflow.lock").open("w") as lock:
                # Two processes that create the schema at once ruin the store for good, so one does and the others wait.
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._client = mlflow.MlflowClient(self.uri)
                self.experiment_id = self._find_or_create(str(ARTIFACTS / self._experiment))
        else:
            self._client = mlflow.MlflowClient(self.uri)
            self.experiment_id = self._find_or_create(None)

    def _find_or_create(self, artifact_location: str | None) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found:
            if found.lifecycle_stage != "active":  # deleted in the UI: its name is taken all the same
                self._client.restore_experiment(found.experiment_id)
                print(
                    f"MLflow experiment {self._experiment} was deleted; it is restored to take new runs",
                    file=sys.stderr,
                )
            return found.experiment_id
        return self._client.create_experiment(self._experiment, artifact_location)

    def start(self, name: str, tags: dict[str, str], parent: str = "", resume: str = "") -> str:
        """Opens a run and returns its id, empty if tracking failed. resume: a killed command's run to go on with."""

        def call() -> str:
            if resume:
                self._client.update_run(resume, status="RUNNING", name=name)
                return resume
            all_tags = {**tags, **({"mlflow.parentRunId": parent} if parent else {})}
            return self._client.create_run(self.experiment_id, tags=all_tags, run_name=name).info.run_id

        run_id = self._survive(call) or ""
        self._open += [run_id] if run_id else []
        return run_id

    def open_runs(self) -> list[str]:
        """Started here and not ended yet, the youngest first."""
        return self._open[::-1]

    def exists(self, run_id: str) -> bool:
        """Whether the store holds the run; it may have been deleted or exchanged since the run was noted."""

        def call() -> bool:
            try:
                return self._client.get_run(run_id).info.lifecycle_stage == "active"
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False

        return bool(self._survive(call, run_id))

    def params(self, run_id: str, params: dict[str, Any]) -> None:
        """Once a run; values longer than MLflow's columns show are clipped (the whole settings are an artifact)."""
        legal: dict[str, str] = {}
        for key, value in params.items():  # a setting's key may hold what MLflow's names may not (`match.mask*`)
            name = ILLEGAL.sub("_", key)
            legal[name if name not in legal else f"{name}.{len(legal)}"] = str(value)[:PARAM_LENGTH]
        entities = [Param(key, value) for key, value in legal.items()]
        self._survive(lambda: self._client.log_batch(run_id, params=entities), run_id)

    def metrics(self, run_id: str, metrics: dict[str, float], step: int = 0) -> None:
        """All metrics of one step in one call: the call costs 10 ms, whatever it carries."""
        now = int(time.time() * 1000)
        entities = [Metric(key, value, now, step) for key, value in metrics.items()]
        self._survive(lambda: self._client.log_batch(run_id, metrics=entities), run_id)

    def tags(self, run_id: str, tags: dict[str, Any]) -> None:
        entities = [RunTag(key, str(value)) for key, value in tags.items()]
        self._survive(lambda: self._client.log_batch(run_id, tags=entities), run_id)

    def artifact(self, run_id: str, path: Path) -> None:
        self._survive(lambda: self._client.log_artifact(run_id, str(path)), run_id)

    def settings(self, run_id: str, settings: dict[str, Any]) -> None:
        """The resolved settings, whole, as `settings.yaml`."""
        self._survive(lambda: self._client.log_dict(run_id, settings, "settings.yaml"), run_id)

    def rename(self, run_id: str, name: str) -> None:
        self._survive(lambda: self._client.update_run(run_id, name=name), run_id)

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """status: FINISHED, FAILED or KILLED."""
        if run_id in self._open:
            self._open.remove(run_id)
        self._survive(lambda: self._client.set_terminated(run_id, status), run_id)

    def _survive(self, call: Callable[[], Any], run_id: str = "no run yet") -> Any:
        if self.failure or not run_id:
            return None
        try:
            return call()
        except Exception as error:  # whatever it is, hours of training are worth more
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no message'}"
            print(f"tracking stopped ({self.failure}); the work goes on, its files are in mlruns/", file=sys.stderr)
            return None


def fetch(run_id: str, name: str, folder: Path) -> Path:
    """Downloads one artifact of a finished run. Raises what MLflow raises where it is not there."""
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", "") or LOCAL_STORE)
    return Path(client.download_artifacts(run_id, name, str(folder)))
