"""What a submission would have scored, where the organisers gave the answers. The only reader of the answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.answers import Answers
from pipeline.competition.contract import Competition
from pipeline.config.metric import number
from pipeline.config.mistakes import Mistake, Mistakes, first_line, listed, shown
from pipeline.metrics import score


def check_answers(answers: Path) -> None:
    """Raises `Mistakes` where there are none, before a submission is made for nothing."""
    if not answers.is_file():
        valid = (
            "valid: a table like the sample submission (competition.answers_csv), where the organisers gave one; else "
            "write down what the leaderboard said: make score PUBLIC=0.76"
        )
        raise Mistakes([Mistake(shown(answers), "there are no answers", valid, "answers")])


def score_submission(
    submission: Path, answers: Path, competition: Competition, tell: Callable[[str], None] = lambda line: None
) -> tuple[float, int]:
    """(the competition's metric of the file's cells over all answered rows, how many those are). Raises `Mistakes`.

    The answers may stand in another order, with further columns; rows whose `Usage` is `Ignored` do not count. tell:
    told of labels that no training row has, which count as missed.
    """
    check_answers(answers)
    codec = Answers.of(competition)
    words = codec.words()
    ids, columns = codec.ids, list(codec.form.columns)
    file = _table(submission, [{ids, *columns}])
    truth = _table(answers, [{ids, codec.label}, {ids, *codec.classes}])
    if "Usage" in truth:
        truth = truth[truth["Usage"] != "Ignored"]
    targets, bad = codec.truths(truth, words)
    bad = bad | ~truth[ids].isin(file[ids]).to_numpy() | truth[ids].duplicated().to_numpy()
    valid = "valid: an id of the submission, once, and an answer of the competition's kind"
    if codec.rule.values:
        valid += " (competition.classes names a class of the scale that no training row has)"
    mistakes = [
        Mistake(shown(answers), f"{row[ids]!r} has answer {row.get(codec.label, '')!r}", valid, "answers")
        for row in truth[bad].to_dict("records")
    ]
    if mistakes:
        raise Mistakes(mistakes)
    strange = sum(bool(np.any(np.asarray(target) >= words.n_classes)) for target in targets) if words.strangers else 0
    if strange == len(truth):
        found = f"none of its labels is a class, e.g. {min(words.strangers)!r}" if strange else "no rows"
        raise Mistakes([Mistake(shown(answers), found, "valid: a row for each test image, and its label", "answers")])
    if strange:
        tell(
            f"{strange:,} rows have labels that no training row has ({', '.join(sorted(words.strangers)[:3])}): missed"
        )
    outputs = codec.outputs(file.set_index(ids, drop=False).loc[truth[ids]], words)
    labels = np.array(targets) if codec.target != "multilabel" else np.zeros(outputs.shape, int)
    for row, places in enumerate(targets if codec.target == "multilabel" else ()):
        labels[row, places] = 1
    rule = replace(codec.rule, hard=False)  # the cells are hard already
    if rule.values and words.strangers:
        steps = [value for value in map(number, words.strangers) if value is not None]
        if len(steps) < len(words.strangers):
            found, valid = f"labels that are no class: {listed(words.strangers, 3)}", listed(codec.texts, 12)
            raise Mistakes([Mistake(shown(submission), found, f"valid: {valid}", "submission")])
        rule = replace(rule, values=(*rule.values, *steps))
    if codec.target == "multilabel" and rule.average == "micro" and not codec.form.per_class:
        occurs = labels.any(axis=0)  # hosts count labels that occur in the answers
        labels, outputs = labels[:, occurs], outputs[:, occurs]
    return score(rule, labels, outputs, codec.target), len(truth)


def _table(path: Path, either: Sequence[set[str]]) -> pd.DataFrame:
    """The table as strings; it has the columns of one of `either`, wherever they stand."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        found = f"columns {', '.join(table.columns)}"
    except ValueError as error:
        table, found = pd.DataFrame(), f"not readable as a table ({first_line(error)})"
    if not any(columns <= {*table.columns} for columns in either):
        valid = f"valid: {' and '.join(sorted(either[0]))} among them, as in the sample submission"
        raise Mistakes([Mistake(f"{shown(path)}:1", found, valid, "answers")])
    return table
