"""What stands in a cell of the submission: decided from metric, target and sample, before anything is trained.

In: settings, classes, the sample's columns and cells. Out: a `Form`, or mistakes. The metric decides: labels for F1,
accuracy and kappa, probabilities for log-loss and areas, the best k for MAP@k and top-k. A placeholder does not: `0`
and `0.5` stand for classes and for probabilities alike. Where metric and sample leave two readings, or none, the user
is asked for `competition.answer`. `answers` writes and reads the cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.competition.kinds import number
from pipeline.config.data import Declared
from pipeline.config.metric import Metric, parse_metric
from pipeline.config.mistakes import Mistake, nearest

Answer = Literal["label", "probability", "best", "number"]
SEPARATORS = (" ", ", ", ",", "; ", ";", " | ", "|", "\t", "/", ":", "+", "-", "_")  # looked for in the sample's cells


@dataclass(frozen=True)
class Form:
    """columns: of the answer, beside the ids. rule: scores outputs as the cells that are written of them."""

    rule: Metric
    answer: Answer
    columns: tuple[str, ...]
    per_class: bool = False  # a column for each class, of the class's name
    k: int = 1  # guesses
    separator: str = " "  # between several labels or guesses in one cell

    @property
    def described(self) -> str:
        """Equal where files are written alike."""
        of_class = f" of class {self.rule.positive}" if self.answer == "probability" and not self.per_class else ""
        guesses = f", {self.k} by {self.separator!r}" if self.answer == "best" else ""
        return f"{self.answer}{of_class}{guesses} in {', '.join(self.columns)}"


def form_of(
    settings: Declared, classes: Sequence[str], label_column: str, sample_columns: Sequence[str],
    cells: Sequence[str], sample: str, mistakes: list[Mistake],
) -> Form:  # fmt: skip
    """The form; where it cannot be known, or is asked for in vain, a mistake besides.

    sample_columns: the sample's answer columns, where it has several. cells: what its one column holds. sample: its
    name; empty where there is none: then there may be a column for each class.
    """
    target, cells = settings.target, sorted({*cells} - {""})
    rule = parse_metric(settings.metric, target, classes)
    guesses = rule.judges == "best" and len(sample_columns) == int(rule.number) and not {*sample_columns} & {*classes}
    per_class = bool(sample_columns) and not guesses
    two = len(classes) == 2 and target in ("class", "ordinal")
    valid: list[Answer] = ["number"] if target == "regression" else ["best"] if guesses else ["label"]
    if valid == ["label"]:
        # on a scale the largest probability is not the answer
        probable = target != "ordinal" or rule.judges not in ("labels", "numbers") if per_class else two or not sample
        if rule.judges == "best" and not per_class:
            valid.append("best")
        if probable:
            valid.append("probability")
    by_metric: Answer = "label"
    if rule.judges in ("probabilities", "best") or (per_class and target == "class"):
        by_metric = "best" if "best" in valid else "probability"
    elif target == "regression":
        by_metric = "number"
    wanted = by_metric if settings.answer == "auto" else settings.answer
    odd = [cell for cell in cells if is_fraction(cell) and cell not in classes]
    unclear = settings.answer == "auto" and two and sample and not per_class and wanted == "label" and odd
    if classes and (wanted not in valid or unclear):
        shape = f"columns {', '.join(sample_columns[:4])}" if sample_columns else f"one column {label_column!r}"
        shape += f" with {odd[0]} in it, which is no class" if unclear else f" for {len(classes)} classes"
        why = f"metric {rule} judges {rule.judges}" if settings.answer == "auto" else f"found {settings.answer}"
        each = [f"competition.answer: {one} (a cell like {_example(one, rule, classes, per_class)})" for one in valid]
        if "probability" not in valid and target != "regression":
            each.append("a sample with a column for each class (cells like 0.71, 0.22, ...: probabilities)")
        found = f"{why}, and {sample} has {shape}"
        mistakes.append(Mistake("competition.answer", found, f"valid: {'; or '.join(each)}", "answers"))
    answer: Answer = wanted if wanted in valid else valid[0]
    if answer == "probability" and not sample and not two:
        per_class, sample_columns = True, tuple(classes)
    single = two and not per_class and not guesses
    rule = replace(rule, hard=answer == "label" and rule.judges in ("probabilities", "best"))
    if single:
        rule = replace(rule, positive=_positive(settings.positive, classes, label_column, mistakes))
    if settings.positive != "auto" and classes and not (single and answer == "probability"):
        found = f"found {settings.positive!r}, and no column holds the probability of one of two classes"
        mistakes.append(Mistake("competition.positive", found, "valid: auto", "answers"))
    form = Form(rule, answer, tuple(sample_columns) or (label_column,), per_class)
    if answer == "best":
        form = replace(form, k=int(rule.number))
    if not sample_columns and (answer == "best" or target == "multilabel"):
        form = replace(form, separator=_separator(settings, classes, cells, form, sample, mistakes))
    return form


def _positive(wanted: str, classes: Sequence[str], column: str, mistakes: list[Mistake]) -> int:
    """The place of the class whose probability stands in the one column; by default of the second, as 1 of 0 and 1."""
    if wanted in classes:
        return classes.index(wanted)
    if wanted != "auto":
        found = f"no class {wanted!r}{nearest(wanted, classes)}"
        mistakes.append(Mistake("competition.positive", found, f"valid: auto, {', '.join(classes)}", "answers"))
    alike = [i for i, name in enumerate(classes) if name.casefold() == column.casefold()]
    return alike[0] if alike else 1


def _separator(
    settings: Declared, classes: Sequence[str], cells: Sequence[str], form: Form, sample: str, mistakes: list[Mistake]
) -> str:
    """What divides several labels or guesses in one cell: what the sample shows, else `competition.label_separator`."""
    own, names = settings.label_separator, set(classes)
    several = [cell for cell in cells if cell not in names]
    shown = [
        by for by in dict.fromkeys((own, *SEPARATORS))
        if any(by in cell for cell in several) and all(names.issuperset(cell.split(by)) for cell in several)
    ]  # fmt: skip
    if not shown and form.k > 1 and several:  # names that are no classes of the training rows, k in each cell
        shown = [by for by in SEPARATORS[:8] if all(len(cell.split(by)) == form.k and
                 all(part.strip() == part != "" for part in cell.split(by)) for cell in several)]  # fmt: skip
    if shown and own not in (*shown, " ") and settings.target != "multilabel":
        found = f"found {own!r}, and {sample} divides by {shown[0]!r}"
        mistakes.append(Mistake("competition.label_separator", found, f"valid: {shown[0]!r}", "answers"))
    free = (own, ";", "|", ",") if not sample and own == " " else (own,)
    separator = shown[0] if shown else next((by for by in free if not any(by in name for name in classes)), own)
    if held := [name for name in classes if separator in name]:
        found = f"class {held[0]!r} holds the {separator!r} that divides the answers of one cell"
        more = f" (and {len(held) - 1:,} more)" if len(held) > 1 else ""
        valid = "valid: competition.label_separator, as the host divides, or classes without it"
        mistakes.append(Mistake("competition.answer", found + more, valid, "answers"))
    return separator


def is_fraction(cell: str) -> bool:
    """Whether a cell is a number between whole ones."""
    value = number(cell)
    return value is not None and value != int(value)


def _example(answer: Answer, rule: Metric, classes: Sequence[str], per_class: bool) -> str:
    if per_class:
        return "0.71, 0.22, ..." if answer == "probability" else "1, 0, ..."
    if answer == "best":
        return f"`{' '.join(classes[: int(rule.number)])}`"
    return {"label": f"`{classes[0]}`", "probability": "`0.7134`", "number": "`3.5`"}[answer]
