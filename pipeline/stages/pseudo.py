"""The stage that trains once more, with the test rows that each fold's own models are sure of."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.config.mistakes import Mistake, Mistakes, Stopped
from pipeline.config.settings import fingerprint
from pipeline.config.submission import Submit
from pipeline.receipts import Receipt
from pipeline.stages.expectation import LEARNT, expected_alone
from pipeline.stages.members import Member, own
from pipeline.stages.predictions import model_outputs
from pipeline.stages.submission import refuse_without_test
from pipeline.stages.training import train, validate
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.pseudo import Lent


def pseudo(work: Work) -> Receipt:
    """Cross-validates with pseudo-labels and says, in pairs, whether that is better than without."""
    refuse_without_test(work)
    if work.settings.competition.target == "regression":
        valid = "valid: competitions of classes, whose probabilities say how sure a model is"
        raise Mistakes([Mistake("competition.target", "found regression, which has no sure answers", valid, "pseudo")])
    trained = train(work)
    inputs = {
        **trained.inputs,
        **work.settings.flat("pseudo"),
        "train": trained.fingerprint,
        "models": fingerprint([made["sha256"] for name, made in trained.artifacts.items() if name.endswith("tensors")]),
        "test images": work.image_hashes[1],
    }
    done = work.done("pseudo", inputs)
    if not done:
        work.check()
        member = own(work, trained)
        lent = _lent(work, member)
        _tell(work, member, lent)
        fold_receipt = receipts.read(work.folder, "folds")
        assert fold_receipt is not None, "train comes after folds"
        table = work.folder / "pseudo.csv"
        _write_table(work, lent, table)
        tags = {"pseudo_of": trained.run_id, "mlflow.source.name": f"make pseudo EXP={work.experiment or work.name}"}
        done = validate(work, "pseudo", inputs, fold_receipt, " · pseudo-labels", lent, tags)
        work.tracker.artifact(done.run_id, table)
    _compared(work, trained, done)
    return done


def _lent(work: Work, member: Member) -> dict[int, Lent]:
    """For each split the test rows that its models are sure of. Raises `Stopped` where no split has any."""
    import numpy as np
    import torch

    from pipeline.augment import image_keys
    from pipeline.folds.split import splits
    from pipeline.images.load import load_images, row_pixels
    from pipeline.model import checkpoint_info
    from pipeline.pseudo import Lent, confident

    rows, contents, spec = work.competition.test_rows, work.contents[1], work.preprocessing
    answers = model_outputs(work, [member], Submit())
    of_split: dict[int, list[np.ndarray]] = {}
    for c, path in enumerate(member.checkpoints):
        of_split.setdefault(checkpoint_info(path).fold, []).append(answers[0, c])
    # other keys than any training image's, whose augmentation they would else share where ids are equal
    keys = image_keys([f"test\0{row['image_id']}" for row in rows])
    pixels = row_pixels(rows, spec, work.store, contents)
    ids = [row["image_id"] for row in work.competition.train_rows]
    lent = {}
    for split in splits(member.folds):
        outputs = np.mean(of_split[split.number], axis=0)
        n_trained = len(split.sides(member.folds, ids)[0])
        settings = work.settings.pseudo
        places, targets, sure = confident(
            outputs, work.competition.target, settings.threshold, int(settings.most * n_trained)
        )
        if len(places):
            images = load_images([rows[i] for i in places], spec, work.store, [contents[i] for i in places])
            lent[split.number] = Lent(
                places, torch.from_numpy(targets), sure, torch.from_numpy(images), pixels, keys[places]
            )
    if not lent:
        best = max(float(np.max(values)) for values in answers.values())
        raise Stopped(f"no fold is sure of any test row: the surest answer has probability {best:.3f}, and "
                      f"pseudo.threshold is {work.settings.pseudo.threshold}")  # fmt: skip
    return lent


def _tell(work: Work, member: Member, lent: dict[int, Lent]) -> None:
    import numpy as np

    counts = [len(one.places) for one in lent.values()]
    say("pseudo", f"{min(counts):,} to {max(counts):,} of {len(work.competition.test_rows):,} test rows join a fold's "
        f"training, labelled by its own models, {work.settings.pseudo.threshold:.0%} sure at least")  # fmt: skip
    if work.competition.target == "multilabel":
        return
    taken = np.bincount(np.concatenate([one.targets.numpy() for one in lent.values()]),
                        minlength=len(work.competition.classes))  # fmt: skip
    if absent := [name for name, n in zip(work.competition.classes, taken, strict=True) if not n]:
        say("pseudo", f"note: none of class {', '.join(absent[:8])}, which so become rarer in training")


def _write_table(work: Work, lent: dict[int, Lent], path: Path) -> None:
    """`split, image_id, label, probability`: what was learnt from, for whoever wants to see it."""
    competition = work.competition

    def label(target: Any) -> str:
        if competition.target == "multilabel":
            return competition.separator.join(
                name for name, has in zip(competition.classes, target, strict=True) if has
            )
        return competition.classes[int(target)]

    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "image_id", "label", "probability"])
        for number, one in lent.items():
            for place, target, sure in zip(one.places, one.targets.tolist(), one.confidence, strict=True):
                writer.writerow([number, competition.test_rows[place]["image_id"], label(target), f"{sure:.4f}"])


def _compared(work: Work, without: Receipt, with_labels: Receipt) -> None:
    import pandas as pd

    from pipeline.compare import compare, verdict
    from pipeline.folds.split import read_folds

    competition = work.competition
    folds = receipts.read(work.folder, "folds")
    assert folds is not None, "train comes after folds"
    table = read_folds(work.resolve(folds, "folds.csv"))
    groups = dict(zip(table["image_id"], table["group"], strict=True))
    a, b = (pd.read_parquet(work.resolve(receipt, "oof.parquet")) for receipt in (without, with_labels))
    result = compare(a, b, groups, competition.rule, competition.target)
    say("pseudo", "single models, out of fold:")
    for line in verdict(result, "without", "with pseudo-labels", competition.metric):
        say("pseudo", line)
    difference = {f"pseudo_gain_{name}": getattr(result, key)
                  for name, key in ((competition.metric, "difference"), ("low", "low"), ("high", "high"))}  # fmt: skip
    work.tracker.metrics(with_labels.run_id, difference)
    _expected(work, without, with_labels, result.difference)
    run = work.in_mlflow(with_labels)
    if run:
        say("pseudo", f'to submit with them: make submit EXP={work.experiment or work.name} RUNS="{run[:8]}"')


def _expected(work: Work, without: Receipt, with_labels: Receipt, gain_of_singles: float) -> None:
    """Says what both averages should score on the test set: single models may gain what averaging gives anyway."""
    from pipeline.expected import Unknown

    metric = work.competition.rule
    try:
        a, b = (expected_alone(work, own(work, receipt)) for receipt in (without, with_labels))
    except Unknown as error:
        say("pseudo", f"no score of the test set can be expected: {error}")
        return
    gain = (b.value - a.value) * (1 if metric.greater_is_better else -1)
    work.tracker.metrics(with_labels.run_id, {"pseudo_gain_expected": gain, f"expected_{metric.name}": b.value})
    for name, e in (("without", a), ("with pseudo-labels", b)):
        say("pseudo", f"average of all models {name}: expected {e.value:.4f} on the test set "
            f"(95 % interval {e.low:.4f} to {e.high:.4f})")  # fmt: skip
    worth = "should gain" if round(gain, 4) > 0 else "should not gain"
    say("pseudo", f"the average {worth} ({gain:+.4f}), where single models gain {gain_of_singles:+.4f}; note: {LEARNT}")
