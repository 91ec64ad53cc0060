"""The contract between a competition's files and everything after them.

A source reads its files into a `Competition` and lists what is wrong with them; nobody else looks at the organisers'
tables again. Rows are plain dicts of strings, read without pandas so that a stage with nothing to do answers at once;
`train` and `test` are the same rows as DataFrames, built when first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.config.metric import Metric, parse_metric
from pipeline.config.mistakes import Mistake
from pipeline.config.settings import fingerprint

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str]  # image_id, path, WHERE, label and group where there are any, further columns of the table
WHERE = "file:row"  # key of each row's place in its table, for messages
PART = "part:"  # before the name of a label's part, key of the row's value of it
RAW = "column:"  # likewise, of a column that bears one of the contract's names with another meaning
SEVERAL = "labels:"  # key of the labels of a row that may have several, see `kinds`
VALUE = "value:"  # key of the number of a row whose label is one
TEXT = "text:"  # likewise, key of what its column says (a label rule reads it again)


def stratified_by(row: Row, name: str) -> str:
    """What a row says under a name of `folds.stratify`: the class, a part of the label, a column of the table."""
    return row["label"] if name == "class" else row.get(PART + name, row.get(name, ""))


def labels_of(row: Row) -> tuple[str, ...]:
    """The classes that a row counts for: one; with several labels all of them, or none."""
    if SEVERAL not in row:
        return (row["label"],)
    return tuple(row[SEVERAL].split("\x1f")) if row[SEVERAL] else ()


@dataclass(frozen=True)
class Form:
    """What stands in a cell of the submission, as `form` decides and `answers` writes it."""

    answer: Literal["label", "probability", "best", "number"] = "label"
    columns: tuple[str, ...] = ()  # of the answer, beside the ids
    per_class: bool = False  # a column for each class, of the class's name
    k: int = 1  # guesses
    separator: str = " "  # between several labels or guesses in one cell
    hard: bool = False  # labels, although the metric would take probabilities
    positive: int | None = None  # of two classes the one that a single column is about

    def told(self, classes: Sequence[str], metric: str) -> str:
        """The form in words; empty where there is nothing to know about it."""
        if self.answer == "best":
            divided = f"divided by {self.separator!r}" if len(self.columns) == 1 else "a column for each"
            return f"each row names the {min(self.k, len(classes))} most probable classes, best first, {divided}"
        if self.answer == "probability" and self.positive is not None:
            return (f"column {self.columns[0]!r} holds the probability of class {classes[self.positive]!r}; "
                    f"competition.positive: {classes[1 - self.positive]!r} would make it the other's")  # fmt: skip
        if self.hard:
            return f"the file holds labels, as competition.answer asks, and {metric} is scored from them"
        zeros = self.per_class and self.answer == "label"
        return f"each class's column holds 1 or 0, since {metric} judges answers" if zeros else ""


@dataclass(frozen=True)
class Competition:
    name: str
    metric: str
    classes: tuple[str, ...]  # in the order of the columns of every probability array
    has_groups: bool
    train_rows: list[Row]
    test_rows: list[Row]  # in the order of the sample submission; empty where nothing is to be submitted
    sample_columns: tuple[str, str]  # id column, label column
    sample_csv: Path | None  # None: there is none, and a submission lists the test images by name
    label_texts: tuple[str, ...]  # how a submission writes each class, in the type of the sample's label column
    mistakes: list[Mistake] = field(default_factory=list)  # empty, or no work is done
    notes: list[Mistake] = field(default_factory=list)  # worth telling, and no reason to stop
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of a multi-part label: name -> its values
    class_means: tuple[str, ...] = ()  # of a multi-part label: "wear, male, <30" for each class
    root: Path = Path()  # no image lies outside it
    target: Literal["class", "multilabel", "ordinal", "regression"] = "class"
    is_excerpt: bool = False  # a few of the competition's rows, for a quick look
    separator: str = " "  # between several labels of one row
    form: Form = field(default_factory=Form)

    @property
    def rule(self) -> Metric:
        """What scores outputs as the cells that are written of them."""
        rule = parse_metric(self.metric, self.target, self.classes)
        return replace(rule, hard=self.form.hard, positive=self.form.positive)

    @property
    def cells(self) -> str:
        """The form of the submission in words."""
        return self.form.told(self.classes, self.metric)

    @cached_property
    def train(self) -> pd.DataFrame:
        """`image_id` (unique), `path`, `label`, `group` where there are groups, further columns as read (strings)."""
        import pandas as pd

        return pd.DataFrame(self.train_rows, dtype=str).drop(columns=WHERE)

    @cached_property
    def test(self) -> pd.DataFrame:
        """`image_id` (unique), `path`, in the order of the sample submission."""
        import pandas as pd

        columns = list(self.test_rows[0]) if self.test_rows else ["image_id", "path", WHERE]
        return pd.DataFrame(self.test_rows, columns=columns, dtype=str).drop(columns=WHERE)

    @cached_property
    def tables_hash(self) -> str:
        """Of what folds and targets depend on: equal for any file that holds the same rows, in whatever order."""
        rows = sorted([row["image_id"], row.get(VALUE, row["label"]), row.get("group", "")] for row in self.train_rows)
        return fingerprint([rows, self.classes])
