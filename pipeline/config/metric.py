"""The names of metrics: which there are, whether more is better, and which kinds of target they can judge.

In a file of its own, without scikit-learn, so that a typo is told at once. What they compute stands in `metrics`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RESAMPLED = "units"  # tag of what was made since each row without a group is resampled by itself; older: "" was a group
_CLASS = frozenset({"class", "ordinal"})
_LABELS = frozenset({"class", "ordinal", "multilabel"})
_RULES: tuple[tuple[str, str, bool, frozenset[str]], ...] = (  # pattern, how it is written, more is better, targets
    (r"(macro|micro|weighted)_f(\d+(?:\.\d+)?)", "macro_f1, micro_f1, weighted_f1 (or f2, f0.5, ...)", True, _LABELS),
    (r"accuracy", "accuracy", True, _LABELS),
    (r"balanced_accuracy", "balanced_accuracy", True, _CLASS),
    (r"top_(\d+)_accuracy", "top_5_accuracy", True, _CLASS),
    (r"quadratic_kappa", "quadratic_kappa", True, _CLASS),
    (r"log_loss", "log_loss", False, _LABELS),
    (r"auc", "auc", True, _LABELS),
    (r"mean_average_precision", "mean_average_precision", True, _LABELS),
    (r"map_at_(\d+)", "map_at_5", True, _LABELS),
    (r"rmse", "rmse", False, frozenset({"regression", "ordinal"})),
    (r"mae", "mae", False, frozenset({"regression", "ordinal"})),
    (r"r2", "r2", True, frozenset({"regression"})),
)


@dataclass(frozen=True)
class Metric:
    """A metric by its parts: `macro_f0.5` is (f, macro, 0.5); `top_5_accuracy` is (top, "", 5).

    hard, positive: what a submission's cells leave of the outputs (`competition.form`), so that every score is one of
    the cells. hard: answers alone, although the metric would take probabilities. positive: the class whose probability
    stands in the one column. values: of the classes on their `scale`, where the metric counts distances.
    """

    name: str
    kind: str
    average: str
    number: float
    greater_is_better: bool
    hard: bool = False
    positive: int | None = None
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def judges(self) -> Literal["labels", "probabilities", "best", "numbers"]:
        """What it takes of each row. best: the k most probable classes, in order."""
        if self.kind in ("log_loss", "auc", "mean_average_precision"):
            return "probabilities"
        if self.kind in ("top_#_accuracy", "map_at_#"):
            return "best"
        return "numbers" if self.kind in ("rmse", "mae", "r2") else "labels"

    @property
    def described(self) -> str:
        """Its name, and what makes its scores others than those of the same name: equal where scores compare."""
        of_positive = self.positive is not None and self.kind == "mean_average_precision"
        steps = {b - a for a, b in zip(self.values, self.values[1:], strict=False)}
        scale = f" on {', '.join(f'{value:g}' for value in self.values)}" if len(steps) > 1 else ""
        return f"{self.name}{' of answers' * self.hard}{f' of class {self.positive}' if of_positive else ''}{scale}"

    @property
    def span(self) -> tuple[float, float]:
        """The least and the most that it can be."""
        if self.kind in ("log_loss", "rmse", "mae"):
            return 0.0, math.inf
        return {"quadratic_kappa": -1.0, "r2": -math.inf}.get(self.kind, 0.0), 1.0

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is strictly better than `other`."""
        return one > other if self.greater_is_better else one < other


def parse_metric(name: str | Metric, target: str, classes: Sequence[str] = ()) -> Metric:
    """Raises ValueError with what is valid for the target. One that is parsed already stays as it is.

    classes: needed to score by a metric that counts distances, and for nothing else.
    """
    if isinstance(name, Metric):
        return name
    for pattern, _, greater, targets in _RULES:
        if (match := re.fullmatch(pattern, name)) and target in targets:
            groups = match.groups()
            number = float(groups[-1]) if groups else 1.0
            average = groups[0] if len(groups) > 1 else ""
            kind = "f" if average else name.replace(groups[0], "#") if groups else name
            if number <= 0:
                break
            values = scale(classes) if by_scale(name, target) else ()
            return Metric(name, kind, average, number, greater, values=values)
    valid = ", ".join(text for _, text, _, targets in _RULES if target in targets)
    raise ValueError(f"competition.metric={name} is none for competition.target={target}; valid: {valid}")


def by_scale(name: str, target: str) -> bool:
    """Whether a metric counts how far a class is from another: then it needs the `scale` of the classes."""
    return name == "quadratic_kappa" or (target == "ordinal" and name in ("rmse", "mae"))


def number(text: str) -> float | None:
    """The finite number that a text says, or None."""
    try:
        value = float(text.replace("_", "?"))  # Python reads 1_0 as ten; nobody else does
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def scale(classes: Sequence[str]) -> tuple[float, ...]:
    """(C,) what the classes count for on a scale: their numbers where all are numbers, else their places.

    Of grades 0, 1, 2 and 4 the last two are two steps apart, whether or not any row has grade 3.
    """
    values = [number(name) for name in classes]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(known)) < len(known):
        return tuple(map(float, range(len(values))))
    return tuple(known)
