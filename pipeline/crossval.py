"""k folds, trained one after another, to one out-of-fold table and its score.

In: all training rows and the folds table. Out: `fold-K.safetensors` for each model (K counts on over repeats),
`oof.parquet` (`image_id, fold, target, p_0 ... p_{C-1}`, rows in the order of the table at that time: join by id; with
repeats or seeds the mean over them, with a hold-out its rows alone; multilabel has `target_0 ... target_{C-1}`, a
regression only `p_0`), `history.json`, and the scores. A fold whose checkpoint is there and carries the same hashes is
not trained again.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import kept
from pipeline.atomic import atomic
from pipeline.competition.grouping import units
from pipeline.config.metric import Metric, parse_metric
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.config.settings import Experiment
from pipeline.folds.split import Split, splits
from pipeline.metrics import Interval, bootstrap_interval, score
from pipeline.model import (
    CheckpointInfo,
    checkpoint_info,
    current_name,
    load_checkpoint,
    pick_device,
    save_checkpoint,
)
from pipeline.precision import Precision
from pipeline.predict import predict
from pipeline.pseudo import Lent
from pipeline.records import EpochRecord, FoldRun, optimism
from pipeline.resume import ResumeState
from pipeline.train import TrainingData, out_of_memory_explained, train_fold


@dataclass(frozen=True)
class CrossValidation:
    """What k folds came to: `oof` as in the module's head, files in `folder`."""

    oof: pd.DataFrame
    score: float  # of all out-of-fold rows at once
    interval: Interval  # 95 %, by units
    fold_scores: list[float]  # of each model, over its own validation rows: for their spread, not to be averaged
    checkpoints: list[Path]
    optimism: float | None  # with `select: best`, see `records.optimism`


def cross_validate(
    data: TrainingData,
    folds: pd.DataFrame,
    settings: Experiment,
    precision: Precision,
    identity: dict[str, str],
    code: str,
    folder: Path,
    on_epoch: Callable[[EpochRecord], None],
    on_step: Callable[[int, int], None] = lambda epoch, share: None,
    lent: Mapping[int, Lent] | None = None,
) -> CrossValidation:
    """Trains what is not trained yet, predicts each row with the models that did not see it, scores all rows.

    lent: by the number of a split, test rows that its models learn from besides.
    """
    n_threads = prepare_machine(settings.train.threads)
    device = pick_device(settings.train.device)
    identity = {**identity, "precision": str(precision)}
    if device.type == "cpu":
        identity["train.threads"] = str(n_threads)
    metric = parse_metric(data.metric, data.task.kind, data.task.classes)
    for stray in folder.glob(".*.tmp"):  # half a file, of a command that was killed while it wrote
        stray.unlink()
    outputs = np.zeros((len(data.targets), data.task.n_outputs), np.float32)
    n_times = np.zeros(len(data.targets), int)  # how often each row was validated: once a repeat, never in a hold-out
    fold_of_row = np.zeros(len(data.targets), int)
    histories: list[list[EpochRecord]] = []
    fold_scores = []
    checkpoints = []
    for seed in settings.train.seeds:
        for split in splits(folds):
            path = folder / f"{model_name(split.number, seed, settings)}.safetensors"
            valid_rows, of_fold = train_one(
                data, folds, split, seed, settings, precision, device, identity, code, path, on_epoch, on_step,
                (lent or {}).get(split.number),
            )  # fmt: skip
            outputs[valid_rows] += of_fold
            n_times[valid_rows] += 1
            fold_of_row[valid_rows] = np.where(split.repeat == 0, split.fold, fold_of_row[valid_rows])
            histories.append([EpochRecord(**r) for r in json.loads(path.with_suffix(".json").read_text())])
            fold_scores.append(score(metric, data.targets[valid_rows].numpy(), of_fold, data.task.kind))
            checkpoints.append(path)

    held = np.flatnonzero(n_times)
    # with repeats and seeds the mean of as many models
    outputs, targets = outputs[held] / n_times[held, None].astype(np.float32), data.targets[held].numpy()
    with atomic(folder / "oof.parquet") as temporary:
        oof = oof_table(data.image_ids[held], fold_of_row[held], targets, outputs)
        oof.to_parquet(temporary, index=False)
    with atomic(folder / "history.json") as temporary:
        temporary.write_text(json.dumps([asdict(record) for history in histories for record in history], indent=1))
    kind, best = data.task.kind, settings.train.select == "best"
    n = len({split.fold for split in splits(folds)})  # models of one split by one seed, one after the other
    curves = [[record.score for record in history] for history in histories]
    each = [optimism(curves[i : i + n], metric) for i in range(0, len(curves), n)]
    known = [value for value in each if value is not None]
    return CrossValidation(
        oof=oof,
        score=score(metric, targets, outputs, kind),
        interval=oof_interval(oof, folds, metric, kind),
        fold_scores=fold_scores,
        checkpoints=checkpoints,
        optimism=float(np.mean(known)) if best and known else None,
    )


