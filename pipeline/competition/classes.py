"""The classes: which there are, in which order, and how the training rows, the settings and the sample spell them.

In: training rows as the source and the fixes left them, the settings, the sample submission. Out: the classes, the
rows' labels in their spelling, and each class as a submission writes it. What `competition.classes` or a column of the
sample names is a class, with or without training rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.competition.contract import WHERE, Row, labels_of
from pipeline.competition.kinds import set_labels
from pipeline.config.data import Declared
from pipeline.config.metric import by_scale, number, parse_metric
from pipeline.config.mistakes import Mistake, listed, nearest

if TYPE_CHECKING:
    from pipeline.competition.assemble import Found

SHOWN = 12  # names in a message
WIDEST_GAP = 20  # steps of a scale that are named where no row has them


def read_classes(
    train: list[Row], settings: Declared, found: Found, of_parts: Sequence[str], mistakes: list[Mistake]
) -> tuple[str, ...]:
    """The classes in order: as declared, else as found in train and in the sample's columns, by number where all are.

    A row's label that spells a class otherwise (1.0 for 1) is changed in place. of_parts: the classes of a label in
    parts, which nobody spells.
    """
    declared = () if settings.classes == "from train" else settings.classes
    if len(set(declared)) < len(declared):
        mistakes.append(Mistake("competition.classes", "a class is named twice", "valid: each class once", "classes"))
    columns = _class_columns(train, settings, found)
    if of_parts:
        classes = tuple(declared or of_parts)
    else:
        declared = tuple(_spelt(name, columns) for name in declared)
        _respell(train, columns or declared, settings, found, mistakes)
        labels = {label for row in train for label in labels_of(row)} - {""}
        classes = declared or tuple(sorted(labels | set(columns), key=_place))
        if settings.target == "ordinal":
            _check_order(classes, bool(declared), found, mistakes)
        if not declared and by_scale(settings.metric, settings.target):
            _note_gaps(classes, found)
    _check_labels(train, classes, found, settings, mistakes)
    return classes


def _class_columns(train: list[Row], settings: Declared, found: Found) -> tuple[str, ...]:
    """Columns of the sample that are classes, and not those of the k best guesses."""
    rule, columns = parse_metric(settings.metric, settings.target), found.sample_classes
    labels = {label for row in train for label in labels_of(row)}
    guesses = rule.judges == "best" and len(columns) == int(rule.number) and labels.isdisjoint(columns)
    return () if guesses else columns


def _place(name: str) -> tuple[bool, float, str]:
    """Numbers by value, then words."""
    value = number(name)
    return value is None, value or 0.0, name


def _spelt(name: str, known: Collection[str]) -> str:
    """The one of the known names that is the same text, or alone the same number; else the name itself."""
    if name in known or (value := number(name)) is None:
        return name
    same = [other for other in known if number(other) == value]
    return same[0] if len(same) == 1 else name


def _respell(train: list[Row], known: Sequence[str], settings: Declared, found: Found, mistakes: list[Mistake]) -> None:
    """One spelling for each number: that of the known class, else 1 where 1 and 1.0 stand. Others are mistakes.

    Codes such as 01, 02, ..., 12 stay as they are, as long as no second spelling of one of them stands beside it.
    """
    counts = Counter(label for row in train for label in labels_of(row))
    first: dict[str, str] = {}
    for row in train:
        for label in labels_of(row):
            first.setdefault(label, row[WHERE])
    of_value: dict[float, list[str]] = {}
    for text in dict.fromkeys([*known, *counts]):
        if (value := number(text)) is not None:
            of_value.setdefault(value, []).append(text)
    spelling: dict[str, str] = {}
    for texts in of_value.values():
        there, names = [text for text in texts if text in counts], [text for text in texts if text in known]
        plain = {re.sub(r"\.0*$", "", text) for text in there}
        if len(texts) == 1 or len(names) > 1:  # several known ones are different classes, as declared
            continue
        each = ", ".join(f"{text!r} ({counts[text]:,} rows, first in {first[text]})" for text in there)
        if not names and len(plain) > 1:
            valid = ("valid: one spelling; competition.classes with one spelling of each class counts the others as "
                     "that class, and with all spellings keeps them apart")  # fmt: skip
            mistakes.append(Mistake(found.train_place, f"labels that are one number: {each}", valid, "spellings"))
            continue
        name = names[0] if names else plain.pop()
        spelling |= dict.fromkeys(there, name)
        if len(there) > 1:
            told = f"labels that are one number: {each}"
            found.notes.append(Mistake(found.train_place, told, f"All count as class {name!r}.", "spellings"))
    for row in train if any(text != name for text, name in spelling.items()) else ():
        set_labels(row, [spelling.get(label, label) for label in labels_of(row)], settings.label_separator)


def _check_order(classes: Sequence[str], is_declared: bool, found: Found, mistakes: list[Mistake]) -> None:
    """The order of ordinal classes: declared, or that of their numbers, and never two different ones."""
    values = [number(name) for name in classes]
    numbers = [value for value in values if value is not None]
    if not is_declared and len(numbers) < len(values):
        told = f"competition.target=ordinal, and the order of {', '.join(sorted(classes)[:6])} is not said"
        valid = "valid: competition.classes, from the lowest to the highest, e.g. [low, medium, high]"
        mistakes.append(Mistake(found.train_place, told, valid, "classes"))
    if len(numbers) == len(values) and numbers not in (sorted(numbers), sorted(numbers, reverse=True)):
        told = f"the numbers {listed(classes, SHOWN)} neither rise nor fall, and competition.target=ordinal"
        mistakes.append(Mistake("competition.classes", told, "valid: from the lowest to the highest", "classes"))


def _note_gaps(classes: Sequence[str], found: Found) -> None:
    """Whole numbers that nobody has, between those that are there: distances count over them."""
    values = [number(name) for name in classes]
    whole = {int(value) for value in values if value is not None and value == int(value)}
    if not whole or len(whole) < len(classes) or max(whole) - min(whole) + 1 - len(whole) > WIDEST_GAP:
        return
    if gaps := [str(step) for step in range(min(whole), max(whole)) if step not in whole]:
        told = f"no row of {', '.join(map(repr, gaps))} on the scale {listed(classes, SHOWN)}; distances count the gap"
        valid = "Name every step in competition.classes if it may be answered."
        found.notes.append(Mistake(found.train_place, told, valid, "gaps in the scale"))


def _check_labels(
    train: list[Row], classes: Sequence[str], found: Found, settings: Declared, mistakes: list[Mistake]
) -> None:
    """Labels that are no class, fewer than two classes to learn; classes that no row has are a note."""
    known = set(classes)
    for row in train:
        for label in labels_of(row):
            if label not in known and not (settings.parts and not label):  # what a part cannot read is told already
                hint = nearest(label, classes) if len(mistakes) < SHOWN else ""
                told = f"label {label!r} is no class{hint}"
                where, valid = row[WHERE], f"valid: {listed(classes, SHOWN)}"
                mistakes.append(Mistake(where, told, valid, "labels in no class", row["image_id"]))
    present = {label for row in train for label in labels_of(row)} & known
    if train and len(present) < 2:
        told = f"{len(present)} class in column {found.label_column!r}"
        mistakes.append(Mistake(found.train_place, told, "valid: at least two", "classes"))
    if train and (absent := [name for name in classes if name not in present]):
        names = listed([repr(name) for name in absent], SHOWN)
        told = f"no row of {len(absent):,} of {len(classes):,} classes: {names}"
        valid = "They stay classes, and their probability is learnt to be small."
        found.notes.append(Mistake(found.train_place, told, valid, "classes"))


def check_columns(classes: Sequence[str], train: list[Row], found: Found, settings: Declared, sample: str,
                  mistakes: list[Mistake]) -> None:  # fmt: skip
    """A sample with a column for each class must have those of the classes, and no others."""
    columns = found.sample_classes
    if settings.target == "regression":
        told = f"columns {listed(columns, SHOWN)}, and competition.target=regression predicts one number"
        mistakes.append(Mistake(f"{sample}:1", told, "valid: one column beside the ids", "columns"))
    elif classes and set(columns) != set(classes):
        absent = sorted(set(classes) - set(columns))
        # beside a class without a column, a column without a row is that class misspelt, more likely than not
        used = set(classes) if settings.classes != "from train" else {c for row in train for c in labels_of(row)}
        extra = sorted(set(columns) - used)
        words = [f"no column {listed(absent, SHOWN)}"] if absent else []
        words += [f"no class {listed(extra, SHOWN)}"] if extra else []
        valid = f"valid: one column, or one for each class: {listed(classes, SHOWN)}"
        mistakes.append(Mistake(f"{sample}:1", "; ".join(words), valid, "columns"))


def label_texts(
    classes: tuple[str, ...], words: Sequence[str], sample: str, column: str, mistakes: list[Mistake]
) -> tuple[str, ...]:
    """Each class as a submission writes it: whole, decimal or zero-padded numbers where the sample's words are so.

    Judged by what stands in the sample and by the classes, never by what happens to be predicted: a column of which
    only `1` was predicted reads as a number even where another class is `10+`.
    """
    given = set(words) - {""}
    if not given or any(number(text) is None for text in given):
        return classes  # blank promises no type, and a word takes any label
    whole = all(text.lstrip("+-").isdecimal() for text in given)
    values = {name: number(name) for name in classes}
    bare = {str(int(value)) for value in values.values() if value is not None and value == int(value)}
    is_padded = any(len(text) > 1 and text.startswith("0") for text in given)
    width = max(map(len, given)) if is_padded else 1
    # where a class stands there without its zeros, all are written so
    keeps = not is_padded and not (given - set(classes)) & bare
    texts = tuple(_written(name, values, whole, width, keeps) for name in classes)
    if "" in texts or len(set(texts)) < len(texts):
        kind = "whole numbers" if whole else "numbers"
        told = f"column {column!r} holds {kind} such as {min(given)}, and the classes are {listed(classes, SHOWN)}"
        valid = f"valid: classes that are distinct {kind}, or a sample of words"
        mistakes.append(Mistake(sample, told, valid, "labels"))
        return classes
    return texts


def _written(name: str, values: Mapping[str, float | None], whole: bool, width: int, keeps: bool) -> str:
    """A class in the sample's type; empty where it has no such form. keeps: zeros in front, as in train."""
    value = values[name]
    if value is None or (whole and value != int(value)):
        return ""
    if not whole:
        return str(value)
    return name if keeps and name.lstrip("+-").isdecimal() else str(int(value)).zfill(width)
