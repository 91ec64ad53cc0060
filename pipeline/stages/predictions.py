"""Outputs of a submission's models: for the test rows, and for the training rows that each one did not see.

What is predicted is kept under `mlruns/cache/predictions/`, model by model and part by part, so a command that was
killed goes on, and another blend of the same models predicts nothing again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import kept, receipts
from pipeline.atomic import atomic
from pipeline.config.settings import RUNS, fingerprint
from pipeline.config.submission import Submit
from pipeline.stages.members import Member, Models
from pipeline.work import Work

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.competition.contract import Row
    from pipeline.ensemble.combine import Average
    from pipeline.progress import ImageProgress
    from pipeline.views import Place

COMPUTES = ("torch", "timm", "pillow", "opencv-python-headless", "numpy", "safetensors")  # packages that move bits


@dataclass(frozen=True)
class Question:
    """Rows that some models are to answer. models: (member, checkpoint) by their places."""

    rows: Sequence[Row]
    contents: Sequence[str]
    models: list[tuple[int, int]]


@dataclass(frozen=True)
class TestMeans:
    """Of the test rows. averaged: for each run its models' mean in the space of `submit.average`; means: that of their
    outputs as they are; spreads: as in `expected.spreads`.
    """

    averaged: list[np.ndarray]
    means: list[np.ndarray]
    spreads: np.ndarray


def test_outputs(work: Work, members: Sequence[Models], submit: Submit, fresh: bool = False) -> list[np.ndarray]:
    """For each member the mean over its models, in the space of `submit.average`: (N_test, n_outputs) float64.

    fresh: predicts everything again, and keeps nothing.
    """
    answers = model_outputs(work, members, submit, fresh)
    return _means(answers, members, submit.average, work.competition.target)


def _means(
    answers: dict[tuple[int, int], np.ndarray], members: Sequence[Models], average: Average, kind: str
) -> list[np.ndarray]:
    """For each member the mean over its models, added up one by one, since all at once would take much memory."""
    from pipeline.ensemble.combine import spread

    means = []
    for m, member in enumerate(members):
        total = spread(answers[m, 0], average, kind)
        for c in range(1, len(member.checkpoints)):
            total += spread(answers[m, c], average, kind)
        means.append(total / len(member.checkpoints))
    return means


def test_means(work: Work, members: Sequence[Member], submit: Submit) -> TestMeans:
    """The test rows as `submit` averages them, with what `expected` needs to know of the models behind the means."""
    import numpy as np

    from pipeline.expected import spreads
    from pipeline.folds.split import fold_columns, splits
    from pipeline.model import checkpoint_info

    answers, kind = model_outputs(work, members, submit), work.competition.target
    folds = members[0].folds.set_index("image_id").loc[members[0].oof["image_id"]]
    each = [[answers[m, c] for c in range(len(member.checkpoints))] for m, member in enumerate(members)]
    numbers = [[checkpoint_info(path).fold for path in member.checkpoints] for member in members]
    of_repeat = [split.repeat for split in splits(members[0].folds)]
    times = (folds[fold_columns(members[0].folds)].to_numpy(int) >= 0).sum(axis=1)
    averaged = _means(answers, members, submit.average, kind)
    means = averaged if submit.average == "probs" else _means(answers, members, "probs", kind)
    return TestMeans(averaged, means, spreads(each, numbers, of_repeat, np.asarray(times)))


def model_outputs(
    work: Work, members: Sequence[Models], submit: Submit, fresh: bool = False
) -> dict[tuple[int, int], np.ndarray]:
    """(member, checkpoint) -> (N_test, n_outputs) float32, each model by itself."""
    models = [(m, c) for m, member in enumerate(members) for c in range(len(member.checkpoints))]
    return _answers(work, members, [Question(work.competition.test_rows, work.contents[1], models)], submit, fresh)


def oof_outputs(
    work: Work, members: Sequence[Member], submit: Submit, average: Average | None = None
) -> list[np.ndarray]:
    """The same for the out-of-fold rows, in the order of the first member's table.

    average: in another space than that of `submit.average`.

    Each row is answered by the models that did not see it, through the same views and averaged in the same way as the
    test rows are. Where the table of the training holds just that, it is not predicted again.
    """
    import numpy as np

    from pipeline.crossval import arrays_of
    from pipeline.ensemble.combine import spread
    from pipeline.folds.split import splits
    from pipeline.model import checkpoint_info

    kind, average = work.competition.target, average or submit.average
    ids = members[0].oof["image_id"].to_numpy()
    place = {image_id: i for i, image_id in enumerate(ids)}
    row_of = {row["image_id"]: i for i, row in enumerate(work.competition.train_rows)}
    questions: list[Question] = []
    sides: dict[tuple[int, int], np.ndarray] = {}  # the places in `ids` of the rows that a model validated
    known: dict[tuple[int, int], np.ndarray] = {}
    for m, member in enumerate(members):
        if not submit.views and average == "probs":
            continue  # the table holds just that
        each = splits(member.folds)
        table = arrays_of(member.oof.set_index("image_id").loc[ids].reset_index())[1]
        once = len(member.checkpoints) == len({split.fold for split in each})  # one model a row
        for c, path in enumerate(member.checkpoints):
            _, valid = each[checkpoint_info(path).fold].sides(member.folds, ids)
            sides[m, c] = valid
            if not submit.views and once:
                known[m, c] = table[valid]
                continue
            rows = [row_of[image_id] for image_id in ids[valid]]
            asked = [work.competition.train_rows[i] for i in rows]
            questions.append(Question(asked, [work.contents[0][i] for i in rows], [(m, c)]))
    answers = known | _answers(work, members, _joined(questions), submit, False)
    means = []
    for m, member in enumerate(members):
        if (m, 0) not in answers:
            means.append(arrays_of(member.oof.set_index("image_id").loc[ids].reset_index())[1].astype(np.float64))
            continue
        total, times = np.zeros((len(place), answers[m, 0].shape[1])), np.zeros(len(place))
        for c in range(len(member.checkpoints)):
            total[sides[m, c]] += spread(answers[m, c], average, kind)
            times[sides[m, c]] += 1
        assert times.all(), f"{member.name} left rows that no model of it validated"
        means.append(total / times[:, None])
    return means


def _joined(questions: list[Question]) -> list[Question]:
    """Models that are asked the same rows are asked at once, so that these are read once."""
    of_rows: dict[tuple[str, ...], Question] = {}
    for question in questions:
        key = tuple(row["image_id"] for row in question.rows)
        if key in of_rows:
            of_rows[key].models.extend(question.models)
        else:
            of_rows[key] = question
    return list(of_rows.values())


def _answers(
    work: Work, members: Sequence[Models], questions: Sequence[Question], submit: Submit, fresh: bool
) -> dict[tuple[int, int], np.ndarray]:
    """(member, checkpoint) -> (rows of its question, n_outputs) float32."""
    from pipeline.crossval import prepare_machine
    from pipeline.model import pick_device
    from pipeline.progress import ImageProgress
    from pipeline.views import views_of

    if not questions:
        return {}
    # the bits of the training's validation, and memory that is not zeroed anew for each batch
    prepare_machine(work.settings.train.threads)
    device = pick_device(work.settings.train.device)
    n = sum(len(q.rows) * len(q.models) for q in questions) * len(views_of(submit.views))
    answers: dict[tuple[int, int], np.ndarray] = {}
    with ImageProgress(n, "submit", "predicting", "predicted", told_from=5) as progress:
        for question in questions:
            for group in _by_preprocessing(members, question.models):
                answers |= _ask(work, members, question, group, submit, device, fresh, progress)
    kept.forget(RUNS / "cache" / "predictions")
    return answers


def _by_preprocessing(members: Sequence[Models], models: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    from pipeline.model import checkpoint_info

    groups: dict[str, list[tuple[int, int]]] = {}
    for m, c in models:
        spec = checkpoint_info(members[m].checkpoints[c]).preprocessing
        groups.setdefault(f"{members[m].side} {spec.model_dump_json()}", []).append((m, c))
    return list(groups.values())


def _ask(
    work: Work, members: Sequence[Models], question: Question, models: list[tuple[int, int]], submit: Submit,
    device: torch.device, fresh: bool, progress: ImageProgress,
) -> dict[tuple[int, int], np.ndarray]:  # fmt: skip
    """Answers of models with one preprocessing, out of one store."""
    import numpy as np
    import torch

    from pipeline.images.content import images_hash
    from pipeline.images.load import load_images
    from pipeline.model import checkpoint_info, load_checkpoint
    from pipeline.stream import Part, part_size, stream
    from pipeline.views import by_place, views_of

    views = views_of(submit.views)
    store = work.stored(members[models[0][0]].side)
    spec = checkpoint_info(members[models[0][0]].checkpoints[models[0][1]]).preprocessing
    size, n = part_size(min(place.spec(spec).px for place in by_place(views)), device), len(question.rows)
    how: Average = "logits" if submit.average == "logits" else "probs"
    # what else the numbers depend on; every file of ours, since a list of those that matter would be wrong some day
    code = [torch.get_num_threads(), {name: version(name) for name in COMPUTES}, receipts.code_hashes([""])]
    asked = images_hash([row["image_id"] for row in question.rows], list(question.contents))
    folders = [
        RUNS / "cache" / "predictions" / fingerprint(
            [members[m].hashes[c], list(submit.views), how if len(views) > 1 else "probs", asked,
             [row["image_id"] for row in question.rows], store.side, str(device), size, code]
        ) for m, c in models
    ]  # fmt: skip
    starts = range(0, n, size)
    known: list[dict[int, np.ndarray]] = [
        {}
        if fresh
        else {start: part for start in starts if (part := _read(folder / f"{start}.safetensors")) is not None}
        for folder in folders
    ]
    progress.found(sum(len(part) for parts in known for part in parts.values()) * len(views))
    todo = [
        Part(start, min(start + size, n), missing)
        for start in starts if (missing := tuple(i for i, parts in enumerate(known) if start not in parts))
    ]  # fmt: skip
    needed = {i for part in todo for i in part.models}
    loaded = {i: load_checkpoint(members[models[i][0]].checkpoints[models[i][1]], device) for i in sorted(needed)}

    def load(start: int, stop: int, place: Place) -> np.ndarray:
        rows, contents = question.rows[start:stop], question.contents[start:stop]
        return load_images(rows, place.spec(spec), store, contents, (place.x, place.y))

    for part, outputs in stream(loaded, load, todo, views, submit.average, device, progress):
        for i, of_model in outputs.items():
            known[i][part.start] = of_model
            if not fresh:
                _write(folders[i] / f"{part.start}.safetensors", of_model)
    return {
        model: np.concatenate([parts[start] for start in starts]) for model, parts in zip(models, known, strict=True)
    }


def _read(path: Path) -> np.ndarray | None:
    """What `_write` wrote for this model and part; None where there is no such file, or it was changed since."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    with suppress(Exception), safe_open(path, framework="numpy") as file:  # raises many kinds for another file
        outputs, noted = file.get_tensor("outputs"), (file.metadata() or {}).get("sha256")
        if noted == _digest(path, outputs):
            return outputs
    kept.tell(path.parent)
    return None


def _write(path: Path, outputs: np.ndarray) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    with atomic(path) as temporary:
        save_file({"outputs": np.ascontiguousarray(outputs)}, temporary, {"sha256": _digest(path, outputs)})


def _digest(path: Path, outputs: np.ndarray) -> str:
    """Of the numbers, their shape, and the model and part that they are of, so that no other file can stand in."""
    about = f"{path.parent.name} {path.name} {outputs.dtype} {outputs.shape} "
    return hashlib.sha256(about.encode() + outputs.tobytes()).hexdigest()
