"""The runs behind a submission: the experiment's own training, or any finished cross-validations of the competition."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import kept, receipts
from pipeline.config.metric import parse_metric
from pipeline.config.mistakes import Mistake, Mistakes, first_line, listed, shown
from pipeline.config.settings import RUNS
from pipeline.receipts import Receipt
from pipeline.stages.record import connect, find
from pipeline.stages.training import identity_of
from pipeline.work import Work, say

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.images.store import Side
    from pipeline.tracking.browse import Run
    from pipeline.tracking.runs import Tracker

TOP = re.compile(r"top([1-9]\d?)")


@dataclass(frozen=True)
class Models:
    """The models of a cross-validation. checkpoints: in the order of (seed, fold).

    side: of the image store that they were trained from; out of another one they would see other pixels than they
    learnt from and were validated with.
    """

    run_id: str
    title: str
    checkpoints: list[Path]
    hashes: list[str]  # of the checkpoints' files
    side: Side

    @property
    def name(self) -> str:
        return self.run_id[:8]


@dataclass(frozen=True)
class Member(Models):
    """A cross-validation as a submission needs it: its models, and what they said of the rows they did not see."""

    oof: pd.DataFrame
    folds: pd.DataFrame


def own(work: Work, trained: Receipt) -> Member:
    """The experiment's own training."""
    import pandas as pd

    from pipeline.folds.split import read_folds

    names = [name for name in trained.artifacts if name.startswith("fold-") and name.endswith(".safetensors")]
    files = [work.resolve(trained, name) for name in names]
    folds = receipts.read(work.folder, "folds")
    assert folds is not None, "train comes after folds"
    paths, hashes = _in_order(files, identity_of(trained.fingerprint, trained.inputs))
    table = read_folds(work.resolve(folds, "folds.csv"))
    _refuse_parts(work.name, paths, table, work.settings.train.seeds)
    return Member(
        trained.run_id,
        work.name,
        paths,
        hashes,
        work.store.side,
        pd.read_parquet(work.resolve(trained, "oof.parquet")),
        table,
    )


def chosen_runs(work: Work, wanted: Sequence[str]) -> tuple[Tracker, list[Run]]:
    """The cross-validations of `RUNS`, all on the same folds and images. Raises `Mistakes` naming the strangers."""
    from pipeline.tracking.browse import runs

    tracker = connect(work.settings)
    found = [run for run in runs(tracker, ("cv",)) if run.status == "FINISHED"]
    chosen: list[Run] = []
    for name in wanted:
        of_name = _top(found, int(match[1]), work) if (match := TOP.fullmatch(name)) else [find(found, name)]
        chosen += [run for run in of_name if run.id not in {other.id for other in chosen}]
    first = chosen[0]
    here = {"folds": first.tags.get("folds", "none"), "images": work.image_hashes[0]}
    mistakes = []
    for run in chosen:
        for tag, value in here.items():
            if (has := run.tags.get(tag, "none")) != value:
                whose = "this experiment" if tag == "images" else first.id[:8]
                told = f"was trained on other {tag} ({has[:8]}, and {value[:8]} in {whose})"
                valid = "valid: runs whose rows were split and validated alike; make runs shows each one's folds"
                mistakes.append(Mistake(f"RUNS: {run.id[:8]} ({run.name})", told, valid, "folds"))
    if mistakes:
        raise Mistakes(mistakes)
    return tracker, chosen


def _top(found: list[Run], n: int, work: Work) -> list[Run]:
    """The n best by their out-of-fold score on these images and the folds of the youngest run on them.

    One of several of equal settings. Raises `Mistakes` where there is none.
    """
    settings = work.settings
    metric = parse_metric(settings.competition.metric, settings.competition.target)
    name = f"oof_{metric.name}"
    scored = [run for run in found if name in run.metrics and run.tags.get("images") == work.image_hashes[0]]
    if not scored:
        valid = "valid: finished trainings of these images; make train makes one"
        raise Mistakes([Mistake(f"RUNS: top{n}", f"there is none with a {name}", valid, "runs")])
    folds = scored[0].tags.get("folds")
    on_folds: dict[str, Run] = {}
    for run in scored:  # the youngest of equal ones
        if run.tags.get("folds") == folds:
            on_folds.setdefault(run.tags.get("settings", run.id), run)
    sign = -1 if metric.greater_is_better else 1
    best = sorted(on_folds.values(), key=lambda run: sign * run.metrics[name])[:n]
    fewer = f"top{n}" if len(best) == n else f"top{n}, of which there are {len(best)}"
    say("submit", f"{fewer}: {', '.join(f'{run.id[:8]} {run.metrics[name]:.4f}' for run in best)}")
    return best


