"""What a submission would have scored, where the organisers gave the answers. The only reader of the answers."""

import csv
from pathlib import Path

import numpy as np

from pipeline.competition.contract import Competition
from pipeline.competition.kinds import number
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.metrics import score


def check_answers(answers: Path) -> None:
    """Raises `Mistakes` where there are none, before a submission is made for nothing."""
    if not answers.is_file():
        valid = (
            "valid: a table like the sample submission (competition.answers_csv), where the organisers gave one; else "
            "write down what the leaderboard said: make score PUBLIC=0.76"
        )
        raise Mistakes([Mistake(shown(answers), "there are no answers", valid, "answers")])


def score_submission(submission: Path, answers: Path, competition: Competition) -> tuple[float, int]:
    """(the competition's metric over all answered rows, how many those are). Raises `Mistakes`."""
    check_answers(answers)
    ids, label = competition.sample_columns
    probabilities = list(competition.probability_columns)
    predicted = _rows(submission, [ids, *(probabilities or [label])])
    truth = _rows(answers, [ids, label], competition.probability_columns)
    valid = "valid: an id of the submission and an answer of the competition's kind"
    mistakes, targets, outputs = [], [], []
    for image_id, row in truth.items():
        target = _target(row, label, competition)
        if image_id not in predicted or target is None:
            mistakes.append(
                Mistake(shown(answers), f"{image_id!r} has answer {row.get(label, '')!r}", valid, "answers")
            )
        else:
            targets.append(target)
            outputs.append(_outputs(predicted[image_id], label, competition))
    if mistakes or not truth:
        raise Mistakes(mistakes or [Mistake(shown(answers), "no rows", "valid: one row a test image", "answers")])
    value = score(competition.metric, np.array(targets), np.array(outputs, dtype=float), competition.target)
    return value, len(targets)


def _target(row: dict[str, str], label: str, competition: Competition) -> float | int | list[int] | None:
    """An answer as `metrics` wants it; None where it is none."""
    if label not in row:  # a column for each class, 1 for those that are right
        of_class = [number(row[name]) for name in competition.classes]
        if any(value is None for value in of_class):
            return None
        several = [int(value or 0) for value in of_class]
        return several if competition.target == "multilabel" else several.index(max(several))
    if competition.target == "regression":
        return number(row[label])
    index = _index(competition)
    if competition.target == "multilabel":
        labels = [text for text in row[label].split(competition.separator) if text]
        if any(text not in index for text in labels):
            return None
        return [int(i in {index[text] for text in labels}) for i in range(len(competition.classes))]
    return index.get(row[label])


def _outputs(row: dict[str, str], label: str, competition: Competition) -> list[float]:
    """What was submitted as outputs: the probabilities, or all of it on the answer. Checked before it was written."""
    if competition.probability_columns:
        return [float(row[name]) for name in competition.classes]
    if competition.target == "regression":
        return [float(row[label])]
    index = _index(competition)
    named = row[label].split(competition.separator) if competition.target == "multilabel" else [row[label]]
    chosen = {index[text] for text in named if text}
    return [float(i in chosen) for i in range(len(competition.classes))]


def _index(competition: Competition) -> dict[str, int]:
    """Class to number; answers may be written like train or like the sample."""
    return {name: i for texts in (competition.classes, competition.label_texts) for i, name in enumerate(texts)}


def _rows(path: Path, columns: list[str], or_columns: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
    """Id to row, by the names of columns, wherever they stand. or_columns: may stand in for the label's."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        if not (set(columns) <= set(header) or (or_columns and {columns[0], *or_columns} <= set(header))):
            valid = f"valid: {' and '.join(columns)} among them, as in the sample submission"
            raise Mistakes([Mistake(f"{shown(path)}:1", f"columns {', '.join(header)}", valid, "answers")])
        return {row[columns[0]]: row for row in reader}
