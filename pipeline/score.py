"""What a submission would have scored, where the organisers gave the answers. The only reader of the answers."""

import csv
from pathlib import Path

import numpy as np

from pipeline.competition.contract import Competition
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.metrics import score


def score_submission(submission: Path, answers: Path, competition: Competition) -> tuple[float, int]:
    """(the competition's metric over all answered rows, how many those are). Raises `Mistakes`."""
    if not answers.is_file():
        valid = "valid: a table like the sample submission (competition.answers_csv), where the organisers gave one"
        raise Mistakes([Mistake(shown(answers), "there are no answers", valid, "answers")])
    truth, predicted = _labels(answers), _labels(submission)
    index = {name: i for i, name in enumerate(competition.classes)}
    mistakes = [
        Mistake(
            shown(answers),
            f"{image_id!r} has answer {label!r}",
            "valid: an id of the submission and one of its classes",
            "answers",
        )
        for image_id, label in truth.items()
        if image_id not in predicted or label not in index
    ]
    if mistakes or not truth:
        raise Mistakes(mistakes or [Mistake(shown(answers), "no rows", "valid: one row a test image", "answers")])
    targets = np.array([index[label] for label in truth.values()])
    predictions = np.array([index[predicted[image_id]] for image_id in truth])
    return score(competition.metric, targets, np.eye(len(index))[predictions]), len(targets)


def _labels(path: Path) -> dict[str, str]:
    """First column to second, header left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row[0]: row[1] for row in list(csv.reader(file))[1:] if row}
