"""From outputs for the test rows to a submission file that the organisers' system will accept.

In: outputs, test rows, the sample submission. Out: `submission.csv` with the sample's columns, ids, order and dtypes
(`answers`). It is checked after being read back from disk, and takes its place only when everything
holds.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.answers import Answers
from pipeline.atomic import atomic
from pipeline.competition.contract import Competition
from pipeline.config.mistakes import Mistake, Mistakes, shown


def write_submission(competition: Competition, outputs: np.ndarray, path: Path) -> pd.DataFrame:
    """Writes what is answered for each test row, as `answers` has it.

    A failed check raises `Mistakes` and leaves `path` as it was.
    """
    if n_bad := int((~np.isfinite(outputs).all(axis=1)).sum()):
        found = f"{n_bad} rows have no finite probabilities"
        raise Mistakes([Mistake(shown(path), found, "valid: finite numbers", "submission")])
    ids = competition.sample_columns[0]
    submission = competition.test[["image_id"]].rename(columns={"image_id": ids})
    submission = submission.join(Answers.of(competition).cells(outputs))
    if competition.sample_csv:
        submission = submission[list(pd.read_csv(competition.sample_csv, nrows=0).columns)]  # their order may be any
    with atomic(path) as temporary:
        submission.to_csv(temporary, index=False, lineterminator="\n")
        if mistakes := check_submission(temporary, competition) or check_round_trip(temporary, submission):
            raise Mistakes(mistakes)
    return submission


def check_round_trip(path: Path, meant: pd.DataFrame) -> list[Mistake]:
    """Whether what stands in the file is what was to be written, cell by cell; numbers by their value."""
    written, numbers = pd.read_csv(path, dtype=str, keep_default_na=False), list(meant.select_dtypes("number").columns)
    differs = (written.drop(columns=numbers) != meant.drop(columns=numbers)).any(axis=1).to_numpy()
    differs = differs | (written[numbers].to_numpy(np.float32) != meant[numbers].to_numpy(np.float32)).any(axis=1)
    found = f"row {int(differs.argmax()) + 2} reads otherwise than it was written"
    return [Mistake("submission", found, "valid: cells that a table of CSV can hold", "submission")] * bool(
        differs.any()
    )


def check_submission(path: Path, competition: Competition) -> list[Mistake]:
    """Everything in which the file at `path` differs from what the sample submission promises."""
    name = shown(competition.sample_csv) if competition.sample_csv else "the test images"
    mistakes: list[Mistake] = []

    def wrong(found: str, valid: str) -> None:
        mistakes.append(Mistake("submission", found, f"valid: {valid} (as in {name})", "submission"))

    answers = Answers.of(competition)
    ids, columns = answers.ids, list(answers.form.columns)
    # As text: pandas would guess a column's type from its values, `NA` would be missing and `0007` seven.
    written = pd.read_csv(path, dtype=str, keep_default_na=False)
    if competition.sample_csv:
        sample = pd.read_csv(competition.sample_csv, dtype=str, keep_default_na=False)
    else:
        sample = pd.DataFrame({ids: competition.test["image_id"], **dict.fromkeys(columns, "")})
    if list(written.columns) != list(sample.columns):
        wrong(f"columns {', '.join(written.columns)}", ", ".join(sample.columns))
        return mistakes
    if len(written) != len(sample):
        wrong(f"{len(written):,} rows", f"{len(sample):,} rows")
    elif (differs := written[ids] != sample[ids]).any():
        row = int(differs.to_numpy().argmax())
        wrong(f"row {row + 2} has id {written[ids][row]!r}", f"{sample[ids][row]!r} there, ids in the sample's order")
    bad, valid = answers.invalid(written)
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
    answers = Answers.of(competition)
    old, new = answers.decided(before), answers.decided(now)
    if competition.target == "regression":  # by more than a hundredth of their spread
        return int((np.abs(old - new) > 0.01 * max(float(new.std()), 1e-12)).sum())
    differs = old != new
    return int((differs.any(axis=1) if differs.ndim == 2 else differs).sum())
