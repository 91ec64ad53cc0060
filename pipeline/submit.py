"""From outputs for the test rows to a submission file that the organisers' system will accept.

In: outputs, test rows, the sample submission. Out: `submission.csv` with the sample's columns, ids, order and dtypes
(`Competition.label_texts`). It is checked after being read back from disk, and takes its place only when everything
holds.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.atomic import atomic
from pipeline.competition.contract import Competition
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.infer import texts


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
        submission[list(competition.probability_columns)] = outputs[:, place].astype(np.float32)  # what models know
    else:
        submission[label] = answer_texts(competition, outputs)
    header = list(submission.columns)
    if competition.sample_csv:
        header = list(pd.read_csv(competition.sample_csv, nrows=0).columns)  # their order may be any
    submission = submission[header]
    with atomic(path) as temporary:
        submission.to_csv(temporary, index=False, lineterminator="\n")
        mistakes = check_submission(temporary, competition) or check_round_trip(temporary, submission)
        if mistakes:
            raise Mistakes(mistakes)
    return submission


def check_round_trip(path: Path, meant: pd.DataFrame) -> list[Mistake]:
    """Whether what stands in the file is what was to be written, cell by cell; numbers by their value."""
    written = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in meant.columns:
        wanted, found = meant[column].to_numpy(), written[column].to_numpy()
        if np.issubdtype(wanted.dtype, np.floating):
            found = found.astype(wanted.dtype)
        same = wanted.astype(str) == found.astype(str) if wanted.dtype == object else wanted == found
        if not np.all(same):
            row = int(np.argmin(same))
            told = f"row {row + 2} reads {found[row]!r} in column {column}"
            return [Mistake("submission", told, f"valid: {wanted[row]!r}, as it was written", "submission")]
    return []


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


def n_changed(before: pd.DataFrame | None, now: pd.DataFrame | None, competition: Competition) -> int | str:
    """How many rows two submissions (as strings) answer otherwise; `no previous` where there is none of the same rows.

    Raises ValueError or KeyError where one of them is no submission of the competition.
    """
    ids = competition.sample_columns[0]
    if before is None or now is None or before.shape != now.shape or list(before.columns) != list(now.columns):
        return "no previous"
    if (before[ids] != now[ids]).any():
        return "no previous"
    if competition.target == "regression":  # by more than a hundredth of their spread
        old, new = (table[competition.sample_columns[1]].astype(float).to_numpy() for table in (before, now))
        return int((np.abs(old - new) > 0.01 * max(float(new.std()), 1e-12)).sum())
    old, new = (answers_of(table, competition) for table in (before, now))
    differs = old != new
    return int((differs.any(axis=1) if differs.ndim == 2 else differs).sum())


def answers_of(submission: pd.DataFrame, competition: Competition) -> np.ndarray:
    """(N,) class indices that a submission (as strings) answers with, or (N, C) of 0 and 1 for several labels."""
    _, label = competition.sample_columns
    if competition.probability_columns:
        table = submission[list(competition.classes)].astype(float).to_numpy()
        return (table > 0.5).astype(int) if competition.target == "multilabel" else table.argmax(axis=1)
    index = {text: i for i, text in enumerate(competition.label_texts)}
    if competition.target == "multilabel":
        said = [[index[text] for text in cell.split(competition.separator) if text] for cell in submission[label]]
        table = np.zeros((len(said), len(index)), int)
        for row, each in enumerate(said):
            table[row, each] = 1
        return table
    return np.array([index[text] for text in submission[label]])
