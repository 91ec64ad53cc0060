"""From what a source found in the organisers' files to the `Competition`: labels, groups, fixes, classes, checks.

In: training and test rows with id and path, as the source read them. Out: the contract, with every mistake. What is
the same for all sources is here, once; what their files look like is the sources' business.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.competition.classes import check_columns, label_texts, read_classes
from pipeline.competition.contract import RAW, WHERE, Competition, Row
from pipeline.competition.form import form_of, is_fraction
from pipeline.competition.grouping import MISSING
from pipeline.competition.kinds import read_numbers, split_labels
from pipeline.competition.labels import Scheme, scheme
from pipeline.competition.tables import read_table
from pipeline.config.data import Declared
from pipeline.config.mistakes import Mistake, nearest, shown
from pipeline.config.settings import ROOT


@dataclass(frozen=True)
class Item:
    """One image: the table's own row, and what of it is the contract's."""

    raw: Row
    image_id: str
    path: str  # empty where it would lead out of the folder
    label: str = ""  # not read where the label has parts
    group: str = ""


@dataclass
class Found:
    """What a source found. sample: the sample submission's rows, in order; empty where there is none."""

    root: Path
    train_place: str  # the table or folder of the training rows, for messages
    train: list[Item]
    test: list[Item]
    has_groups: bool = False
    sample: list[Row] = field(default_factory=list)
    sample_columns: tuple[str, str] = ("image_id", "label")
    sample_classes: tuple[str, ...] = ()  # its further columns, where it has one for each class
    sample_csv: Path | None = None
    label_column: str = "label"
    notes: list[Mistake] = field(default_factory=list)


def assemble(settings: Declared, found: Found, mistakes: list[Mistake]) -> Competition:
    """The contract. mistakes: those of the source; all further ones are added to it."""
    parts = scheme(settings, mistakes) if settings.parts else None
    fixes = _read_fixes(settings, found, mistakes)
    left_out = {(item.raw[WHERE], item.image_id) for item in found.train if fixes.get(item.image_id) == ""}
    mistakes[:] = [mistake for mistake in mistakes if (mistake.where, mistake.image_id) not in left_out]
    readable = parts is None or parts.class_of  # a formula that is wrong is told once, not at every row
    kept = [item for item in found.train if item.path and (item.raw[WHERE], item.image_id) not in left_out]
    train = [_train_row(item, parts, mistakes) for item in kept if readable]
    for row in train:
        if label := fixes.get(row["image_id"]):
            if parts:
                parts.set_label(row, label)
            row["label"] = label
    if settings.target == "multilabel":
        split_labels(train, settings.label_separator)
    if settings.target == "regression":
        classes = read_numbers(train, found.train_place, mistakes)
    else:
        classes = read_classes(train, settings, found, parts.classes if parts else (), mistakes)
    _add_groups(train, found, settings, mistakes)
    _note_alike("classes", classes, found)
    _note_alike("groups", {row["group"] for row in train if row.get("group")}, found)
    test = [{**item.raw, "image_id": item.image_id, "path": item.path} for item in found.test if item.path]
    label_column = found.sample_columns[1]
    placeholders = [row.get(label_column, "") for row in found.sample]
    sample_name = shown(found.sample_csv) if found.sample_csv else ""
    texts = classes
    form = form_of(settings, classes, label_column, found.sample_classes, placeholders, sample_name, mistakes)
    if found.sample_classes and form.answer != "best":
        check_columns(classes, train, found, settings, sample_name, mistakes)
    elif settings.target != "regression" and form.answer in ("label", "best"):
        names, several = set(classes), settings.target == "multilabel" or form.answer == "best"
        words = [word for cell in placeholders for word in (cell.split(form.separator) if several else [cell])]
        words = [word for word in words if not is_fraction(word, names)]  # 0.5 is no label
        texts = label_texts(classes, words, sample_name, label_column, [] if several else mistakes)
    for row in test:
        for column in (label_column, *found.sample_classes):
            row.pop(column, None)  # the sample's placeholder is not a prediction
    trained_on = {row["path"]: row[WHERE] for row in train}
    for row in test:
        if row["path"] in trained_on:
            told = f"test image {row['image_id']!r} is a training image too ({trained_on[row['path']]})"
            mistakes.append(Mistake(row[WHERE], told, "valid: an image on one side only", "images in train and test"))
    return Competition(
        name=settings.name,
        target=settings.target,
        metric=settings.metric,
        classes=classes,
        has_groups=found.has_groups or settings.group_pattern != "none",
        train_rows=train,
        test_rows=test,
        sample_columns=found.sample_columns,
        sample_csv=found.sample_csv,
        label_texts=texts,
        mistakes=mistakes,
        notes=found.notes,
        parts={name: part.values for name, part in settings.parts.items()},
        class_means=parts.means(classes) if parts else (),
        root=found.root,
        separator=settings.label_separator,
        form=form,
    )


