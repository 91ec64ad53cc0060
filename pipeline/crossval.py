"""k folds, trained one after another, to one out-of-fold table and its score.

In: all training rows and the folds table. Out: `fold-K.safetensors` for each model (K counts on over repeats),
`oof.parquet` (`image_id, fold, target, p_0 ... p_{C-1}`, rows in the order of the table at that time: join by id; with
repeats the mean over them, with a hold-out its rows alone), `history.json`, and the scores. A fold whose checkpoint is
there and carries the same hashes is not trained again.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.atomic import atomic
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.config.settings import Experiment
from pipeline.folds.split import splits
from pipeline.metrics import Interval, bootstrap_interval, score
from pipeline.model import CheckpointInfo, checkpoint_info, load_checkpoint, pick_device, save_checkpoint
from pipeline.predict import predict_probs
from pipeline.train import EpochRecord, TrainingData, train_fold


@dataclass(frozen=True)
class CrossValidation:
    """What k folds came to: `oof` as in the module's head, files in `folder`."""

    oof: pd.DataFrame
    score: float  # of all out-of-fold rows at once
    interval: Interval  # 95 %, by group bootstrap
    fold_scores: list[float]  # each over its own validation rows: for their spread, not to be averaged
    checkpoints: list[Path]


def cross_validate(
    data: TrainingData,
    folds: pd.DataFrame,
    settings: Experiment,
    identity: dict[str, str],
    code: str,
    folder: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> CrossValidation:
    """Trains what is not trained yet, predicts each row with the one model that did not see it, scores all rows."""
    # The same bits on the same machine, at a few percent of a GPU's speed; an operation that has no deterministic form
    # warns by name. cuBLAS reads its variable when the first kernel starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = pick_device(settings.train.device)
    probs = np.zeros((len(data.targets), len(data.classes)), np.float32)
    n_times = np.zeros(len(data.targets), int)  # how often each row was validated: once a repeat, never in a hold-out
    fold_of_row = np.zeros(len(data.targets), int)
    targets = data.targets.numpy()
    histories: dict[int, list[dict]] = {}
    fold_scores = []
    checkpoints = []
    for split in splits(folds):
        fold = split.number
        train_rows, valid_rows = split.sides(folds, data.image_ids)
        path = folder / f"fold-{fold}.safetensors"
        history_path = folder / f"fold-{fold}.json"
        if not path.is_file():
            state = folder / f"fold-{fold}.state"
            model, history = train_fold(data, train_rows, valid_rows, fold, settings, device, state, identity, on_epoch)
            with atomic(history_path) as temporary:
                temporary.write_text(json.dumps([asdict(record) for record in history]))
            info = CheckpointInfo(
                model=settings.model.name,
                classes=data.classes,
                preprocessing=data.preprocessing,
                fold=fold,
                epochs=settings.train.epochs,
                hashes=identity,
                code=code,
            )
            save_checkpoint(path, model, info)
            state.unlink()  # only now: until the checkpoint is whole, the state is what remains of the fold
        refuse_others(path, checkpoint_info(path), identity, fold)
        # From the file, not from memory: out-of-fold and test then come out of the very same weights.
        model, info = load_checkpoint(path, device)
        of_fold = predict_probs(model, data.images[valid_rows], info.preprocessing, device)
        probs[valid_rows] += of_fold
        n_times[valid_rows] += 1
        fold_of_row[valid_rows] = np.where(split.repeat == 0, split.fold, fold_of_row[valid_rows])
        histories[fold] = json.loads(history_path.read_text())
        fold_scores.append(score(data.metric, targets[valid_rows], of_fold))
        checkpoints.append(path)

    held = np.flatnonzero(n_times)
    probs, targets = probs[held] / n_times[held, None], targets[held]  # with repeats the mean of as many models
    ids = data.image_ids[held]
    oof = pd.DataFrame({"image_id": ids, "fold": fold_of_row[held], "target": targets})
    oof = pd.concat([oof, pd.DataFrame(probs, columns=[f"p_{c}" for c in range(probs.shape[1])])], axis=1)
    with atomic(folder / "oof.parquet") as temporary:
        oof.to_parquet(temporary, index=False)
    with atomic(folder / "history.json") as temporary:
        temporary.write_text(json.dumps([record for fold in histories.values() for record in fold], indent=1))
    group_of = dict(zip(folds["image_id"], folds["group"], strict=True))
    groups = np.array([group_of[image_id] for image_id in ids])
    return CrossValidation(
        oof=oof,
        score=score(data.metric, targets, probs),
        interval=bootstrap_interval(data.metric, targets, probs, groups if groups.any() else None),
        fold_scores=fold_scores,
        checkpoints=checkpoints,
    )


def refuse_others(path: Path, info: CheckpointInfo, identity: dict[str, str], fold: int) -> None:
    """Raises `Mistakes` naming what a checkpoint was trained on, where that is not what is in use now."""
    mistakes = [
        Mistake(
            str(path),
            f"was trained with other {name} ({info.hashes.get(name)}, not {value})",
            REMEDY,
            "foreign artifacts",
        )
        for name, value in identity.items()
        if info.hashes.get(name) != value
    ]
    if info.fold != fold:
        mistakes.append(Mistake(str(path), f"holds fold {info.fold}, not {fold}", REMEDY, "foreign artifacts"))
    if mistakes:
        raise Mistakes(mistakes)


REMEDY = "valid: checkpoints of these settings, folds and images; move the file away and train again"
