"""Models that leave the building: packaged and registered after a training, promoted, served, exported."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.config.metric import parse_metric
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.stages.record import connect, interval_again
from pipeline.work import Work, say

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.settings import Experiment
    from pipeline.metrics import Interval
    from pipeline.receipts import Receipt
    from pipeline.tracking.registry import Version

EXAMPLES = 16  # images that torch and ONNX are compared on


def log_model(
    work: Work, run_id: str, folds: str, checkpoints: Sequence[Path], oof: pd.DataFrame, figures: Mapping[str, Any]
) -> str:
    """The folds' models as one model of MLflow's, registered under the competition's name; champion if it is better.

    run_id: the cross-validation's. folds: hash of the folds table. figures: its score, low and high. Returns what came
    of it, in words; what fails is told there too, for the training is done, and worth more.
    """
    from pipeline.config.mistakes import first_line
    from pipeline.tracking import package, registry

    competition, tracker, number = work.competition, work.tracker, ""
    if competition.is_excerpt:  # of `make smoke`
        return ""
    place = work.folder / f".package-{run_id}.tmp"  # the same after a kill, which leaves it
    try:
        package.save_package(place, checkpoints, competition.label_texts, competition.separator, work.store.side)
        metric = parse_metric(competition.metric, competition.target)
        interval = (figures["score"], figures["low"], figures["high"])
        score = registry.Score(metric.name, *interval, metric.greater_is_better, run_id, folds)
        before, pairs, again = _paired_with_champion(work, oof)
        made_of = [receipts.sha256(path) for path in checkpoints]
        against = before.run_id if before else ""
        number = tracker.ensemble(run_id, competition.name, place, score, made_of, against, pairs, again)
        if not number:
            return ""  # kept: the tracker has said so
        [why] = [v.why for v in registry.versions(tracker.client, competition.name) if v.number == number]
        return f"version {number} of the model {competition.name}. {why}"
    except Exception as error:
        told = f"version {number}, of which no more can be said" if number else "could not be registered as one"
        again = "" if number else "; make promote tries it again"
        return f"the folds' models: {told} ({first_line(error)}){again}"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _paired_with_champion(work: Work, oof: pd.DataFrame) -> tuple[Version | None, float | None, Interval | None]:
    """(champion, lower end of the gain's interval, row by row, the champion's own interval made again), as far as
    MLflow can be asked. None: the champion was validated otherwise; its own interval is by units anyway."""
    import pandas as pd

    from pipeline.compare import compare
    from pipeline.tracking import registry
    from pipeline.tracking.runs import fetch

    competition, tracker, before = work.competition, work.tracker, None
    # groups as the folds kept them together, duplicates too: by single rows noise looks like a gain
    folds = pd.read_csv(work.folder / "folds.csv", dtype=str, keep_default_na=False)
    groups = dict(zip(folds["image_id"], folds["group"], strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            before = None if tracker.failure else registry.champion(tracker.client, competition.name)
            if before is None:
                return None, None, None
            old = pd.read_parquet(fetch(before.run_id, "oof.parquet", Path(scratch)))
            return before, compare(old, oof, groups, competition.rule, competition.target).low, None
        except Exception:  # MLflow is gone, or the champion's run, or it is on other folds or of another target
            if before is None or before.score is None or before.score.by_units:
                return before, None, None
            return before, None, interval_again(before.run_id, competition.rule, competition.target, before.score.value)


def promote(work: Work, wanted: str) -> int:
    """Makes the model of a run the champion, whatever the scores say. Returns the exit status.

    wanted: the beginning of the run's id; empty for the experiment's own training, whose model is registered first if
    MLflow does not have it.
    """
    from pipeline.tracking import registry

    name, client = work.settings.competition.name, connect(work.settings).client
    own = receipts.read(work.folder, "train")
    own_run = work.in_mlflow(own) if own else ""
    known = registry.versions(client, name)
    if own and own_run.startswith(wanted or own_run) and own_run not in {version.run_id for version in known}:
        said = _register_again(work, own, own_run)
        say("promote", said)
        known = registry.versions(client, name)
    version = _version_of(known, wanted or own_run)
    before = registry.champion(client, name)
    registry.set_champion(client, name, version.number)
    was = f"; it was version {before.number}" if before and before.number != version.number else ""
    say("promote", f"version {version.number} of {name} is the champion{_told(version)}{was}")
    return 0


def _register_again(work: Work, trained: Receipt, run_id: str) -> str:
    """From what the training left: its model was deleted in MLflow, or could not be registered then."""
    import pandas as pd

    from pipeline.crossval import oof_interval
    from pipeline.folds.split import read_folds

    checkpoints = [work.resolve(trained, name) for name in trained.artifacts if name.endswith(".safetensors")]
    oof = pd.read_parquet(work.resolve(trained, "oof.parquet"))
    folds = read_folds(work.folder / "folds.csv")
    interval = oof_interval(oof, folds, work.competition.metric, work.competition.target)
    return log_model(work, run_id, trained.inputs["folds"], checkpoints, oof, trained.figures | asdict(interval))


def serve(settings: Experiment, wanted: str, port: int) -> int:
    """Serves a run's model, or the champion, until Ctrl-C. Returns the exit status."""
    from pipeline import serve as room
    from pipeline.tracking import registry

    name, client = settings.competition.name, connect(settings).client
    version = _version_of(registry.versions(client, name), wanted) if wanted else registry.champion(client, name)
    if version is None:
        valid = "valid: make promote (of what make train made), or make serve RUN=... (make runs lists the runs)"
        raise Mistakes([Mistake(f"model {name}", "there is no champion", valid, "models")])
    say("serve", f"version {version.number} of {name}{_told(version)}")
    return room.serve(client, name, version.number, port)


