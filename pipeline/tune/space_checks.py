"""From `tune.space` to axes, or to everything that is wrong with it, before a study starts.

In: keys with ranges, choices and conditions, as they stand in the settings. Out: a `Space`. Checked against the
settings model itself: that each key is one, that each condition can hold, that each choice and both ends of each
range are taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, get_args, get_origin

from pipeline.config.explain import section_classes
from pipeline.config.mistakes import Mistake, Mistakes, nearest
from pipeline.config.settings import Experiment
from pipeline.config.tuning import SEARCHED, Parameter
from pipeline.tune.space import Axis, Build, Space, alike, at

When = tuple[tuple[str, tuple[Any, ...]], ...]  # as an axis has it
FIXED = {  # keys that may not vary, and why
    "train.seeds": "the search gives every trial the experiment's own seeds, and the choice fresh ones",
    "train.device": "where a trial runs says nothing about its settings",
}


def make_space(space: Mapping[str, Sequence[Parameter]], base: Experiment, build: Build) -> Space:
    """Raises `Mistakes` with everything that is wrong with the space."""
    mistakes: list[Mistake] = []
    axes: list[Axis] = []
    for key, parameters in space.items():
        if wrong := _unknown(key):
            mistakes.append(Mistake(f"tune.space.{key}", *wrong, "tune.space keys"))
            continue
        of_key = [_axis(key, parameter, len(parameters) > 1) for parameter in parameters]
        if any(not _exclude_each_other(one, other) for one, other in combinations(of_key, 2)):
            found = "has several ranges that may hold at once"
            valid = "valid: `when` in each of them, with other values of one and the same key"
            mistakes.append(Mistake(f"tune.space.{key}", found, valid, "tune.space keys"))
            continue
        axes += of_key
        for axis, parameter in zip(of_key, parameters, strict=True):
            mistakes += _check_numbers(axis, parameter)
    known = {axis.key: [a for a in axes if a.key == axis.key] for axis in axes}
    never: list[Axis] = []
    for axis in axes:
        wrong_when = [m for key, values in axis.when for m in _check_condition(axis, key, values, known, base)]
        never += [axis] if wrong_when else []
        mistakes += wrong_when
    ordered = _in_order(axes, mistakes)
    found = Space(ordered, base, build)
    in_order = len(ordered) == len(axes)  # else conditions go in a circle, and have no end
    mistakes += [m for axis in ordered if in_order and axis not in never for m in _refused(axis, found, build)]
    if mistakes:
        raise Mistakes(mistakes)
    return found


def _axis(key: str, parameter: Parameter, is_one_of_several: bool) -> Axis:
    when = tuple((name, tuple(value) if isinstance(value, list | tuple) else (value,))
                 for name, value in parameter.when.items())  # fmt: skip
    bare = Axis(key, key, "choice", choices=tuple(map(_plain, parameter.choices)), when=when)
    name = f"{key} [{bare.condition}]" if is_one_of_several else key
    if parameter.choices:
        return Axis(name, key, "choice", choices=bare.choices, when=when)
    kind = "int" if _is_whole(key) else "float"
    step = 0.0 if parameter.step == "off" else parameter.step
    step = 1.0 if kind == "int" and not step and not parameter.log else step
    low, high = float(parameter.low), float(parameter.high)
    if step:  # a range ends at its last step
        high = round(low + step * math.floor((high - low) / step + 1e-9), 12)
    return Axis(name, key, kind, low, high, parameter.log, step, parameter.per_batch, when=when)


def _exclude_each_other(one: Axis, other: Axis) -> bool:
    """Whether a key has values in one condition of which none is in the other's."""
    theirs = dict(other.when)
    return any(key in theirs and not any(alike(a, b) for a in values for b in theirs[key]) for key, values in one.when)


def _plain(value: Any) -> Any:
    """Lists for tuples, as JSON has them."""
    return json.loads(json.dumps(value)) if isinstance(value, list | tuple | dict) else value


def _annotations(key: str) -> list[Any]:
    """The types that may stand at a dotted key; empty: no such key."""
    models: list[Any] = [Experiment]
    parts = key.split(".")
    for depth, part in enumerate(parts):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if depth == len(parts) - 1 or not fields:
            return [field.annotation for field in fields]
        mapped = [get_args(f.annotation)[1] for f in fields if get_origin(f.annotation) is dict]
        if mapped:  # its keys are free
            return mapped
        models = [found for field in fields for found in section_classes(field.annotation)]
    return []


def _is_whole(key: str) -> bool:
    """Whether only whole numbers may stand there."""

    def types(annotation: Any) -> set[Any]:
        inner = get_args(annotation)
        return {annotation} | {t for one in inner for t in types(one)} if inner else {annotation}

    found = {t for annotation in _annotations(key) for t in types(annotation)}
    return int in found and float not in found


def _unknown(key: str) -> tuple[str, str] | None:
    """(what was found, what is valid) of a key that may not vary."""
    section = key.split(".")[0]
    if key in FIXED:
        return "may not vary", f"valid: other keys; {FIXED[key]}"
    if key in SEARCHED:
        told = f"whole sections may not vary, and {key} has keys that may not ({', '.join(FIXED)})"
        return told if key == "train" else "whole sections may not vary", "valid: keys within it"
    if section not in SEARCHED:
        told = "may not vary" if section in Experiment.model_fields else f"unknown key{nearest(section, SEARCHED)}"
        return told, f"valid: keys of {', '.join(SEARCHED)}"
    if not _annotations(key):
        siblings = _children(key.rpartition(".")[0])
        word = nearest(key.rpartition(".")[2], siblings)
        return f"unknown key{word}", f"valid here: {', '.join(siblings) or 'nothing'}"
    return None


