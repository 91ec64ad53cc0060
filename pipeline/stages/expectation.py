"""What a submission should score on the test set, and each candidate beside it, before anybody has scored it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.config.metric import parse_metric
from pipeline.config.submission import Submit
from pipeline.stages.members import Member
from pipeline.stages.predictions import TestMeans, oof_outputs, test_means
from pipeline.work import Work

if TYPE_CHECKING:
    from pipeline.ensemble.blends import Blend, Candidate
    from pipeline.ensemble.weights import Rows
    from pipeline.expected import Answered, Expected

HOW = ("labels drawn for the test rows, under which the mean of the models errs by what they err out of fold less what "
       "they differ on the test rows; no answer of a test row was known")  # fmt: skip
LEARNT = "its models learnt from test rows (pseudo-labels), where they repeat their own answers: it may be too high"


@dataclass(frozen=True)
class Outlook:
    """expected: of the chosen blend; None where nothing can be expected, and `why` says why. of: by candidate."""

    expected: Expected | None
    why: str = ""
    of: dict[str, float] = field(default_factory=dict)
    note: str = ""
    more_is_better: bool = True

    @property
    def figures(self) -> dict[str, Any]:
        """For the record, the receipt and MLflow; empty where nothing is expected."""
        return {} if self.expected is None else asdict(self.expected)

    def metrics(self, metric: str) -> dict[str, float]:
        """For MLflow: `expected_METRIC` with `_low` and `_high`."""
        names = {"value": "", "low": "_low", "high": "_high"}
        return {f"expected_{metric}{names[name]}": value for name, value in self.figures.items()}

    @property
    def recorded(self) -> dict[str, Any]:
        how = f"none: {self.why}" if self.expected is None else "; ".join(filter(None, (HOW, self.note)))
        return {**self.figures, "how": how}

    @property
    def words(self) -> str:
        """One line for the run's page and the terminal."""
        if self.expected is None:
            return f"no score of the test set can be expected: {self.why}"
        e = self.expected
        note = f"; note: {self.note}" if self.note else ""
        return f"expected on the test set: {e.value:.4f}, 95 % interval {e.low:.4f} to {e.high:.4f}{note}"

    def doubts(self, blend: Blend) -> list[str]:
        """A note where the chosen candidate beat another out of fold, and its average should not on the test set."""
        chosen, of = blend.chosen, self.of
        if chosen.against not in of or chosen.gain <= 0:
            return []
        gain = (of[chosen.name] - of[chosen.against]) * (1 if self.more_is_better else -1)
        if round(gain, 4) > 0:
            return []
        values = f"expected {of[chosen.name]:.4f}, and {of[chosen.against]:.4f} with {chosen.against}"
        return [f"note: {chosen.name} gains {chosen.gain:+.4f} out of fold, but on the test set nothing: {values}"]


def outlook(work: Work, members: Sequence[Member], rows: Rows, blend: Blend, test: TestMeans) -> Outlook:
    """By the average that is submitted, of the chosen candidate with an interval and of each other without."""
    from pipeline.expected import Unknown, expected_score, expected_value

    settings, metric = work.settings.submit, parse_metric(rows.metric, rows.kind)
    oof_means = rows.members if settings.average == "probs" else oof_outputs(work, members, settings, "probs")
    others = [other for other in (*blend.singles, *blend.candidates) if other is not blend.chosen]
    try:
        oof, answered, spread = _sides(blend.chosen, rows, oof_means, test)
        expected = expected_score(metric, rows.kind, oof, rows.targets, rows.units, answered, spread)
    except Unknown as error:
        return Outlook(None, str(error))
    of = {blend.chosen.name: expected.value}
    for other in others:
        oof, answered, spread = _sides(other, rows, oof_means, test)
        with suppress(Unknown):  # its place in the table stays empty
            of[other.name] = expected_value(metric, rows.kind, oof, rows.targets, answered, spread)
    learnt = any("pseudo-labels" in member.title for member in members)
    return Outlook(expected, "", of, LEARNT if learnt else "", metric.greater_is_better)


def expected_alone(work: Work, member: Member) -> Expected:
    """Of one run's average, as it is without a bias. Raises `expected.Unknown`."""
    from pipeline.competition.grouping import units
    from pipeline.crossval import arrays_of
    from pipeline.expected import Answered, expected_score

    submit, competition = Submit(), work.competition
    test, [oof] = test_means(work, [member], submit), oof_outputs(work, [member], submit)
    sides = [Answered(outputs, outputs) for outputs in (oof, test.means[0])]
    group_of = dict(zip(member.folds["image_id"], member.folds["group"], strict=True))
    targets, of_row = arrays_of(member.oof)[0], units(member.oof["image_id"], group_of)
    return expected_score(competition.rule, competition.target, sides[0], targets, of_row, sides[1], test.spreads[0, 0])


def _sides(
    one: Candidate, rows: Rows, oof_means: Sequence[Any], test: TestMeans
) -> tuple[Answered, Answered, Any]:  # fmt: skip
    """(out-of-fold rows, test rows, spread) of a candidate."""
    import numpy as np

    from pipeline.ensemble.combine import mixed
    from pipeline.ensemble.recipe import Recipe
    from pipeline.expected import Answered

    recipe, weights = Recipe(rows.average, one.weights, one.bias), np.array(one.weights)
    oof = Answered(mixed(oof_means, weights), one.outputs)
    answered = Answered(mixed(test.means, weights), recipe.outputs(test.averaged, rows.kind))
    return oof, answered, np.einsum("i,ijc,j->c", weights, test.spreads, weights)
