"""The codec between what models put out and what stands in a submission's cells, both ways; nothing else does that job.

In: outputs (N, C) as in `metrics`, or a table of strings. Out: cells, or what cells say. What stands in a cell is the
competition's `Form`. Made by `Answers.of(competition)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition.contract import Competition, Form
from pipeline.competition.kinds import number
from pipeline.config.metric import Metric
from pipeline.config.mistakes import listed
from pipeline.metrics import NO_GUESS, decisions, of_positive


def labels_of(outputs: np.ndarray, target: str, texts: Sequence[str], separator: str) -> list[str]:
    """What is decided for each row, in words; a number for a regression. texts: of each class."""
    answers = decisions(outputs, target)
    if target == "regression":
        return [f"{value:.7g}" for value in answers.tolist()]
    if target == "multilabel":
        return [separator.join(name for name, has in zip(texts, row, strict=True) if has) for row in answers]
    return [texts[answer] for answer in answers]


class Words:
    """Word -> place of its class; numbers by their value where the words differ, as 1.0 and 1."""

    def __init__(self, *names: Sequence[str]):
        self._places = {name: i for each in names for i, name in enumerate(each)}
        self._values = {number(name): i for name, i in self._places.items()}
        self.n_classes = self.n = len(names[0])

    def find(self, word: str) -> int | None:
        """None: no class."""
        value = number(word)
        return self._places.get(word, self._values.get(value) if value is not None else None)

    def place(self, word: str) -> int:
        """A word that is no class gets a place of its own, behind the classes."""
        if (place := self.find(word)) is not None:
            return place
        self._places[word] = self._values[number(word)] = self.n
        self.n += 1
        return self.n - 1

    @property
    def strangers(self) -> list[str]:
        """In the order of their places."""
        return [word for word, place in self._places.items() if place >= self.n_classes]


@dataclass(frozen=True)
class Answers:
    """texts: how a cell writes each class. ids, label: columns of an answers table with one label a row."""

    form: Form
    rule: Metric
    target: str
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    ids: str
    label: str
    separator: str  # between the labels of a training row

    @classmethod
    def of(cls, competition: Competition) -> "Answers":
        ids, label = competition.sample_columns
        form = competition.form
        names = (competition.classes, competition.label_texts)
        return cls(form, competition.rule, competition.target, *names, ids, label, competition.separator)

    def words(self) -> Words:
        return Words(self.classes, self.texts)

    # --- outputs -> cells -----------------------------------------------------------------------------------------

    def cells(self, outputs: np.ndarray) -> pd.DataFrame:
        """outputs: (N, C), finite. The columns of the answer: float32, 0 and 1, or strings."""
        form, columns = self.form, self.form.columns
        if form.answer == "best":
            order = np.argsort(-outputs.astype(np.float64), axis=1, kind="stable")[:, : form.k]
            named = [[self.texts[i] for i in row] for row in order]
            if len(columns) == 1:
                named = [[form.separator.join(row)] for row in named]
            table = [[*row, *[""] * (len(columns) - len(row))] for row in named]
        elif form.per_class and form.answer == "label":
            answers = decisions(outputs, self.target)
            table = answers if answers.ndim == 2 else np.eye(len(self.classes), dtype=int)[answers]
        elif form.per_class:
            sums = self.rule.kind == "log_loss" and self.target != "multilabel"
            table = (outputs / outputs.sum(axis=1, keepdims=True) if sums else outputs).astype(np.float32)
        elif form.answer == "probability":
            table = of_positive(outputs, form.positive or 0)
        else:
            table = labels_of(outputs, self.target, self.texts, form.separator)
        names = list(self.classes if form.per_class else columns)
        return pd.DataFrame(table, columns=names)[list(columns)]

    # --- cells -> outputs -----------------------------------------------------------------------------------------

    def outputs(self, table: pd.DataFrame, words: Words) -> np.ndarray:
        """(N, words.n or more) outputs that metrics score as a host scores the cells. Words that are no class join
        `words`. A place that names no class, or one named before, is a miss. Raises ValueError for no number."""
        form, columns = self.form, list(self.form.columns)
        if self.target == "regression":
            return table[columns].astype(float).to_numpy()
        if form.per_class or form.answer == "probability":
            numbers = table[list(self.classes) if form.per_class else columns].astype(float).to_numpy()
            if not form.per_class:
                numbers = np.hstack([1 - numbers, numbers] if form.positive else [numbers, 1 - numbers])
            return np.pad(numbers, ((0, 0), (0, words.n - words.n_classes)))
        said = self._said(table)
        if self.rule.judges != "best":
            places = [[words.place(word) for word in row] for row in said]
            out = np.zeros((len(said), words.n))
            for i, row in enumerate(places):
                out[i, row] = 1
            return out
        out = np.full((len(said), words.n + form.k), NO_GUESS)
        for i, row in enumerate(said):
            for j, word in enumerate(row[: form.k]):
                place = words.find(word)
                out[i, words.n + j if place is None or out[i, place] > NO_GUESS else place] = -j
        return out

    def answered(self, outputs: np.ndarray) -> np.ndarray:
        """What the cells of these outputs answer, as `decided` has it."""
        return self.decided(self.cells(outputs))

    def decided(self, table: pd.DataFrame) -> np.ndarray:
        """(N,) class indices that the cells answer with, (N, C) of 0 and 1 for several labels, or (N,) numbers. Raises
        ValueError or KeyError where a cell is none of this competition's."""
        words = self.words()
        outputs = self.outputs(table, words)
        if words.strangers:
            raise ValueError(f"{words.strangers[0]!r} is no class")
        if self.form.answer == "best":
            outputs = outputs[:, : len(self.classes)]
            return (outputs > NO_GUESS).astype(int) if self.target == "multilabel" else outputs.argmax(axis=1)
        return outputs.argmax(axis=1) if self.target == "ordinal" else decisions(outputs, self.target)

    def invalid(self, table: pd.DataFrame) -> tuple[np.ndarray, str]:
        """((N,) booleans of the rows that no submission may have, what is valid)."""
        columns = list(self.form.columns)
        if self.target == "regression" or self.form.per_class or self.form.answer == "probability":
            numbers = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
            if self.target == "regression":
                return ~np.isfinite(numbers).all(axis=1), "a finite number"
            if self.form.answer == "label":
                return ((numbers != 0) & (numbers != 1)).any(axis=1), "0 or 1"
            return ~((numbers >= 0) & (numbers <= 1)).all(axis=1), "probabilities from 0 to 1"
        known, n, words = set(self.texts), min(self.form.k, len(self.classes)), listed(self.texts, 12)
        if self.form.answer == "best":
            said = [[word for word in row if word] for row in self._said(table)]
            return np.array([len(row) != n or len(known.intersection(row)) != n for row in said]), f"{n} of {words}"
        one = "some" if self.target == "multilabel" else "one"
        return np.array([not known.issuperset(row) for row in self._said(table)]), f"{one} of {words}"

    def _said(self, table: pd.DataFrame) -> list[list[str]]:
        """The words of each row's cells."""
        columns = list(self.form.columns)
        if len(columns) > 1:
            return table[columns].to_numpy().tolist()
        if self.form.answer == "best":
            return [cell.split(self.form.separator) for cell in table[columns[0]]]
        if self.target == "multilabel":
            return [[word for word in cell.split(self.form.separator) if word] for cell in table[columns[0]]]
        return [[cell] for cell in table[columns[0]]]

    # --- answers that are known -----------------------------------------------------------------------------------

    def truths(self, table: pd.DataFrame, words: Words) -> tuple[list, np.ndarray]:
        """(of each row the place of its class, its places or its number, (N,) booleans of the rows that say none).

        A label may be written as in train or in the sample; of two classes also as 1, the one whose probability is
        submitted, and 0. A class that no training row has joins `words`; on a scale only where its number places it.
        """
        if self.label not in table:  # a column for each class, 1 for those that are right
            numbers = table[list(self.classes)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
            bad = ~np.isfinite(numbers).all(axis=1)
            if self.target == "multilabel":
                return [np.flatnonzero(row > 0.5).tolist() for row in numbers], bad
            return np.nan_to_num(numbers).argmax(axis=1).tolist(), bad
        cells = table[self.label].tolist()
        none = np.zeros(len(cells), bool)
        if self.target == "multilabel":
            by = self.form.separator if self.label in self.form.columns else self.separator
            return [[words.place(word) for word in cell.split(by) if word] for cell in cells], none
        places: list[Any] = [(number if self.target == "regression" else words.find)(cell) for cell in cells]
        if None in places and self.form.answer == "probability" and self.form.positive is not None:
            flags = [number(cell) for cell in cells]
            if {*flags} <= {0.0, 1.0}:
                return [self.form.positive if flag else 1 - self.form.positive for flag in flags], none
        scale = self.rule.values
        if self.target != "regression" and scale in ((), tuple(map(number, self.classes))):
            places = [words.place(cell) if cell and not (scale and number(cell) is None) else None for cell in cells]
        return places, np.array([place is None for place in places])