def _children(section: str) -> list[str]:
    models: list[Any] = [Experiment] if not section else [m for a in _annotations(section) for m in section_classes(a)]
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _check_numbers(axis: Axis, parameter: Parameter) -> list[Mistake]:
    wrong = []
    if axis.kind == "int" and any(value != int(value) for value in (axis.low, axis.high, axis.step)):
        wrong.append(("found a fraction", f"valid: whole numbers, as {axis.key} is one"))
    if axis.per_batch != "off" and axis.key != "train.lr":
        wrong.append((f"found per_batch: {axis.per_batch}", "valid: at train.lr alone"))
    return [Mistake(f"tune.space.{axis.name}", *each, "tune.space values") for each in wrong]


def _check_condition(
    axis: Axis, key: str, values: tuple[Any, ...], known: Mapping[str, Sequence[Axis]], base: Experiment
) -> list[Mistake]:
    """A condition on nothing, or one that never holds."""
    where = f"tune.space.{axis.key}.when"
    if not _annotations(key):
        siblings = [f"{key.rpartition('.')[0]}.{name}" for name in _children(key.rpartition(".")[0])]
        hint = nearest(key, siblings)
        return [Mistake(where, f"unknown key {key}{hint}", "valid: a dotted key of the settings", "tune.space keys")]
    own = at(base.model_dump(mode="json"), key)
    parents = [a for name, of_key in known.items() for a in of_key if key == name or key.startswith(f"{name}.")]
    possible = [own] if not any(a.key == key and not a.when for a in parents) else []
    for parent in parents:
        if parent.kind != "choice":
            return [Mistake(where, f"{key} is a range", "valid: a key with choices", "tune.space keys")]
        rest = key.removeprefix(parent.key).removeprefix(".")
        possible += [at(choice, rest) if rest else choice for choice in parent.choices]
    if any(alike(one, other) for one in possible for other in values):
        return []
    names = ", ".join(dict.fromkeys(map(str, possible)))
    return [Mistake(where, f"{key}={'|'.join(map(str, values))} never holds", f"valid: {names}", "tune.space values")]


def _in_order(axes: Sequence[Axis], mistakes: list[Mistake]) -> list[Axis]:
    """Each behind what it depends on; and what an effective batch is made of before the rate, to be read so."""
    left, ordered = list(axes), []
    while left:
        free = [a for a in left if not any(_depends(a, other) for other in left if other is not a or _names_itself(a))]
        if not free:
            names = ", ".join(axis.key for axis in left)
            mistakes.append(Mistake("tune.space", f"conditions go in a circle ({names})", "valid: a chain that ends",
                                    "tune.space keys"))  # fmt: skip
            return ordered
        ordered += free
        left = [axis for axis in left if axis not in free]
    return ordered


def _names_itself(axis: Axis) -> bool:
    return any(key == axis.key or key.startswith(f"{axis.key}.") for key, _ in axis.when)


def _depends(axis: Axis, other: Axis) -> bool:
    """Whether the other must be drawn first: it is named by, or replaces the section of, this key or a condition."""
    section, _, last = other.key.rpartition(".")
    keys = [axis.key, *(key for key, _ in axis.when)]
    within = last == "name" and any(key.startswith(f"{section}.") and key != other.key for key in keys)
    named = any(key == other.key for key, _ in axis.when)
    return named or within or any(key.startswith(f"{other.key}.") for key in keys)


def _refused(axis: Axis, space: Space, build: Build) -> list[Mistake]:
    """Each choice, and both ends of a range, that the settings do not take even by itself."""
    probes = axis.encoded if axis.kind == "choice" else (axis.low, axis.high)
    found: dict[str, Mistake] = {}
    for when in _each_of(axis.when):
        for probe in probes:
            changes = _conditions(when, space.axes) | {axis.key: space.value(axis, probe)}
            try:
                build(changes)
            except Mistakes as error:
                first = error.mistakes[0]
                what = f"the choice {probe}" if axis.kind == "choice" else f"{probe:g}"
                told = f"{what} is refused ({first.found})"
                found[told] = Mistake(f"tune.space.{axis.name}", told, first.valid, "tune.space values")
    return list(found.values())


def _each_of(when: When) -> list[When]:
    """The condition once for each value that one of its keys may have."""
    alone = [(*when[:i], (key, (value,)), *when[i + 1 :]) for i, (key, values) in enumerate(when) for value in values]
    return alone or [when]


def _conditions(when: When, axes: Sequence[Axis]) -> dict[str, Any]:
    """Changes under which a condition holds: of each key the first value that something offers."""
    changes: dict[str, Any] = {}
    for key, values in when:
        for parent in axes:
            if key == parent.key or key.startswith(f"{parent.key}."):
                rest = key.removeprefix(parent.key).removeprefix(".")
                offered = [c for c in parent.choices if any(alike(at(c, rest) if rest else c, v) for v in values)]
                if offered:
                    changes = _conditions(parent.when, axes) | changes | {parent.key: offered[0]}
                    break
    return changes
