"""What stands in a cell of the submission: decided from metric, target and sample, before anything is trained.

In: settings, classes, the sample's columns and cells. Out: a `Form`, or mistakes. The metric decides: labels for F1,
accuracy and kappa, probabilities for log-loss and areas, the best k for MAP@k and top-k. A placeholder does not: `0`
and `0.5` stand for classes and for probabilities alike. Where metric and sample leave two readings, or none, the user
is asked for `competition.answer`. `answers` writes and reads the cells.
"""

from collections.abc import Sequence
from typing import Literal

from pipeline.competition.contract import Form
from pipeline.competition.kinds import number
from pipeline.config.data import Declared
from pipeline.config.metric import Metric, parse_metric
from pipeline.config.mistakes import Mistake, nearest

Answer = Literal["label", "probability", "best", "number"]
SEPARATORS = (" ", ", ", ",", "; ", ";", " | ", "|", "\t", "/", ":", "+", "-", "_")  # looked for in the sample's cells


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
    k = int(rule.number) if wanted == "best" else 1
    by = "" if target == "regression" else _shown(cells, classes, settings.label_separator, k)
    odd = ""  # what the sample shows and the metric does not judge
    if settings.answer == "auto" and target != "multilabel" and wanted in ("label", "best") and not sample_columns:
        odd = next((f"{cell} in it, which is no class" for cell in cells if two and is_fraction(cell, {*classes})), odd)
        many = [cell for cell in cells if by and len(cell.split(by)) > k]
        odd = f"`{many[0]}` in it, which is more than {k} (competition.metric: map_at_5?)" if many else odd
    if classes and (wanted not in valid or odd):
        shape = f"columns {', '.join(sample_columns[:4])}" if sample_columns else f"one column {label_column!r}"
        shape += f" with {odd}" if odd else f" for {len(classes)} classes"
        why = f"metric {rule} judges {rule.judges}" if settings.answer == "auto" else f"found {settings.answer}"
        each = [f"competition.answer: {one} (a cell like {_example(one, rule, classes, per_class)})" for one in valid]
        if "probability" not in valid and target != "regression":
            each.append("a sample with a column for each class (cells like 0.71, 0.22, ...: probabilities)")
        found = f"{why}, and {sample or 'the submission'} has {shape}"
        mistakes.append(Mistake("competition.answer", found, f"valid: {'; or '.join(each)}", "answers"))
    answer: Answer = wanted if wanted in valid else valid[0]
    if answer == "probability" and not sample and not two:
        per_class, sample_columns = True, tuple(classes)
    single = two and not per_class and not guesses
    hard = answer == "label" and rule.judges in ("probabilities", "best")
    positive = _positive(settings.positive, classes, label_column, mistakes) if single else None
    if settings.positive != "auto" and classes and not (single and answer == "probability"):
        found = f"found {settings.positive!r}, and no column holds the probability of one of two classes"
        mistakes.append(Mistake("competition.positive", found, "valid: auto", "answers"))
    if not sample_columns and (answer == "best" or target == "multilabel"):
        by = _separator(settings, classes, by, sample, mistakes)
    columns = tuple(sample_columns) or (label_column,)
    return Form(answer, columns, per_class, k, by or settings.label_separator, hard, positive)


def _positive(wanted: str, classes: Sequence[str], column: str, mistakes: list[Mistake]) -> int:
    """The place of the class whose probability stands in the one column; by default of the second, as 1 of 0 and 1."""
    if wanted in classes:
        return classes.index(wanted)
    if wanted != "auto":
        found = f"no class {wanted!r}{nearest(wanted, classes)}"
        mistakes.append(Mistake("competition.positive", found, f"valid: auto, {', '.join(classes)}", "answers"))
    alike = [i for i, name in enumerate(classes) if name.casefold() == column.casefold()]
    return alike[0] if alike else 1


def _shown(cells: Sequence[str], classes: Sequence[str], own: str, k: int) -> str:
    """What divides several classes in the sample's cells; empty where none names several.

    own: what may divide besides the usual. k: so many names in each cell are told by that, if they are no classes of
    the training rows.
    """
    names = set(classes)
    several = [cell for cell in cells if cell not in names]
    for by in dict.fromkeys((own, *SEPARATORS)):
        if any(by in cell for cell in several) and all(names.issuperset(cell.split(by)) for cell in several):
            return by
    for by in SEPARATORS[:8] if k > 1 and several else ():
        parts = [cell.split(by) for cell in several]
        if all(len(row) == k and all(part and part == part.strip() for part in row) for row in parts):
            return by
    return ""


def _separator(
    settings: Declared, classes: Sequence[str], shown: str, sample: str, mistakes: list[Mistake]
) -> str:  # fmt: skip
    """What divides several labels or guesses in one cell: what the sample shows, else `competition.label_separator`."""
    own = settings.label_separator
    if shown not in ("", own) and own != " " and settings.target != "multilabel":
        found = f"found {own!r}, and {sample} divides by {shown!r}"
        mistakes.append(Mistake("competition.label_separator", found, f"valid: {shown!r}", "answers"))
    free = (own, ";", "|", ",") if not sample and own == " " else (own,)
    separator = shown or next((by for by in free if not any(by in name for name in classes)), own)
    if held := [name for name in classes if separator in name]:
        found = f"class {held[0]!r} holds the {separator!r} that divides the answers of one cell"
        more = f" (and {len(held) - 1:,} more)" if len(held) > 1 else ""
        valid = "valid: competition.label_separator, as the host divides, or classes without it"
        mistakes.append(Mistake("competition.answer", found + more, valid, "answers"))
    return separator


def is_fraction(cell: str, classes: set[str]) -> bool:
    """Whether a cell is a number between whole ones, and no class: no type of labels follows from it."""
    value = number(cell)
    return value is not None and value != int(value) and cell not in classes


def _example(answer: Answer, rule: Metric, classes: Sequence[str], per_class: bool) -> str:
    if per_class:
        return "0.71, 0.22, ..." if answer == "probability" else "1, 0, ..."
    if answer == "best":
        return f"`{' '.join(classes[: int(rule.number)])}`"
    return {"label": f"`{classes[0]}`", "probability": "`0.7134`", "number": "`3.5`"}[answer]
