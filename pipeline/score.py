"""What a submission would have scored, where the organisers gave the answers. The only reader of the answers."""

import csv
from pathlib import Path

import numpy as np

from pipeline.competition.contract import Competition
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.metrics import score


def check_answers(answers: Path) -> None:
    """Raises `Mistakes` where there are none, before a submission is made for nothing."""
    if not answers.is_file():
        valid = "valid: a table like the sample submission (competition.answers_csv), where the organisers gave one"
        raise Mistakes([Mistake(shown(answers), "there are no answers", valid, "answers")])


def score_submission(submission: Path, answers: Path, competition: Competition) -> tuple[float, int]:
    """(the competition's metric over all answered rows, how many those are). Raises `Mistakes`."""
    check_answers(answers)
    truth, predicted = (_labels(path, competition.sample_columns) for path in (answers, submission))
    names = (competition.classes, competition.label_texts)  # answers may be written like train or like the sample
    index = {name: i for texts in names for i, name in enumerate(texts)}
    valid = "valid: an id of the submission and one of its classes"
    mistakes = [
        Mistake(shown(answers), f"{image_id!r} has answer {label!r}", valid, "answers")
        for image_id, label in truth.items()
        if image_id not in predicted or label not in index
    ]
    if mistakes or not truth:
        raise Mistakes(mistakes or [Mistake(shown(answers), "no rows", "valid: one row a test image", "answers")])
    targets = np.array([index[label] for label in truth.values()])
    predictions = np.array([index[predicted[image_id]] for image_id in truth])
    return score(competition.metric, targets, np.eye(len(competition.classes))[predictions]), len(targets)


def _labels(path: Path, columns: tuple[str, str]) -> dict[str, str]:
    """Id to label, by the names of the sample's columns, wherever they stand."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        if not set(columns) <= set(header):
            valid = f"valid: {' and '.join(columns)} among them, as in the sample submission"
            raise Mistakes([Mistake(f"{shown(path)}:1", f"columns {', '.join(header)}", valid, "answers")])
        return {row[columns[0]]: row[columns[1]] for row in reader}
