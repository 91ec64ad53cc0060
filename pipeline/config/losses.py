"""Settings of losses and class weights: each a class of its own, so that a key which means nothing to it is refused."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.data import NotNegative, Positive, Settings, Share


class _Smoothed(Settings):
    label_smoothing: Share = 0.0


class CrossEntropy(_Smoothed):
    name: Literal["cross_entropy"] = "cross_entropy"


class Focal(_Smoothed):
    name: Literal["focal"]
    gamma: NotNegative = 2.0


class BinaryCrossEntropy(_Smoothed):
    name: Literal["bce"]  # each class against the rest


class LogitAdjustment(_Smoothed):
    name: Literal["logit_adjustment"]
    tau: NotNegative = 1.0


class BalancedSoftmax(_Smoothed):
    name: Literal["balanced_softmax"]  # logit adjustment with tau = 1


class SoftF1(Settings):
    name: Literal["soft_f1"]


class GeneralizedCrossEntropy(Settings):
    name: Literal["generalized_cross_entropy"]
    q: Annotated[float, Field(gt=0, le=1)] = 0.7  # towards 0: cross entropy; 1: mean absolute error


class SymmetricCrossEntropy(Settings):
    name: Literal["symmetric_cross_entropy"]
    alpha: NotNegative = 0.1  # of cross entropy
    beta: NotNegative = 1.0  # of reverse cross entropy
    log_zero: Annotated[float, Field(lt=0)] = -4.0  # what stands for log 0 in it


class Corn(Settings):
    name: Literal["corn"]  # for ordinal targets


class RegressionLoss(Settings):
    name: Literal["mse", "mae"]


class Huber(Settings):
    name: Literal["huber"]
    delta: Positive = 1.0  # in standard deviations of the training targets


Loss = (
    CrossEntropy | Focal | BinaryCrossEntropy | LogitAdjustment | BalancedSoftmax | SoftF1 | GeneralizedCrossEntropy
    | SymmetricCrossEntropy | Corn | RegressionLoss | Huber
)  # fmt: skip
_CLASS = ("cross_entropy", "focal", "bce", "logit_adjustment", "balanced_softmax", "soft_f1",
          "generalized_cross_entropy", "symmetric_cross_entropy")  # fmt: skip
LOSSES_OF = {  # the first is what a target of that kind is trained with where nothing is said
    "class": _CLASS,
    "multilabel": ("bce", "focal", "soft_f1"),
    "ordinal": ("corn", *_CLASS),
    "regression": ("mse", "mae", "huber"),
}


class NoWeights(Settings):
    name: Literal["none"] = "none"


class InverseFrequency(Settings):
    name: Literal["inverse"]
    power: Annotated[float, Field(gt=0, le=1)] = 1.0  # 0.5: by the square root


class EffectiveNumber(Settings):
    name: Literal["effective"]
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.999


class GivenWeights(Settings):
    name: Literal["given"]
    weights: dict[str, Positive]  # one a class


ClassWeights = NoWeights | InverseFrequency | EffectiveNumber | GivenWeights