def train_one(
    data: TrainingData,
    folds: pd.DataFrame,
    split: Split,
    seed: int,
    settings: Experiment,
    precision: Precision,
    device: torch.device,
    identity: dict[str, str],
    code: str,
    path: Path,
    on_epoch: Callable[[EpochRecord], None],
    on_step: Callable[[int, int], None] = lambda epoch, share: None,
    lent: Lent | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One model of a cross-validation, trained where it is not yet: (its validation rows, its outputs for them).

    path: of its checkpoint; its history and, while it is trained, its state lie beside it. `on_epoch` may raise, which
    leaves the state to be gone on from.
    """
    train_rows, valid_rows = split.sides(folds, data.image_ids)
    outputs = None
    state = ResumeState(path.with_suffix(".state"), identity, settings.train.select == "best")
    history = path.with_suffix(".json")
    if not (path.is_file() and history.is_file()) or kept.was_changed(path) or kept.was_changed(history):
        which = FoldRun(split.number, len(splits(folds)), seed)
        learnt, learnt_rows = lent.joined(data, train_rows) if lent else (data, train_rows)
        with out_of_memory_explained(settings.train):
            trained = train_fold(
                learnt, learnt_rows, valid_rows, which, settings, precision, device, state, on_epoch, on_step
            )
        outputs = trained.outputs
        kept.write_json(history, [asdict(record) for record in trained.history])
        info = CheckpointInfo(
            model=current_name(settings.model.name),
            task=trained.task,
            preprocessing=data.preprocessing,
            fold=split.number,
            seed=seed,
            epochs=len(trained.history),
            precision=precision.name,
            channels_last=precision.channels_last,
            hashes=identity,
            code=code,
        )
        save_checkpoint(path, trained.model, info)
    state.remove()  # only now: until the checkpoint is whole, the state is what remains of the fold
    refuse_others(path, checkpoint_info(path), identity, split.number, seed)
    if outputs is None:  # the same weights by the same path give the same bits, as the tests hold it to
        model, info = load_checkpoint(path, device)
        outputs = predict(model, info.task, data.images[valid_rows], info.preprocessing, device)
    return valid_rows, outputs


def prepare_machine(threads: int | str) -> int:
    """Before the first kernel: the same bits on the same machine, at a few percent of a GPU's speed.

    An operation that has no deterministic form warns by name. cuBLAS reads its variable when the first kernel starts.
    threads: as `train.threads`. Returns how many torch uses on the CPU: sums over pixels and rows are split among
    them, so their last bits depend on it.
    """
    if isinstance(threads, int):
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_freed_memory()
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed for the next batch, which is of the same size.

    Else every tensor above 128 KB is a map of its own, which the system fills with zeros, page by page: 4 %
    of a small network's CPU time. Where there is no glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def model_name(number: int, seed: int, settings: Experiment) -> str:
    """Of a model's files: by its fold, and by its seed where there are several."""
    return f"fold-{number}" if len(settings.train.seeds) == 1 else f"fold-{number}-seed-{seed}"


def oof_table(ids: np.ndarray, folds: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> pd.DataFrame:
    """The table of the module's head."""
    columns: dict[str, np.ndarray] = {"image_id": ids, "fold": folds}
    if targets.ndim == 2:
        columns |= {f"target_{c}": targets[:, c].astype(int) for c in range(targets.shape[1])}
    else:
        columns["target"] = targets
    return pd.DataFrame(columns | {f"p_{c}": outputs[:, c] for c in range(outputs.shape[1])})


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several, by id; a row that several models validated has the mean of their outputs."""
    table = pd.concat(parts, ignore_index=True)
    outputs = [column for column in table.columns if column.startswith("p_")]
    first = table.drop(columns=outputs).drop_duplicates("image_id").set_index("image_id").sort_index()
    return first.join(table.groupby("image_id")[outputs].mean()).reset_index()


def arrays_of(oof: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(targets, outputs) of such a table, as `metrics` takes them."""
    outputs = oof[[column for column in oof.columns if column.startswith("p_")]].to_numpy()
    several = [column for column in oof.columns if column.startswith("target_")]
    return (oof[several] if several else oof["target"]).to_numpy(), outputs


def oof_interval(oof: pd.DataFrame, folds: pd.DataFrame, metric: str | Metric, kind: str) -> Interval:
    """95 % interval of the score of such a table, by the units of its folds table."""
    group_of = dict(zip(folds["image_id"], folds["group"], strict=True))
    return bootstrap_interval(metric, *arrays_of(oof), units(oof["image_id"], group_of), kind)


def refuse_others(path: Path, info: CheckpointInfo, identity: dict[str, str], fold: int, seed: int) -> None:
    """Raises `Mistakes` naming what a checkpoint was trained on, where that is not what is in use now."""
    mistakes = [
        Mistake(
            str(path),
            f"was trained with other {name} ({info.hashes.get(name)}, not {value})",
            REMEDY,
            "foreign artifacts",
        )
        for name, value in identity.items()
        if info.hashes.get(name, value if name == "train.threads" else None)
        != value  # earlier versions did not note them
    ]
    if (info.fold, info.seed) != (fold, seed):
        found = f"holds fold {info.fold} of seed {info.seed}, not {fold} of {seed}"
        mistakes.append(Mistake(str(path), found, REMEDY, "foreign artifacts"))
    if mistakes:
        raise Mistakes(mistakes)


REMEDY = "valid: checkpoints of these settings, folds and images; move the file away and train again"
