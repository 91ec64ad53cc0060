"""From the folds' checkpoints to a submission file that the organisers' system will accept.

In: checkpoints, test rows, the sample submission. Out: `submission.csv` with the sample's columns, ids, order and
dtypes (`Competition.label_texts`). It is checked after being read back from disk, and takes its place only when
everything holds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.atomic import atomic
from pipeline.competition.contract import Competition
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.images.load import load_images
from pipeline.images.store import Store
from pipeline.infer import Loaded, mean_outputs, texts
from pipeline.model import load_checkpoint


def predict_test(
    checkpoints: list[Path], competition: Competition, device: torch.device, store: Store, hashes: Sequence[str]
) -> np.ndarray:
    """(N, C) mean of the folds' probabilities for the test rows, in the sample's order.

    Preprocessing and classes come from the checkpoints and from nowhere else.
    """

    def models() -> Iterator[Loaded]:
        for path in checkpoints:  # one at a time in memory
            model, info = load_checkpoint(path, device)
            if info.task.classes != competition.classes:
                found = f"was trained on other classes ({', '.join(info.task.classes)})"
                valid = f"valid: {', '.join(competition.classes)}, in this order"
                raise Mistakes([Mistake(shown(path), found, valid, "foreign artifacts")])
            yield model, info

    def images(spec: Preprocessing) -> torch.Tensor:
        return torch.from_numpy(load_images(competition.test_rows, spec, store, hashes))

    return mean_outputs(models(), images, device)


def write_submission(competition: Competition, outputs: np.ndarray, path: Path) -> pd.DataFrame:
    """Writes what is answered for each test row, or the probability of each class where the sample has a column for it.

    A failed check raises `Mistakes` and leaves `path` as it was.
    """
    if n_bad := int((~np.isfinite(outputs).all(axis=1)).sum()):
        found = f"{n_bad} rows have no finite probabilities"
        raise Mistakes([Mistake(shown(path), found, "valid: finite numbers", "submission")])
    ids, label = competition.sample_columns
    submission = competition.test[["image_id"]].rename(columns={"image_id": ids})
    if competition.probability_columns:
        place = [competition.classes.index(name) for name in competition.probability_columns]
        submission[list(competition.probability_columns)] = outputs[:, place]
    else:
        submission[label] = answer_texts(competition, outputs)
    header = list(submission.columns)
    if competition.sample_csv:
        header = list(pd.read_csv(competition.sample_csv, nrows=0).columns)  # their order may be any
    with atomic(path) as temporary:
        submission[header].to_csv(temporary, index=False, lineterminator="\n")
        if mistakes := check_submission(temporary, competition):
            raise Mistakes(mistakes)
    return submission


def answer_texts(competition: Competition, outputs: np.ndarray) -> list[str]:
    """What is answered for each row, as a submission writes it."""
    return texts(outputs, competition.target, competition.label_texts, competition.separator)


def check_submission(path: Path, competition: Competition) -> list[Mistake]:
    """Everything in which the file at `path` differs from what the sample submission promises."""
    name = shown(competition.sample_csv) if competition.sample_csv else "the test images"
    mistakes: list[Mistake] = []

    def wrong(found: str, valid: str) -> None:
        mistakes.append(Mistake("submission", found, f"valid: {valid} (as in {name})", "submission"))

    ids, label = competition.sample_columns
    # As text: pandas would guess a column's type from its values, `NA` would be missing and `0007` seven.
    written = pd.read_csv(path, dtype=str, keep_default_na=False)
    if competition.sample_csv:
        sample = pd.read_csv(competition.sample_csv, dtype=str, keep_default_na=False)
    else:
        sample = pd.DataFrame({ids: competition.test["image_id"], label: ""})
    if list(written.columns) != list(sample.columns):
        wrong(f"columns {', '.join(written.columns)}", ", ".join(sample.columns))
        return mistakes
    if len(written) != len(sample):
        wrong(f"{len(written):,} rows", f"{len(sample):,} rows")
    elif (differs := written[ids] != sample[ids]).any():
        row = int(differs.to_numpy().argmax())
        wrong(f"row {row + 2} has id {written[ids][row]!r}", f"{sample[ids][row]!r} there, ids in the sample's order")
    if competition.probability_columns or competition.target == "regression":
        columns = list(competition.probability_columns) or [label]
        top = 1.0 if competition.probability_columns else np.inf
        numbers = written[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
        bad = ~(np.isfinite(numbers) & ((numbers >= 0) & (numbers <= top) if top == 1.0 else True)).all(axis=1)
        valid = "probabilities from 0 to 1" if top == 1.0 else "a finite number"
    else:
        known = set(competition.label_texts)
        several = competition.target == "multilabel"
        said = [text.split(competition.separator) if several and text else [text] for text in written[label]]
        bad = np.array([not (set(labels) <= known or (several and labels == [""])) for labels in said])
        valid = f"{'some' if several else 'one'} of {', '.join(competition.label_texts)}"
        columns = [label]
    if bad.any():
        row = int(bad.argmax())
        wrong(f"row {row + 2} has label {', '.join(map(repr, written.loc[row, columns]))}", valid)
    return mistakes


def read_submission(path: Path) -> pd.DataFrame | None:
    """A submission as strings; None where there is none."""
    return pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else None


def n_changed(before: pd.DataFrame | None, now: pd.DataFrame) -> int | str:
    """How many rows differ between two submissions; `no previous` where there is none of the same rows."""
    if before is None or before.shape != now.shape or list(before.columns) != list(now.columns):
        return "no previous"
    return int((before != now).any(axis=1).sum())
