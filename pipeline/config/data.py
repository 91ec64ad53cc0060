"""Settings of the data: where a competition's files are and how they read, the images, the first look, the folds.

Part of `settings`, which has the rest. Types are strict, unknown keys are mistakes, and "off" is a word.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config.metric import parse_metric

# file and MLflow names are built from it, so nothing that could climb out of a folder or upset a tracker
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(strict=True)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Number = Annotated[float, Field(strict=True)]
Channels = Annotated[tuple[Number, ...], Field(strict=False, min_length=1, max_length=3)]
Strings = Annotated[tuple[Text, ...], Field(strict=False, min_length=2)]
OneOrMore = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
Bounds = Annotated[tuple[Number, ...], Field(strict=False)]  # ascending; n of them make n + 1 bins
STORE_SIDES = (128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048)  # what `images.store: auto` chooses from


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Part(Settings):
    """One part of a label: which column it is read from, and which value each entry means.

    values: their names; their places (0, 1, ...) are what the class formula counts with. With `bounds` the column holds
    numbers: below the first bound is the first value, from the last bound on the last. With `match` it holds names that
    are compared with patterns (`mask*`). With neither, it holds the values themselves.
    """

    column: str
    values: Strings
    bounds: Bounds = ()
    match: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _read_in_one_way(self) -> "Part":
        if self.bounds and self.match:
            raise ValueError("a part has bounds or match, not both")
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"values {', '.join(self.values)} name one value twice")
        check_bounds(self.bounds, self.values)
        if unknown := [value for value in self.match.values() if value not in self.values]:
            raise ValueError(f"match leads to {', '.join(unknown)}; valid: {', '.join(self.values)}")
        return self


def check_bounds(bounds: tuple[float, ...], values: tuple[str, ...]) -> None:
    """Raises ValueError where bounds cannot cut numbers into the values."""
    if bounds and len(bounds) != len(values) - 1:
        raise ValueError(f"{len(bounds)} bounds for {len(values)} values; valid: one bound fewer than values")
    if list(bounds) != sorted(set(bounds)):
        raise ValueError(f"bounds {list(bounds)} must ascend")


class Declared(Settings):
    """What every competition says, whatever its files look like; paths are relative to `root`."""

    name: Name  # the MLflow experiment: all runs of one competition stand together
    root: str  # where it starts with data/ and PODIUM_DATA is set, that folder stands in for data/
    classes: Strings | Literal["from train"] = "from train"  # their order is the order of the probabilities
    # What a row's label is: one class; several at once, or none; one of classes that have an order; a number.
    target: Literal["class", "multilabel", "ordinal", "regression"] = "class"
    label_separator: Annotated[str, Field(min_length=1)] = " "  # between the labels of one row, for multilabel
    metric: str = "macro_f1"  # see `metrics`: its direction is known there
    # What stands in a cell of the submission; auto: what follows from metric and sample, see `competition/form.py`.
    answer: Literal["auto", "label", "probability", "best", "number"] = "auto"
    positive: Text = "auto"  # of two classes the one whose probability a single column holds; auto: the second
    more_metrics: OneOrMore | Literal["none"] = "none"  # recorded beside it; nothing is decided by them
    # A label of several parts; then `formula` joins them into the class and `label_column` is not read.
    parts: dict[Name, Part] = Field(default_factory=dict)
    formula: str | Literal["none"] = "none"  # e.g. 6 * mask + 3 * gender + age, over the places of the parts' values
    group_pattern: str | Literal["none"] = "none"  # a regular expression on the id; its first (...) is the group
    fixes_csv: str | Literal["none"] = "none"  # image_id,label: rows to leave out (no label) or to label anew
    # where make kaggle uploads: the competition's name in its address there
    kaggle: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | Literal["none"] = "none"
    answers_csv: str = "answers.csv"  # read by `score` alone, and only where the organisers give it

    @property
    def further_metrics(self) -> tuple[str, ...]:
        """Without the one that decides."""
        return tuple(name for name in self.more_metrics if name != self.metric) if self.more_metrics != "none" else ()

    @model_validator(mode="after")
    def _parts_and_formula_together(self) -> "Declared":
        if bool(self.parts) != (self.formula != "none"):
            raise ValueError("competition.parts and competition.formula go together: give both or neither")
        return self

    @model_validator(mode="after")
    def _metric_judges_the_target(self) -> "Declared":
        for name in (self.metric, *(self.more_metrics if self.more_metrics != "none" else ())):
            parse_metric(name, self.target)
        if self.parts and self.target in ("multilabel", "regression"):
            raise ValueError(f"competition.parts make one class a row, and competition.target={self.target} has none")
        return self


class Tables(Declared):
    """A competition given as CSV tables and image files."""

    train_csv: str = "train.csv"
    test_csv: str | Literal["none"] = "sample_submission.csv"  # which test images there are: the sample's ids
    sample_csv: str | Literal["none"] = "sample_submission.csv"  # none: nothing is to be submitted
    id_column: str = "image_id"
    label_column: str = "label"
    group_column: str | Literal["none"] = "none"  # rows of one group (a person, a photo) never stand on both sides
    # Path templates over the table's columns, several where the images lie in several folders; `{image_id}.*` takes the
    # one file of that name, whatever its extension.
    train_images: str | OneOrMore = "images/{image_id}.png"
    test_images: str | OneOrMore = "images/{image_id}.png"

    @model_validator(mode="after")
    def _one_group(self) -> "Tables":
        if self.group_column != "none" and self.group_pattern != "none":
            raise ValueError("competition.group_column and competition.group_pattern both say what a group is")
        if self.sample_csv == "none" and self.test_csv not in ("none", "sample_submission.csv"):
            raise ValueError("competition.sample_csv=none means that there is no test set, and test_csv names one")
        return self


class CsvCompetition(Tables):
    source: Literal["csv"]


class DigitsCompetition(Tables):
    """The embedded demonstration: scikit-learn's bundled digits, written to `root` at first use."""

    source: Literal["digits"]
    name: Name = "digits"
    root: str = "data/digits"