def fetched(work: Work, tracker: Tracker, run: Run) -> Member:
    """Its files, from MLflow where they are not here. Raises `Mistakes` where one is not to be had, or not its own."""
    import pandas as pd

    from pipeline.folds.split import read_folds
    from pipeline.tracking.browse import files

    names = [name for name in files(tracker, run.id) if re.fullmatch(r"fold-[\w-]+\.safetensors", name)]
    if not names:
        valid = "valid: a run with its artifacts"
        raise Mistakes([Mistake(f"RUNS: {run.id[:8]}", "MLflow holds no checkpoint of it", valid, "runs")])
    identity = {name: run.tags.get(name, "none") for name in ("settings", "folds", "images")}
    paths, hashes = _in_order([file_of(run.id, name) for name in names], identity)
    side, seeds = _settings_of(run.id, paths[0])
    table = read_folds(file_of(run.id, "folds.csv"))
    _refuse_parts(f"RUNS: {run.id[:8]} ({run.name})", paths, table, seeds)
    return Member(
        run.id,
        run.name,
        paths,
        hashes,
        side,
        pd.read_parquet(file_of(run.id, "oof.parquet")),
        table,
    )


def _refuse_parts(name: str, paths: Sequence[Path], folds: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Raises `Mistakes` where a fold's model is missing: the rows that it alone validated would be nobody's."""
    from pipeline.folds.split import splits
    from pipeline.model import checkpoint_info

    there = {(info.seed, info.fold) for info in map(checkpoint_info, paths)}
    absent = sorted({(seed, split.number) for seed in seeds for split in splits(folds)} - there)
    if absent:
        found = f"has no model of {', '.join(f'fold {fold} (seed {seed})' for seed, fold in absent[:5])}"
        raise Mistakes([Mistake(name, found, "valid: a run with the models of all its folds and seeds", "runs")])


def _settings_of(run_id: str, checkpoint: Path) -> tuple[Side, Sequence[int]]:
    """(side of the store that a run was trained from, its seeds). Raises `Mistakes` where they cannot be read."""
    import yaml
    from pydantic import ValidationError

    from pipeline.config.data import Images
    from pipeline.config.training import Augment
    from pipeline.images.store import side_for
    from pipeline.model import checkpoint_info

    try:
        settings = yaml.safe_load(file_of(run_id, "settings.yaml").read_text())
        seeds = [int(seed) for seed in settings["train"]["seeds"]]
        images, augment = Images.model_validate(settings["images"]), Augment.model_validate(settings["augment"])
    except (yaml.YAMLError, ValidationError, KeyError, TypeError, ValueError) as error:
        found = f"its settings.yaml cannot be read ({first_line(error)})"
        raise Mistakes([Mistake(f"run {run_id[:8]}", found, "valid: a run of this pipeline", "runs")]) from None
    return side_for(images.store, checkpoint_info(checkpoint).preprocessing, augment.mean_crop_area), seeds


def file_of(run_id: str, name: str, again: bool = False) -> Path:
    """An artifact of a run, kept under `mlruns/cache/runs/`. Raises `Mistakes` where it cannot be had.

    again: whether MLflow is asked even where it is kept here.
    """
    from pipeline.tracking.runs import fetch

    if not re.fullmatch(r"\w+", run_id):  # a record may be a stranger's, and a folder is named after it
        raise Mistakes([Mistake(f"run {run_id!r}", "is no id of a run", "valid: letters and digits", "runs")])
    folder = RUNS / "cache" / "runs" / run_id
    path = folder / name
    if not again and kept.is_intact(path):
        return path
    part = folder / f".part-{os.getpid()}.tmp"
    with kept.where_allowed():
        part.mkdir(parents=True, exist_ok=True)
    if not part.is_dir():
        path = _scratch() / f"{run_id}-{name}"
        part = path.with_suffix(".part")
        part.mkdir(exist_ok=True)
    try:
        came = fetch(run_id, name, part)
        kept.seal(path, receipts.sha256(came))
        os.replace(came, path)  # whole, or not there
    except Exception as error:  # MLflow raises many kinds; each means that the file cannot be had
        found = f"MLflow does not give its {name} ({first_line(error)})"
        raise Mistakes([Mistake(f"run {run_id[:8]}", found, "valid: a run with its artifacts", "runs")]) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


@cache
def _scratch() -> Path:
    """A folder for what cannot be kept, as long as this command lives."""
    folder = tempfile.TemporaryDirectory(prefix="podium-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _in_order(files: list[Path], identity: dict[str, str]) -> tuple[list[Path], list[str]]:
    """(checkpoints by seed and fold, their hashes); refuses one that was trained on anything else."""
    from pipeline.crossval import refuse_others
    from pipeline.model import checkpoint_info

    infos = {path: checkpoint_info(path) for path in files}
    for path, info in infos.items():
        named = re.fullmatch(r"fold-(\d+)(?:-seed-(\d+))?", path.stem)
        fold, seed = (int(named[1]), int(named[2] or info.seed)) if named else (info.fold, info.seed)
        refuse_others(path, info, identity, fold, seed)
    paths = sorted(files, key=lambda path: (infos[path].seed, infos[path].fold))
    return paths, [receipts.sha256(path) for path in paths]


def check_alike(members: Sequence[Member], work: Work) -> None:
    """Raises `Mistakes` where members answer other questions: other classes, other rows, other labels, other folds."""
    from pipeline.compare import align
    from pipeline.model import checkpoint_info

    competition = work.competition
    mistakes = []
    for member in members:
        for path in member.checkpoints:
            task = checkpoint_info(path).task
            if (task.kind, task.classes) != (competition.target, competition.classes):
                found = f"answers {task.kind} of {listed(task.classes, 12)}"
                valid = f"valid: {competition.target} of {listed(competition.classes, 12)}, in this order"
                mistakes.append(Mistake(shown(path), found, valid, "foreign artifacts"))
        try:
            align(members[0].oof, member.oof)
        except ValueError as error:
            valid = f"valid: runs on the rows and folds of {members[0].name}"
            mistakes.append(Mistake(f"RUNS: {member.name} ({member.title})", str(error), valid, "folds"))
    if mistakes:
        raise Mistakes(mistakes)


def check_views(members: Sequence[Member], work: Work) -> None:
    """Raises `Mistakes` where a model does not take the sizes of `submit.views`, or cannot tell them apart."""
    import torch

    from pipeline.model import load_checkpoint
    from pipeline.views import by_place, views_of

    mistakes = []
    views = by_place(views_of(work.settings.submit.views))
    for member in members if len(views) > 1 else ():
        model, info = load_checkpoint(member.checkpoints[0], torch.device("cpu"))
        spec = info.preprocessing
        sides = sorted({place.spec(spec).px for place in views})
        asked = len({place.scale for place in views})
        valid = "valid: views without multi_scale, or a model and size that take it"
        if len(sides) < asked:
            found = f"at {spec.px} px multi_scale is {len(sides)} sizes and not {asked}"
            mistakes.append(Mistake(f"submit.views: {member.name}", found, valid, "submission"))
        for side in sides:
            try:
                with torch.inference_mode():
                    model(torch.zeros(1, len(spec.mode), side, side))
            except Exception as error:  # whatever a model says of a size that it cannot take
                found = f"{info.model} does not take {side} px ({first_line(error)})"
                mistakes.append(Mistake(f"submit.views: {member.name}", found, valid, "submission"))
    if mistakes:
        raise Mistakes(mistakes)
