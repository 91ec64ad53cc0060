"""The runs of an experiment as plain data, read back from MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.tracking.runs import Tracker


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    status: str
    started: datetime  # UTC
    tags: dict[str, str]
    metrics: dict[str, float]


def runs(tracker: Tracker, stages: Sequence[str]) -> list[Run]:
    """Those of the stages, the youngest first. Raises what MLflow raises where it cannot be reached."""
    found = [run for stage in stages for run in tracker.search(f"tags.stage = '{stage}'")]
    plain = [
        Run(
            id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            tags=dict(run.data.tags),
            metrics=dict(run.data.metrics),
        )
        for run in found
    ]
    return sorted(plain, key=lambda run: run.started, reverse=True)


def files(tracker: Tracker, run_id: str) -> list[str]:
    """Names of the files at the top of a run's artifacts."""
    return [entry.path for entry in tracker.client.list_artifacts(run_id) if not entry.is_dir]