class FolderCompetition(Declared):
    """One folder per class; the id of an image is its path from the folder that holds the classes."""

    source: Literal["folder"]
    train_folder: str = "train"
    test_folder: str | Literal["none"] = "test"
    sample_csv: str | Literal["none"] = "none"  # none: `image_id,label` for every file of the test folder, by name


class MaskCompetition(Declared):
    """The mask-wearing competition's layout: a folder of photos per person, described by one row of a table.

    Columns for `parts`: those of the table, and `file`, the photo's name without its extension.
    """

    source: Literal["mask"]
    train_csv: str = "train/train.csv"
    train_images: str = "train/images"
    sample_csv: str | Literal["none"] = "eval/info.csv"
    test_images: str = "eval/images"
    person_column: str = "id"
    path_column: str = "path"

    @model_validator(mode="after")
    def _the_person_is_the_group(self) -> "MaskCompetition":
        if self.group_pattern != "none":
            raise ValueError("the mask source's group is the person; competition.group_pattern has no place here")
        if not self.parts:
            raise ValueError("the mask source has no label column: competition.parts and competition.formula make it")
        return self


CompetitionSettings = Annotated[
    CsvCompetition | DigitsCompetition | FolderCompetition | MaskCompetition, Field(discriminator="source")
]


class Images(Settings):
    """The fixed preprocessing. `model` means: what the model's own data configuration in timm says."""

    mode: Literal["RGB", "L"] = "RGB"
    px: Annotated[int, Field(ge=8, le=2048)] | Literal["model"] = "model"  # side of the square that the model sees
    crop: Annotated[float, Field(gt=0, le=1)] | Literal["model"] = "model"  # share of the short side that is kept
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "model"] = "model"
    mean: Channels | Literal["model"] = "model"  # per channel, on pixels in 0..1
    std: Channels | Literal["model"] = "model"
    # The short side of the decoded images that are kept under mlruns/cache/, so that each file is decoded once; smaller
    # images keep their size. auto: the first of 128, 192, 256, 320, 384, ... that neither the model's preprocessing nor
    # a random crop of usual size would have to enlarge.
    # off: every stage decodes the files.
    store: Annotated[int, Field(ge=32, le=4096)] | Literal["auto", "off"] = "auto"

    @model_validator(mode="after")
    def _a_value_per_channel(self) -> "Images":
        n = len(self.mode)  # RGB: 3, L: 1
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values != "model" and len(values) != n:
                raise ValueError(f"images.{name} has {len(values)} values and images.mode={self.mode} has {n} channels")
        if self.std != "model" and min(self.std) <= 0:
            raise ValueError(f"images.std={list(self.std)} must be above 0")
        return self


class Preprocessing(Settings):
    """`Images` with every `model` resolved: it travels in the checkpoint, and inference reads it from there alone."""

    mode: Literal["RGB", "L"]
    px: int
    crop: float
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: Channels
    std: Channels


class Eda(Settings):
    """The first look at the data."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Folds(Settings):
    """One split of the rows. Groups and sets of copies stay together."""

    k: Annotated[int, Field(ge=2, le=50)] = 5
    repeats: Annotated[int, Field(ge=1, le=20)] = 1  # the whole split again, other seeds: k x repeats models
    holdout: Annotated[float, Field(gt=0, lt=1)] | Literal["off"] = "off"  # validate this share once, with one model
    stratify: OneOrMore | Literal["off"] = ("class",)  # class, parts of the label, columns of the table
    duplicates: Literal["together", "exact", "off"] = "together"  # a set of copies counts as one group
    file: str | Literal["none"] = "none"  # a table of your own (image_id,fold), which must pass the same audit
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _one_scheme(self) -> "Folds":
        if self.holdout != "off" and self.repeats > 1:
            raise ValueError("folds.holdout is one split, and folds.repeats asks for several")
        return self
