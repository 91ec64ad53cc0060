"""The codec between what models put out and what stands in a submission's cells, both ways; nothing else does that job.

In: outputs (N, C) as in `metrics`, or a table of strings. Out: cells, or what cells say. What stands in a cell is the
competition's `Form`. Made by `Answers.of(competition)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition.contract import Competition
from pipeline.competition.form import Form
from pipeline.competition.kinds import number
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
        self._places[word] = self.n
        self.n += 1
        return self.n - 1

    @property
    def strangers(self) -> list[str]:
        return sorted(word for word, place in self._places.items() if place >= self.n_classes)


@dataclass(frozen=True)
class Answers:
    """texts: how a cell writes each class. ids, label: columns of an answers table with one label a row."""

    form: Form
    target: str
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    ids: str
    label: str
    separator: str  # between the labels of a training row

    @classmethod
    def of(cls, competition: Competition) -> "Answers":
        ids, label = competition.sample_columns
        form = competition.form or Form(competition.rule, "label", (label,), separator=competition.separator)
        names = (competition.classes, competition.label_texts)
        return cls(form, competition.target, *names, ids, label, competition.separator)

    @property
    def told(self) -> str:
        """The form in words, where it is not plain labels or numbers."""
        form = self.form
        if form.answer == "best":
            divided = f"divided by {form.separator!r}" if len(form.columns) == 1 else "a column for each"
            return f"each row names the {min(form.k, len(self.classes))} most probable classes, best first, {divided}"
        if form.answer == "probability" and not form.per_class:
            other = self.classes[1 - (form.rule.positive or 0)]
            return (f"column {form.columns[0]!r} holds the probability of class {self._positive!r} "
                    f"(of {other!r}: competition.positive)")  # fmt: skip
        if form.answer == "label" and form.rule.hard:
            return f"the file holds labels, as competition.answer asks, and {form.rule} is that of the labels"
        return "each class's column holds 1 or 0" if form.answer == "label" and form.per_class else ""

    @property
    def _positive(self) -> str:
        return self.classes[self.form.rule.positive or 0]

    def words(self) -> Words:
        return Words(self.classes, self.texts)

    # --- outputs -> cells -----------------------------------------------------------------------------------------

    def cells(self, outputs: np.ndarray) -> dict[str, np.ndarray | list[str]]:
        """outputs: (N, C), finite. Column -> what stands in it, row by row."""
        form, columns = self.form, self.form.columns
        if form.answer == "best":
            order = np.argsort(-outputs.astype(np.float64), axis=1, kind="stable")[:, : form.k]
            named = [[self.texts[i] for i in row] for row in order]
            if len(columns) == 1:
                return {columns[0]: [form.separator.join(row) for row in named]}
            return {name: [row[j] if j < len(row) else "" for row in named] for j, name in enumerate(columns)}
        if form.per_class:
            if form.answer == "label":
                answers = decisions(outputs, self.target)
                table = (answers if answers.ndim == 2 else np.eye(len(self.classes), dtype=int)[answers]).astype(str)
            else:
                sums = form.rule.kind == "log_loss" and self.target != "multilabel"
                table = (outputs / outputs.sum(axis=1, keepdims=True) if sums else outputs).astype(np.float32)
            return {name: table[:, self.classes.index(name)] for name in columns}
        if form.answer == "probability":
            return {columns[0]: of_positive(outputs, form.rule.positive or 0)}
        return {columns[0]: labels_of(outputs, self.target, self.texts, form.separator)}

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
                numbers = np.hstack([1 - numbers, numbers] if form.rule.positive else [numbers, 1 - numbers])
            return np.pad(numbers, ((0, 0), (0, words.n - words.n_classes)))
        said = self._said(table)
        if form.rule.judges != "best":
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
        return self.decided(pd.DataFrame(self.cells(outputs)).astype(str))

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
        known, n = set(self.texts), min(self.form.k, len(self.classes))
        said = self._said(table)
        if self.form.answer == "best":
            bad = [
                len(set(row)) != n
                or len([word for word in row if word]) != n
                or not known.issuperset(filter(None, row))
                for row in said
            ]
            return np.array(bad), f"{n} different ones of {', '.join(self.texts)}"
        several = self.target == "multilabel"
        bad = [not known.issuperset(row) for row in said]
        return np.array(bad), f"{'some' if several else 'one'} of {', '.join(self.texts)}"

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
        submitted, and 0. A class that no training row has joins `words`, but where classes have an order.
        """
        if self.label not in table:  # a column for each class, 1 for those that are right
            numbers = table[list(self.classes)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
            bad = ~np.isfinite(numbers).all(axis=1)
            if self.target == "multilabel":
                return [np.flatnonzero(row > 0.5).tolist() for row in numbers], bad
            return np.nan_to_num(numbers).argmax(axis=1).tolist(), bad
        cells = table[self.label].tolist()
        if self.target == "regression":
            values = [number(cell) for cell in cells]
            return values, np.array([value is None for value in values])
        if self.target == "multilabel":
            by = self.form.separator if self.label in self.form.columns else self.separator
            said = [[word for word in cell.split(by) if word] for cell in cells]
            return [[words.place(word) for word in row] for row in said], np.zeros(len(cells), bool)
        if (
            self.form.answer == "probability"
            and len(self.classes) == 2
            and not all(words.find(c) is not None for c in cells)
        ):
            yes = self.form.rule.positive or 0
            values = [number(cell) for cell in cells]
            if {*values} <= {0.0, 1.0}:
                return [yes if value else 1 - yes for value in values], np.zeros(len(cells), bool)
        if self.target == "ordinal" or self.form.rule.kind == "quadratic_kappa":
            places = [words.find(cell) for cell in cells]
            return places, np.array([place is None for place in places])
        return [words.place(cell) if cell else None for cell in cells], np.array([not cell for cell in cells])
