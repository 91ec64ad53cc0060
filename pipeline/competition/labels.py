"""Labels of several parts: each part read from its column by a declared rule, all of them joined by a formula.

In: the `parts` and `formula` settings. Out: for each row its class and the value of each part. Nothing about any one
competition stands here: mask x gender x age with the age cut at 30 and 60 is three entries of a YAML file.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

from pipeline.competition.contract import PART, TEXT, WHERE, Row
from pipeline.config.data import Declared, Part, check_bounds
from pipeline.config.mistakes import Mistake, listed, nearest

MAX_COMBINATIONS = 100_000
Places = tuple[int, ...]  # of each part's value, in the order of the parts


@dataclass(frozen=True)
class Scheme:
    """The declared parts and what their formula makes of every combination."""

    parts: Mapping[str, Part]
    class_of: Mapping[Places, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """By number."""
        return tuple(sorted(self.class_of.values(), key=int))

    def means(self, classes: Sequence[str]) -> tuple[str, ...]:
        """What each class says in words; of one that the formula never gives, its name."""
        places_of = {name: places for places, name in self.class_of.items()}
        values = [part.values for part in self.parts.values()]
        return tuple(
            ", ".join(v[i] for v, i in zip(values, places_of[name], strict=True)) if name in places_of else name
            for name in classes
        )

    def read(self, raw: Row, image_id: str, mistakes: list[Mistake]) -> Row:
        """`label`, and text and value of each part; a row that cannot be read is told and has an empty label."""
        texts = {name: raw.get(part.column, "") for name, part in self.parts.items()}
        out = {TEXT + name: text for name, text in texts.items()}
        places = [place_of(part, texts[name]) for name, part in self.parts.items()]
        for (name, part), place in zip(self.parts.items(), places, strict=True):
            if place is None:
                hint = nearest(texts[name], part.match or part.values) if len(mistakes) < 10 else ""
                found = f"{part.column} {texts[name]!r} is no {name}{hint}"
                valid = f"valid: {'a number' if part.bounds else ', '.join(part.match or part.values)}"
                mistakes.append(Mistake(raw[WHERE], found, valid, "labels in no class", image_id))
            else:
                out[PART + name] = part.values[place]
        known = tuple(place for place in places if place is not None)
        return out | {"label": self.class_of.get(known, "")}

    def set_label(self, row: Row, label: str) -> None:
        """Gives a row another class than its columns say, parts and all."""
        row["label"] = label
        for places, name in self.class_of.items():
            if name == label:
                row |= {PART + key: part.values[i] for (key, part), i in zip(self.parts.items(), places, strict=True)}


def place_of(part: Part, text: str) -> int | None:
    """Which of the part's values a column's entry means; None where it means none."""
    if part.bounds:
        try:
            value = float(text.replace("_", "?"))
        except ValueError:
            return None
        return None if not math.isfinite(value) else sum(value >= bound for bound in part.bounds)
    if part.match:
        hits = {value for pattern, value in part.match.items() if fnmatchcase(text, pattern)}
        return part.values.index(hits.pop()) if len(hits) == 1 else None
    return part.values.index(text) if text in part.values else None


def scheme(settings: Declared, mistakes: list[Mistake]) -> Scheme:
    """The parts and every combination's class, or mistakes: a formula gives each combination a class of its own."""
    where, kind = "competition.formula", "formula"
    counts = [len(part.values) for part in settings.parts.values()]
    n = 1
    for count in counts:
        n *= count
    valid = f"valid: whole numbers, + - * and the parts {', '.join(settings.parts)}, e.g. {_example(settings.parts)}"
    if n > MAX_COMBINATIONS:
        mistakes.append(Mistake("competition.parts", f"{n:,} combinations", f"valid: {MAX_COMBINATIONS:,}", kind))
        return Scheme(settings.parts, {})
    try:
        tree = ast.parse(settings.formula, mode="eval").body
        class_of: dict[Places, str] = {}
        first: dict[str, Places] = {}
        for places in product(*(range(count) for count in counts)):
            value = _evaluate(tree, dict(zip(settings.parts, places, strict=True)))
            if value < 0:
                raise ValueError(f"gives {value} for {_named(settings.parts, places)}")
            other = first.setdefault(str(value), places)
            if other != places:
                both = f"{_named(settings.parts, other)} and {_named(settings.parts, places)}"
                raise ValueError(f"gives {value} for {both}")
            class_of[places] = str(value)
    except (ValueError, SyntaxError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        mistakes.append(Mistake(where, f"{settings.formula!r}: {reason}", valid, kind))
        return Scheme(settings.parts, {})
    return Scheme(settings.parts, class_of)


def training_labels(rows: list[Row], settings: Declared, bounds: Mapping[str, tuple[float, ...]]) -> list[str]:
    """The class of each row under other bounds of its parts; rows that were labelled anew by hand keep their label.

    Training on other bounds than the organisers' is a known gain where a label has a hard edge in a continuum (age);
    what is validated keeps the organisers' own, so the comparison stays honest.
    """
    own = scheme(settings, [])
    changed = dict(own.parts)
    changed |= {name: own.parts[name].model_copy(update={"bounds": values}) for name, values in bounds.items()}

    def label(row: Row, parts: Mapping[str, Part]) -> str:
        places = [place_of(part, row[TEXT + name]) for name, part in parts.items()]
        return own.class_of.get(tuple(place for place in places if place is not None), "")

    return [label(row, changed) if label(row, own.parts) == row["label"] else row["label"] for row in rows]


def part_values(settings: Declared, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each part, the place of the value that each class has, in the order of `classes`."""
    own = scheme(settings, [])
    places_of = {name: places for places, name in own.class_of.items()}
    table = [places_of[name] for name in classes]
    return tuple(tuple(places[part] for places in table) for part in range(len(own.parts)))


def check_part_heads(settings: Declared, classes: Sequence[str]) -> list[Mistake]:
    """`model.heads=parts` where a class (of `competition.classes` or a fixes table) is no combination of the parts."""
    given = scheme(settings, []).class_of.values()
    strange = [name for name in classes if name not in given]
    if not strange or not given:  # a formula that is wrong is told where it is read
        return []
    found = f"no combination of the parts gives {', '.join(strange[:8])}"
    valid = f"valid: classes that the formula gives ({', '.join(sorted(given, key=int)[:20])}), or model.heads=joint"
    return [Mistake("competition.classes", found, valid, "classes")]


def check_class_weights(weights: Mapping[str, float], classes: Sequence[str]) -> list[Mistake]:
    """`train.class_weights.weights` that leave a class out, or name one that there is not."""
    mistakes, where, kind = [], "train.class_weights.weights", "class weights"
    for name in weights:
        if name not in classes:
            found = f"no class {name!r}{nearest(name, classes)}"
            mistakes.append(Mistake(where, found, f"valid: {listed(classes, 12)}", kind))
    if left := [name for name in classes if name not in weights]:
        mistakes.append(Mistake(where, f"none for {', '.join(left[:8])}", "valid: one for each class", kind))
    return mistakes


def check_label_bounds(settings: Declared, bounds: Mapping[str, tuple[float, ...]]) -> list[Mistake]:
    """`train.label_bounds` that name no part, a part without bounds, or that cannot cut it."""
    mistakes = []
    bounded = [name for name, part in settings.parts.items() if part.bounds]
    for name, values in bounds.items():
        where = f"train.label_bounds.{name}"
        if name not in bounded:
            valid = f"valid: {', '.join(bounded) or 'nothing, since no part of the label has bounds'}"
            mistakes.append(Mistake(where, f"no part with bounds{nearest(name, bounded)}", valid, "label bounds"))
            continue
        try:
            check_bounds(values or (float("nan"),) * 99, settings.parts[name].values)
        except ValueError as error:
            mistakes.append(Mistake(where, str(error), "valid: as many as the part has, ascending", "label bounds"))
    return mistakes


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> int:
    """Whole numbers, the parts' names, + - and *; nothing else is Python's business here."""
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool) and abs(value) <= 10**6:
            return value
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.Name(id=name):
            raise ValueError(f"{name!r} is no part{nearest(name, values)}")
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left, values) + _evaluate(right, values)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _evaluate(left, values) - _evaluate(right, values)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            product_ = _evaluate(left, values) * _evaluate(right, values)
            if abs(product_) > 10**12:
                raise ValueError("gives numbers beyond reason")
            return product_
    raise ValueError("holds something else than whole numbers, parts, + - and *")


def _named(parts: Mapping[str, Part], places: Places) -> str:
    return "(" + ", ".join(part.values[i] for part, i in zip(parts.values(), places, strict=True)) + ")"


def _example(parts: Mapping[str, Part]) -> str:
    factors, factor = [], 1
    for name, part in reversed(list(parts.items())):
        factors.append(f"{factor} * {name}" if factor > 1 else name)
        factor *= len(part.values)
    return " + ".join(reversed(factors))