def _version_of(known: list[Version], wanted: str) -> Version:
    """The youngest version that the run with this beginning of an id left. Raises `Mistakes` for none, or several."""
    runs = {version.run_id: version for version in reversed(known) if wanted and version.run_id.startswith(wanted)}
    if len(runs) == 1:
        return next(iter(runs.values()))
    listed = ", ".join(f"{v.run_id[:8]} (version {v.number}{_told(v)})" for v in known[:8])
    found = f"{len(runs)} runs with a registered model begin so" if wanted else "no run is named"
    valid = f"valid: {listed or 'none yet: make train registers one, and make promote tries it again'}"
    raise Mistakes([Mistake(f"RUN={wanted}", found, valid, "runs")])


def _told(version: Version) -> str:
    score = version.score
    if not score:
        return ""
    return f", {score.metric} {score.value:.4f}" + (f" ({score.low:.4f} to {score.high:.4f})" if score.by_units else "")


def export(work: Work) -> Path:
    """Every fold's model as ONNX under `mlruns/NAME/export/`, compared with torch on images of the competition."""
    from pipeline.stages.training import train

    trained = train(work)
    work.check()
    import torch

    from pipeline import export as room
    from pipeline.images.load import load_images
    from pipeline.model import checkpoint_info

    names = [name for name in trained.artifacts if name.endswith(".safetensors")]
    checkpoints = [work.resolve(trained, name) for name in names]
    rows, contents = work.competition.train_rows[:EXAMPLES], work.contents[0][:EXAMPLES]
    images = torch.from_numpy(load_images(rows, checkpoint_info(checkpoints[0]).preprocessing, work.store, contents))
    folder = work.folder / "export"
    about = {"label_texts": list(work.competition.label_texts), "separator": work.competition.separator,
             "store_side": work.store.side, "cv_run": trained.run_id}  # fmt: skip
    difference = room.export(checkpoints, images, folder, about, lambda text: say("export", text))
    say("export", f"{len(checkpoints)} models in {shown(folder)}; they differ from torch by {difference:.1e} at most")
    return folder
