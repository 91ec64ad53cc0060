"""What a search may change, and how a drawn point becomes an experiment.

In: axes (from `tune.space`, checked by `space_checks`) and the experiment that the search starts from. Out: a
`Space`, whose axes are drawn in an order in which each knows the values that it depends on. What only a combination
of values gets wrong is refused when it is drawn, before it costs anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.load import merged, nested
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import Experiment, fingerprint
from pipeline.config.tuning import SEARCHED

Build = Callable[[Mapping[str, Any]], Experiment]  # from changes by dotted key to settings; raises `Mistakes`
DIGITS = 4  # significant ones of a drawn number: what a person would write into a file


@dataclass(frozen=True)
class Axis:
    """One thing that varies. name: the key, and where that has several ranges, with its condition."""

    name: str
    key: str
    kind: str  # float, int or choice
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float = 0.0  # 0: any value
    per_batch: str = "off"
    choices: tuple[Any, ...] = ()
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # keys and the values they must have

    @property
    def condition(self) -> str:
        """`train.loss.name=focal`; empty where it always varies."""
        return " and ".join(f"{key}={'|'.join(map(str, values))}" for key, values in self.when)

    @property
    def encoded(self) -> tuple[Any, ...]:
        """The choices as a store can hold them: lists and sections as JSON."""
        return tuple(value if isinstance(value, str | bool | int | float) else json.dumps(value, sort_keys=True)
                     for value in self.choices)  # fmt: skip


class Space:
    """axes: in the order they are drawn. base: the experiment that the search starts from."""

    def __init__(self, axes: Sequence[Axis], base: Experiment, build: Build):
        self.axes, self.base, self._build = tuple(axes), base, build
        self._base_data = base.model_dump(mode="json")
        self._base_batch = base.train.batch_size * base.train.accumulation

    @property
    def hash(self) -> str:
        """Equal where the same may be drawn, in the same way."""
        return fingerprint([asdict(axis) for axis in self.axes])

    def draw(self, suggest: Callable[[Axis], Any]) -> dict[str, Any]:
        """Raw values by axis: those of `suggest` for each axis that has a meaning beside the ones before it."""
        raw: dict[str, Any] = {}
        changes: dict[str, Any] = {}
        for axis in self.axes:
            if axis.key not in changes and self._applies(axis, changes):
                raw[axis.name] = suggest(axis)
                changes[axis.key] = self.value(axis, raw[axis.name])
        return raw

    def changes(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by dotted key, as they are written into a file: rounded, and the rate for its effective batch."""
        changes = {axis.key: self.value(axis, raw[axis.name]) for axis in self.axes if axis.name in raw}
        for axis in self.axes:
            if axis.name in raw and axis.per_batch != "off":
                value = float(raw[axis.name]) * self._batch_factor(axis, changes)
                changes[axis.key] = self._as_written(axis, value)
        return changes

    def settings(self, raw: Mapping[str, Any]) -> Experiment:
        """Raises `Mistakes` where the values cannot work together."""
        return self._build(self.changes(raw))

    def settings_with(self, axis: Axis, value: Any) -> Experiment:
        """The experiment with one choice in place of its own."""
        return self._build({axis.key: value})

    def point(self, settings: Experiment) -> dict[str, Any] | None:
        """The raw values that mean these settings; None where the space does not hold them."""
        data = settings.model_dump(mode="json")
        raw: dict[str, Any] = {}
        changes: dict[str, Any] = {}
        for axis in self.axes:
            if not holds(axis, data):
                continue
            value = self._raw(axis, data)
            if value is None:
                return None
            raw[axis.name] = value
            changes[axis.key] = self.value(axis, value)
        try:
            same = searched(self.settings(raw)) == searched(settings)
        except Mistakes:
            return None
        return raw if same else None

    def _raw(self, axis: Axis, data: Mapping[str, Any]) -> Any:
        """What of the axis stands in the settings; None where it cannot."""
        value = at(data, axis.key)
        if axis.kind == "choice":
            fits = [(len(_leaves(choice)), name) for choice, name in zip(axis.choices, axis.encoded, strict=True)
                    if _is_within(choice, value)]  # fmt: skip
            return max(fits, key=lambda fit: fit[0])[1] if fits else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if axis.per_batch != "off":
            changes = {"train.batch_size": at(data, "train.batch_size"),
                       "train.accumulation": at(data, "train.accumulation")}  # fmt: skip
            value = value / self._batch_factor(axis, changes)
        slack = 1e-3 * abs(value)  # of rounding
        if not axis.low - slack <= value <= axis.high + slack:
            return None
        value = min(max(value, axis.low), axis.high)
        if axis.step and abs((value - axis.low) / axis.step - round((value - axis.low) / axis.step)) > 1e-6:
            return None
        return int(value) if axis.kind == "int" else value

    def _applies(self, axis: Axis, changes: Mapping[str, Any]) -> bool:
        data = self._base_data
        for key, value in changes.items():
            data = merged(data, nested(key, value))
        with suppress(ValueError):  # with the defaults of sections that a choice has brought, where it is whole already
            data = Experiment.model_validate(data).model_dump(mode="json") if axis.when else data
        return holds(axis, data)

    def value(self, axis: Axis, raw: Any) -> Any:
        if axis.kind == "choice":
            return axis.choices[axis.encoded.index(raw)]
        return int(raw) if axis.kind == "int" else self._as_written(axis, float(raw))

    def _as_written(self, axis: Axis, value: float) -> float:
        """Rounded, but for the experiment's own value, which may have more digits."""
        own = at(self._base_data, axis.key)
        is_own = isinstance(own, int | float) and abs(value - own) <= 1e-12 * abs(own)
        return float(own) if is_own else rounded(value)

    def _batch_factor(self, axis: Axis, changes: Mapping[str, Any]) -> float:
        train = self.base.train
        batch = changes.get("train.batch_size", train.batch_size) * changes.get(
            "train.accumulation", train.accumulation
        )
        return (batch / self._base_batch) ** (0.5 if axis.per_batch == "sqrt" else 1.0)


def searched(settings: Experiment) -> str:
    """Of everything that a space can change: equal settings, equal trial."""
    return fingerprint(settings.flat(*SEARCHED))


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def at(data: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return None
        data = data[part]
    return data


def holds(axis: Axis, data: Mapping[str, Any]) -> bool:
    return all(any(alike(at(data, key), value) for value in values) for key, values in axis.when)


def alike(one: Any, other: Any) -> bool:
    """Equal, and both truths or neither: 0 and 0.0 are one number, and no `false`."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _leaves(value: Any) -> list[Any]:
    return [leaf for inner in value.values() for leaf in _leaves(inner)] if isinstance(value, Mapping) else [value]


def _is_within(choice: Any, value: Any) -> bool:
    """Whether the settings say all that the choice says."""
    if isinstance(choice, Mapping):
        return isinstance(value, Mapping) and all(k in value and _is_within(v, value[k]) for k, v in choice.items())
    return alike(choice, value)
