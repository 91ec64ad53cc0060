"""The names of metrics: which there are, whether more is better, and which kinds of target they can judge.

In a file of its own, without scikit-learn, so that a typo is told at once. What they compute stands in `metrics`.
"""

import math
import re
from dataclasses import dataclass

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
    """A metric by its parts: `macro_f0.5` is (f, macro, 0.5); `top_5_accuracy` is (top, "", 5)."""

    name: str
    kind: str
    average: str
    number: float
    greater_is_better: bool

    @property
    def span(self) -> tuple[float, float]:
        """The least and the most that it can be."""
        if self.kind in ("log_loss", "rmse", "mae"):
            return 0.0, math.inf
        return {"quadratic_kappa": -1.0, "r2": -math.inf}.get(self.kind, 0.0), 1.0

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is strictly better than `other`."""
        return one > other if self.greater_is_better else one < other


def parse_metric(name: str, target: str) -> Metric:
    """Raises ValueError with what is valid for the target."""
    for pattern, _, greater, targets in _RULES:
        if (match := re.fullmatch(pattern, name)) and target in targets:
            groups = match.groups()
            number = float(groups[-1]) if groups else 1.0
            average = groups[0] if len(groups) > 1 else ""
            kind = "f" if average else name.replace(groups[0], "#") if groups else name
            if number <= 0:
                break
            return Metric(name, kind, average, number, greater)
    valid = ", ".join(text for _, text, _, targets in _RULES if target in targets)
    raise ValueError(f"competition.metric={name} is none for competition.target={target}; valid: {valid}")
