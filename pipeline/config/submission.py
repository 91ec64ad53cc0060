"""Settings of what happens after training: how models' answers become one, from which views, and pseudo-labels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.data import Settings

View = Literal["flip", "dihedral", "multi_crop", "multi_scale"]


class Submit(Settings):
    """How the outputs of folds, seeds, views and runs become one answer a row."""

    # probs: mean of the probabilities. logits: mean of their logarithms, which for a softmax is the mean of the logits.
    # ranks: mean of each class's ranks, scaled to 0..1, for metrics that only look at the order. vote: the class that
    # most models answer (of ordered classes the median one); where several have as many, the one of the higher mean
    # probability, then the first in order.
    average: Literal["probs", "logits", "ranks", "vote"] = "probs"
    # Views of each image whose outputs are averaged, the same out of fold and for the test rows; several multiply.
    # flip: as it is and mirrored. dihedral: all eight turns and mirrors. multi_crop: the middle and four corners.
    # multi_scale: at 7/8, 1 and 9/8 of the model's size.
    views: Annotated[tuple[View, ...], Field(strict=False)] = ()
    # Weights of several runs. equal; greedy: selection with replacement; simplex: those of the least loss; auto: what
    # beats equal weights by more than noise, judged by cross-fitting, else equal.
    blend: Literal["auto", "equal", "greedy", "simplex"] = "auto"
    # A shift of each class's log-probability, tuned for the metric; auto: where it helps by more than noise.
    bias: Literal["auto", "on", "off"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of the resamples within `greedy`

    @model_validator(mode="after")
    def _views_once(self) -> "Submit":
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"submit.views {', '.join(self.views)} name one view twice")
        if {"flip", "dihedral"} <= set(self.views):
            raise ValueError("submit.views: dihedral holds the mirror image already; valid: flip or dihedral")
        return self


class Pseudo(Settings):
    """Which test rows a fold may learn from: those that its own models are sure of."""

    threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.95  # probability of the answer, at least
    # of the fold's training rows, at most as many again; the surest come first
    most: Annotated[float, Field(gt=0, le=10)] = 1.0
