"""What the out-of-fold rows show, as pictures and tables beside the checkpoints: which rows are wrong, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.work import Work, say

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from pipeline.crossval import CrossValidation

N_SHOWN = 24  # images in a grid
N_LOOKED_INTO = 6  # by Grad-CAM
THUMBNAIL = 140  # px


def review(work: Work, cv: CrossValidation, folder: Path) -> list[Path]:
    """Draws and writes everything that fits the kind of target. Returns the files.

    A picture that cannot be drawn is told and left out: the training is done, and worth more.
    """
    from pipeline.crossval import arrays_of
    from pipeline.report import pictures

    targets, outputs = arrays_of(cv.oof)
    names = [pictures.plain(name, i) for i, name in enumerate(work.competition.classes)]
    files = []
    for step in (_curves, _answers, _mistakes, _label_errors, _attention):
        try:
            files += step(work, cv, targets, outputs, names, folder)
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else "no message"
            say("train", f"{step.__name__[1:].replace('_', ' ')} could not be drawn ({type(error).__name__}: {reason})")
    return files


def _curves(
    work: Work, cv: CrossValidation, targets: np.ndarray, outputs: np.ndarray, names: list[str], folder: Path
) -> list[Path]:
    from pipeline.config.metric import parse_metric
    from pipeline.report import pictures

    metric = parse_metric(work.competition.metric, work.competition.target)
    history = json.loads((folder / "history.json").read_text())
    pictures.curves(history, metric.name, folder / "curves.png", metric.greater_is_better)
    return [folder / "curves.png"]


def _answers(
    work: Work, cv: CrossValidation, targets: np.ndarray, outputs: np.ndarray, names: list[str], folder: Path
) -> list[Path]:
    """Class by class, and how sure the answers are; of a number, answers over the truth."""
    from pipeline.metrics import decisions
    from pipeline.report import cv_pictures, pictures
    from pipeline.review import calibration, per_class_table

    kind, classes = work.competition.target, work.competition.classes
    if kind == "regression":
        pictures.scatter(targets, outputs[:, 0], folder / "scatter.png")
        return [folder / "scatter.png"]
    files = ["reliability.png", "classes.png", "classes.csv"]
    if kind != "multilabel":
        pictures.confusion(targets, decisions(outputs, kind), classes, folder / "confusion.png")
        files.append("confusion.png")
    bins, error = calibration(targets, outputs, kind)
    cv_pictures.reliability(bins, error, folder / "reliability.png")
    table = per_class_table(targets, outputs, names, kind)
    cv_pictures.per_class(table, folder / "classes.png")
    table.assign(**{"class": list(classes)}).to_csv(folder / "classes.csv", index=False)
    return [folder / name for name in files]


def _mistakes(
    work: Work, cv: CrossValidation, targets: np.ndarray, outputs: np.ndarray, names: list[str], folder: Path
) -> list[Path]:
    from pipeline.report import cv_pictures
    from pipeline.review import in_words, most_confident_mistakes

    kind = work.competition.target
    table = most_confident_mistakes(targets, outputs, N_SHOWN, kind)
    if table.empty:
        return []
    measure = "error" if kind == "regression" else "confidence"
    said, given = (in_words(table, column, names, kind) for column in ("said", "given"))
    ids, thumbnails = _pictures_of(work, cv, table["row"])
    path = folder / "mistakes.png"
    cv_pictures.mistakes(thumbnails, said, given, table[measure].tolist(), ids, path, measure)
    return [path]


def _label_errors(
    work: Work, cv: CrossValidation, targets: np.ndarray, outputs: np.ndarray, names: list[str], folder: Path
) -> list[Path]:
    """`label-errors.csv`, whole, with what a fixes table wants (`competition.fixes_csv`), and a grid of the first."""
    from pipeline.report import cv_pictures
    from pipeline.review import in_words, suspected_label_errors

    kind, classes = work.competition.target, list(work.competition.classes)
    if kind == "regression":
        return []
    table = suspected_label_errors(targets, outputs, kind)
    if table.empty:
        return []
    ids = cv.oof["image_id"].to_numpy()[table["row"]]
    words = {column: in_words(table, column, classes, kind) for column in ("given", "suggested")}
    written = table.assign(image_id=ids, **words)[["image_id", "given", "suggested", "self_confidence"]]
    written.to_csv(folder / "label-errors.csv", index=False)
    say("train", f"{len(table):,} labels look wrong: label-errors.csv in MLflow lists them, the most suspect first")
    shown = table.head(N_SHOWN)
    given, suggested = (in_words(shown, column, names, kind) for column in ("given", "suggested"))
    ids, thumbnails = _pictures_of(work, cv, shown["row"])
    path = folder / "label-errors.png"
    cv_pictures.label_errors(thumbnails, given, suggested, shown["self_confidence"].tolist(), ids, path)
    return [folder / "label-errors.csv", path]


def _attention(
    work: Work, cv: CrossValidation, targets: np.ndarray, outputs: np.ndarray, names: list[str], folder: Path
) -> list[Path]:
    """Where the models look: half of the images are the surest mistakes, half are right. Each by a model that did not
    train on it, and for the class that it said."""
    import numpy as np
    import torch

    from pipeline.gradcam import grad_cam
    from pipeline.images.load import load_images
    from pipeline.metrics import decisions
    from pipeline.model import load_checkpoint, pick_device
    from pipeline.report import cv_pictures
    from pipeline.review import most_confident_mistakes

    kind = work.competition.target
    if kind not in ("class", "ordinal"):
        return []
    answers = decisions(outputs, kind)
    wrong = most_confident_mistakes(targets, outputs, N_LOOKED_INTO // 2, kind)["row"].to_numpy()
    right = np.flatnonzero(answers == targets)
    right = right[np.linspace(0, len(right) - 1, N_LOOKED_INTO - len(wrong)).astype(int)] if len(right) else right
    rows = np.concatenate([wrong, right]).astype(int)
    device, fold_of, places = pick_device(work.settings.train.device), cv.oof["fold"].to_numpy(), _places(work, cv)
    images, heats, kept = [], [], []
    for fold, checkpoint in zip(np.unique(fold_of), cv.checkpoints, strict=False):  # those of the first seed come first
        members = rows[fold_of[rows] == fold]
        if not len(members):
            continue
        model, info = load_checkpoint(checkpoint, device)
        chosen = [places[row] for row in members]
        pixels = load_images([work.competition.train_rows[i] for i in chosen], info.preprocessing, work.store,
                             [work.contents[0][i] for i in chosen])  # fmt: skip
        found, why = grad_cam(model, info.task, torch.from_numpy(pixels), info.preprocessing, device, answers[members])
        if found is None:
            say("train", f"no picture of where the model looks: {why}")
            return []
        images.append(pixels)
        heats.append(found)
        kept += members.tolist()
    path = folder / "attention.png"
    said, truth = ([names[int(values[row])] for row in kept] for values in (answers, targets))
    cv_pictures.attention(np.concatenate(images), np.concatenate(heats), said, truth, path)
    return [path]


def _places(work: Work, cv: CrossValidation) -> list[int]:
    """The place among the competition's training rows of each out-of-fold row."""
    place = {row["image_id"]: i for i, row in enumerate(work.competition.train_rows)}
    return [place[image_id] for image_id in cv.oof["image_id"]]


def _pictures_of(work: Work, cv: CrossValidation, rows: pd.Series) -> tuple[list[str], list[np.ndarray]]:
    """(ids, thumbnails) of out-of-fold rows."""
    from pipeline.images.load import load_thumbnails  # here: a training with nothing to do must not wait for torch

    places = _places(work, cv)
    chosen = [places[row] for row in rows]
    train_rows, contents = work.competition.train_rows, work.contents[0]
    thumbnails = load_thumbnails([train_rows[i] for i in chosen], THUMBNAIL, work.store, [contents[i] for i in chosen])
    return [train_rows[i]["image_id"] for i in chosen], thumbnails
