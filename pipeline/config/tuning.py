"""Settings of the search for better settings: which of them vary and how, for how long, and how the choice is made.

Part of `settings`, which has the rest. A space is data: dotted keys of the experiment, each with a range or choices,
and `when` where it has a meaning only beside another value. What it says is checked against the settings before a
study starts (`tune.space`).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from pipeline.config.data import Number, Positive, Settings
from pipeline.config.secrets import hidden

JOURNAL = "tune.journal"  # in `mlruns/NAME/`: every study of the experiment
SEARCHED = ("images", "model", "augment", "train")  # sections of which keys may vary: what the folds do not depend on


class Parameter(Settings):
    """One key of the space: `{low: 1e-4, high: 1e-2, log: true}`, or `{choices: [1, 2, 4]}`.

    when: `{train.loss.name: focal}`, or several values in a list; else the key keeps what the experiment says.
    per_batch: the range is meant for the experiment's own effective batch; where batch_size or accumulation vary too,
    the drawn rate is multiplied by the ratio of the batches (linear, Goyal et al. 2017, arXiv 1706.02677) or by its
    square root (Malladi et al. 2022, arXiv 2205.10287), so that batch and rate are not confounded.
    """

    low: Number | Literal["none"] = "none"
    high: Number | Literal["none"] = "none"
    log: bool = False
    step: Positive | Literal["off"] = "off"
    per_batch: Literal["off", "sqrt", "linear"] = "off"
    choices: Annotated[tuple[Any, ...], Field(strict=False)] = ()
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _a_range_or_choices(self) -> "Parameter":
        if self.choices:
            of_ranges = {"low": self.low != "none", "high": self.high != "none", "log": self.log,
                         "step": self.step != "off", "per_batch": self.per_batch != "off"}  # fmt: skip
            if given := [name for name, is_given in of_ranges.items() if is_given]:
                raise ValueError(f"choices and {', '.join(given)} do not go together")
            if len(self.choices) != len({repr(choice) for choice in self.choices}):
                raise ValueError(f"choices {list(self.choices)} name one twice")
            return self
        if self.low == "none" or self.high == "none":
            raise ValueError("it needs low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"the range from {self.low:g} to {self.high:g} is empty")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 on a logarithmic scale")
        if self.log and self.step != "off":
            raise ValueError("log and step do not go together")
        if self.step != "off" and self.step > self.high - self.low:
            raise ValueError(f"step {self.step:g} is wider than the range from {self.low:g} to {self.high:g}")
        return self


class Prune(Settings):
    """When a trial is given up. Only the seconds are saved: what it came to is kept and learnt from."""

    levels: Literal["both", "epochs", "folds", "off"] = "both"
    # Within a fold, after each epoch: given up where it would have to be luckier than earlier trials were, by so many
    # standard deviations, to draw level with the best one.
    margin: Positive = 4.0
    min_epochs: Annotated[int, Field(ge=1)] = 2  # of a fold, before that
    # Across folds: one-sided p of Wilcoxon's signed-rank test against the best trial, fold by fold. Two folds can come
    # to .25 at best, so .26 may act after two; Optuna's default of .1 could not act before the fourth of five.
    p: Annotated[float, Field(gt=0, lt=1)] = 0.26


class Confirm(Settings):
    """The choice: the best few are trained again, by other seeds, and so is the experiment as it was."""

    top: Annotated[int, Field(ge=1, le=20)] = 3
    seeds: Annotated[int, Field(ge=1, le=20)] = 1  # fresh ones for each
    folds: Literal["same", "fresh"] = "same"  # fresh: another split into folds as well


class Tune(Settings):
    space: dict[str, tuple[Parameter, ...]] = Field(default_factory=dict)  # empty: the default space
    trials: Annotated[int, Field(ge=1, le=100_000)] | Literal["off"] = 40  # in all; more of them later go on
    hours: Positive | Literal["off"] = "off"  # in all, the choice included: no trial begins that would end later
    jobs: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"  # at once; auto: one a GPU, or one
    # Where the study is kept: a journal file beside the experiment's other files, or a URL of Optuna's (postgresql://)
    # that several machines share.
    storage: str = "journal"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    startup: Annotated[int, Field(ge=1)] = 10  # trials drawn at random before any are learnt from
    lr_range_test: bool = False  # measure the range of train.lr for each optimizer of the space, a minute each
    prune: Prune = Prune()
    confirm: Confirm = Confirm()

    @field_serializer("storage")
    def _without_password(self, storage: str) -> str:
        """Settings are written into files, receipts and MLflow; a URL's user and password are not."""
        return hidden(storage)

    @field_validator("space", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        """A key may have several ranges, each with its `when`."""
        if not isinstance(value, dict):
            return value
        return {key: tuple(given) if isinstance(given, list | tuple) else (given,) for key, given in value.items()}

    @model_validator(mode="after")
    def _it_ends(self) -> "Tune":
        if self.trials == "off" and self.hours == "off":
            raise ValueError("tune.trials=off and tune.hours=off would never end")
        return self
