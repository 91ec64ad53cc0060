"""The runs of an experiment as plain data, read back from MLflow."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient

from pipeline.tracking.runs import Tracker, fetch


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    stage: str
    status: str
    started: datetime  # UTC
    parent: str  # id, empty for none
    tags: dict[str, str]
    metrics: dict[str, float]


def runs(tracker: Tracker, stages: tuple[str, ...] = ()) -> list[Run]:
    """Those of the stages, or all; the youngest first. Raises what MLflow raises where it cannot be reached."""
    client: MlflowClient = tracker._client
    found, token = [], None
    while True:
        page = client.search_runs([tracker.experiment_id], page_token=token)
        found += [_plain(run) for run in page]
        token = page.token
        if not token:
            break
    chosen = [run for run in found if not stages or run.stage in stages]
    return sorted(chosen, key=lambda run: run.started, reverse=True)


def file_of(run: Run, name: str, folder: Path) -> Path:
    """One artifact, downloaded into `folder`."""
    return fetch(run.id, name, folder)


def _plain(run) -> Run:
    tags = dict(run.data.tags)
    return Run(
        id=run.info.run_id,
        name=run.info.run_name,
        stage=tags.get("stage", ""),
        status=run.info.status,
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        parent=tags.get("mlflow.parentRunId", ""),
        tags=tags,
        metrics=dict(run.data.metrics),
    )