def _note_alike(what: str, names: Iterable[str], found: Found) -> None:
    """Names that differ by blanks or case alone are most often one."""
    first: dict[str, str] = {}
    for name in sorted(names):
        other = first.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            told = f"{what} {other!r} and {name!r} differ by blanks or case alone"
            found.notes.append(Mistake(found.train_place, told, "If they are one, mend the table.", f"alike {what}"))


def _train_row(item: Item, parts: Scheme | None, mistakes: list[Mistake]) -> Row:
    contract = {"image_id": item.image_id, "path": item.path, "label": item.label, "group": item.group}
    if parts:
        contract |= parts.read(item.raw, item.image_id, mistakes)
    raw = {RAW + k: item.raw[k] for k in ("group", "path") if k in item.raw and item.raw[k] != contract[k]}
    return {**item.raw, **raw, **contract}


def _read_fixes(settings: Declared, found: Found, mistakes: list[Mistake]) -> dict[str, str]:
    """Id to new label, empty to leave the row out: the user's corrections, beside the organisers' untouched files."""
    if settings.fixes_csv == "none":
        return {}
    path = ROOT / settings.fixes_csv
    rows = read_table(path, "competition.fixes_csv", ["image_id", "label"], mistakes, "the repository")
    known = {item.image_id for item in found.train}
    fixes: dict[str, str] = {}
    for row in rows:
        image_id = row["image_id"]
        if image_id not in known:
            hint = nearest(image_id, known) if len(mistakes) < 10 else ""
            valid = f"valid: an id of {found.train_place}"
            mistakes.append(Mistake(row[WHERE], f"no training image {image_id!r}{hint}", valid, "fixes"))
        elif fixes.setdefault(image_id, row["label"]) != row["label"]:
            told = f"another label for {image_id!r} than before"
            mistakes.append(Mistake(row[WHERE], told, "valid: one label an image, or none to leave it out", "fixes"))
    return fixes


def _add_groups(train: list[Row], found: Found, settings: Declared, mistakes: list[Mistake]) -> None:
    """The group by pattern or column; empty for a row that has none, of which a note tells; without groups no key."""
    pattern, missing = None, Counter[str]()
    if settings.group_pattern != "none":
        try:
            pattern = re.compile(settings.group_pattern)
        except re.error as error:
            valid = "valid: a regular expression whose first (...) is the group, e.g. ^([^_]+)_"
            told = f"{settings.group_pattern!r}: {error}"
            mistakes.append(Mistake("competition.group_pattern", told, valid, "group pattern"))
            return
    for row in train:
        if pattern:
            match = pattern.search(row["image_id"])
            row["group"] = "" if not match else match[1] or "" if pattern.groups else match[0]
            if not match:
                told = f"the id {row['image_id']!r} has no group by {settings.group_pattern}"
                valid = "valid: ids that competition.group_pattern matches; (...|) lets a row have no group"
                mistakes.append(Mistake(row[WHERE], told, valid, "empty groups", row["image_id"]))
                continue
        elif not found.has_groups:
            del row["group"]
        text = row.get("group", "-").strip()
        if not text or (text in MISSING and not pattern):
            missing[text or "empty"] += 1
            row["group"] = ""
    if missing and missing.total() == len(train):
        valid = "valid: a column that names groups, or competition.group_column=none"
        mistakes.append(Mistake(found.train_place, "no row has a group", valid, "groups"))
    elif missing:
        cells = ", ".join(f"{n:,} {text}" for text, n in missing.most_common())
        told = f"{missing.total():,} of {len(train):,} rows have no group ({cells}); each counts as a group by itself"
        do = "Images that belong together may be on both sides."
        found.notes.append(Mistake(found.train_place, told, do, "rows without a group"))
