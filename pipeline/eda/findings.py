"""What the first look comes to, in words: each finding says what was seen, what to do, and which setting does it.

In: `Seen`. Out: a list of plain dicts, the gravest first, for `findings.json` and the
page. A finding that needs no action is a `note`, and what is in order is said once as `good`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.competition.contract import labels_of
from pipeline.competition.paths import n_unused
from pipeline.eda.duplicates import MIN_SIDE
from pipeline.eda.pictures import text
from pipeline.eda.seen import Seen
from pipeline.eda.shortcuts import in_words

SHOWN = 12
LEVELS = ("error", "warning", "note", "good")
SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "BMP": {".bmp", ".dib"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}
Finding = dict[str, Any]


def findings(seen: Seen) -> list[Finding]:
    """All of them, the gravest first."""
    rooms = (
        _conflicting,
        _groups,
        _shortcuts,
        _duplicates,
        _across,
        _contradictions,
        _shift,
        _imbalance,
        _outliers,
        _files,
        _sizes,
    )
    found = [finding for room in rooms for finding in room(seen)]
    found += _notes(seen)
    if not any(finding["level"] in ("error", "warning") for finding in found):
        found.append(_finding("good", "Nothing here that costs points", "No finding is graver than a note."))
    return sorted(found, key=lambda finding: LEVELS.index(finding["level"]))


def _finding(
    level: str, title: str, seen: str, do: str = "", setting: str = "", n: int = 0, shown: Iterable = (), of: Any = None
) -> Finding:
    """shown: rows, or tuples of rows that belong side by side; of: the `Seen` that names them."""
    sets = [members if isinstance(members, tuple) else (int(members),) for members in list(shown)[:SHOWN]]
    images = [[of.key(i) for i in members[:4]] for members in sets]
    captions = [[of.caption(i) for i in members[:4]] for members in sets]
    words = {"level": level, "title": title, "seen": seen, "do": do, "setting": setting, "n": n}
    return words | {"images": images, "captions": captions}


def _conflicting(seen: Seen) -> Iterator[Finding]:
    if copies := seen.conflicting_copies:
        yield _finding(
            "warning",
            f"{_n(len(copies), 'set')} of copies with different labels",
            "The same picture, or nearly, bears two labels: at least one is wrong, and the model learns from both.",
            "Look at them, and give each its right label (or none, which leaves the row out) in a table of fixes.",
            "competition.fixes_csv: experiments/NAME-fixes.csv",
            len(copies),
            copies,
            seen,
        )


def _groups(seen: Seen) -> Iterator[Finding]:
    for group in seen.possible_groups[:3]:
        yield _finding(
            "warning",
            f"A forgotten group? {group['what'][0].upper()}{group['what'][1:]}",
            f"{group['n_groups']:,} values of {group['mean_size']} images each. Two images of one value look more "
            f"alike than two of the same class from different ones in {group['auc']:.0%} of cases (interval "
            f"{group['low']:.0%} to {group['high']:.0%}; 50 % would be chance). Folds that split such a group promise "
            "a score that the leaderboard will not keep.",
            "Declare it, unless you know that it means nothing.",
            group["setting"],
            group["n_groups"],
        )


def _shortcuts(seen: Seen) -> Iterator[Finding]:
    words = [in_words(found) for found in seen.shortcuts]
    yield from (_finding(*found) for found in words if found[0])
    if words and not any(level for level, *_ in words):
        told = " ".join(found[2] for found in words)
        yield _finding("good", "Facts of the files do not tell the label", told)


def _duplicates(seen: Seen) -> Iterator[Finding]:
    n = len(seen.train)
    grouped = seen.competition.has_groups
    exact = [tuple(i for i in members if i < n) for members in seen.exact]
    exact = [members for members in exact if len(members) > 1]
    remedy = "Nothing, if you keep the default: folds keep them on one side."
    if exact:
        n_apart = sum(any(seen.apart(members[0], other) for other in members[1:]) for members in exact)
        over = f"; {n_apart:,} of them reach over declared groups" if grouped else ""
        title = f"{_n(len(exact), 'set')} of identical training images"
        told = f"{sum(map(len, exact)):,} rows hold the same pixels as another row{over}."
        yield _finding("warning", title, told, remedy, "folds.duplicates: together", len(exact), exact, seen)
    near = [(pair.a, pair.b) for pair in seen.near if pair.b < n]
    if seen.heap:
        title = f"{seen.heap:,} look-alikes, too many to be copies"
        told = "They hang together by pairs that look nearly the same, so they are alike by nature, and folds do not "
        told += "keep them together. Other near-duplicates are not touched by this."
        do = "Look at a few. If they are copies after all, declare a group, or ask for more likeness."
        yield _finding("warning", title, told, do, "eda.near_correlation: 0.98", seen.heap)
    if near:
        between = [pair for pair in near if seen.apart(*pair)]
        over = ""
        if grouped:
            over = f"; {len(between):,} of them reach over declared groups, which folds would have split"
            over = over if between else "; all of them inside declared groups"
        turned = sum(bool(pair.turned) for pair in seen.near if pair.b < n)
        level = "warning" if between else "note"
        title = f"{_n(len(near), 'pair')} of near-duplicates in the training set"
        told = f"Resized, re-encoded, retouched, mirrored or turned copies ({turned:,} turned or mirrored){over}."
        first = [*between, *(pair for pair in near if pair not in set(between))]
        yield _finding(level, title, told, remedy, "folds.duplicates: together", len(near), first, seen)
    if not seen.compared:
        title = "Near-duplicates were not looked for"
        told = f"Most images are smaller than {MIN_SIDE} px, where copies and look-alikes cannot be told apart."
        yield _finding("note", title, told, "Declare groups, if you know of any.", "competition.group_column")
    elif not exact and not near:
        yield _finding("good", "No duplicates in the training set", "Neither equal pixels nor near-duplicates.")


def _across(seen: Seen) -> Iterator[Finding]:
    if across := seen.across:
        yield _finding(
            "warning",
            f"{_n(len(across), 'test image')} also in the training set",
            "Copies of training images stand in the test set; the model has seen their answers. The leaderboard "
            "flatters by these rows, and cross-validation does not.",
            "Nothing to set; know it when the leaderboard looks better than cross-validation.",
            "",
            len(across),
            across,
            seen,
        )


def _contradictions(seen: Seen) -> Iterator[Finding]:
    if not seen.conflicts:
        return
    index = {row["image_id"]: i for i, row in enumerate(seen.competition.train_rows)}
    words, shown = [], []
    for conflict in seen.conflicts:
        counts = ", ".join(f"{value} x{n}" for value, n in conflict["counts"].items())
        words.append(f"{conflict['what']} of group {conflict['group']}: {counts}")
        rarest = min(conflict["counts"], key=conflict["counts"].get)
        shown.append((index[conflict["ids"][rarest][0]],))
    title = f"{_n(len(seen.conflicts), 'group')} whose labels contradict each other"
    told = "In nearly all groups this never varies: " + "; ".join(words[:6]) + ("; ..." if len(words) > 6 else ".")
    do = "Look, and give the odd ones their right label in a table of fixes."
    setting = "competition.fixes_csv: experiments/NAME-fixes.csv"
    yield _finding("warning", title, told, do, setting, len(seen.conflicts), shown, seen)


def _shift(seen: Seen) -> Iterator[Finding]:
    shift = seen.shift
    if shift["verdict"] == "not measured":
        return
    told = (
        f"A classifier tells test images from training images with an AUC of {shift['auc']:.3f} ({shift['low']:.3f} to "
    )
    told += f"{shift['high']:.3f}); between two parts of the training set it reaches {shift['null_low']:.3f} to "
    told += f"{shift['null_high']:.3f}."
    if shift["verdict"] == "alike":
        yield _finding("good", "The test set is like the training set", told)
        return
    told += f" It goes by {', '.join(name for name, _ in shift['features'][:3])}."
    do = (
        "Look at samples of both. Augmentation that covers the difference helps; expect the leaderboard to differ from "
    )
    do += "cross-validation, and trust differences between runs more than the score itself."
    yield _finding("warning", "The test set differs from the training set", told, do, "augment", 0)


def _imbalance(seen: Seen) -> Iterator[Finding]:
    every = Counter(label for row in seen.competition.train_rows for label in labels_of(row))
    counts = {name: every[name] for name in seen.competition.classes}
    present = {name: n for name, n in counts.items() if n}
    if not present:
        return
    rare, common = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
    ratio = present[common] / present[rare]
    if ratio >= 3:
        told = f"Class {common} has {present[common]:,} images, class {rare} {present[rare]:,}: {ratio:.0f} to 1."
        if seen.competition.metric.startswith("macro_f"):
            told += " Macro F1 counts each class the same, so a handful of images of the rare class moves the score."
        do = "Folds keep the shares; compare runs by their intervals, which are wide for this reason."
        yield _finding(
            "note", f"Classes are unequal, {ratio:.0f} to 1", told, do, "folds.stratify: [class]", len(present)
        )


def _outliers(seen: Seen) -> Iterator[Finding]:
    words = {
        "dark": "nearly black",
        "bright": "nearly white",
        "flat": "of one colour",
        "blurred": "much less sharp than the rest",
    }
    for kind, rows in seen.outliers.items():
        n_train = int((rows < len(seen.train)).sum())
        told = f"{n_train:,} in the training set, {len(rows) - n_train:,} in the test set."
        do = "Look; what shows nothing may be left out by a table of fixes (image_id and an empty label)."
        setting = "competition.fixes_csv: experiments/NAME-fixes.csv"
        title = f"{_n(len(rows), 'image')} {words[kind]}"
        yield _finding("note", title, told, do, setting, len(rows), rows.tolist(), seen)


def _files(seen: Seen) -> Iterator[Finding]:
    """What is unusual in the files and how it is read."""
    facts = seen.facts
    formats, modes = text(facts["format"]), text(facts["mode"])
    suffixes = [Path(row["path"]).suffix.lower() for row in seen.rows]
    misnamed = [i for i, kind in enumerate(formats) if suffixes[i] and suffixes[i] not in SUFFIXES.get(kind, ())]
    cases: list[tuple[Sequence[int], str, str, str]] = [
        (misnamed, "with another format than their name says", "They are read by content, not by name.", ""),
        (_where(facts["orientation"] > 1), "turned by EXIF", "They are turned upright before anything else.", ""),
        (_where(facts["frames"] > 1), "with several frames", "Only the first frame is used.", ""),
        (
            _where(facts["bits"] > 8),
            "of 16 bits",
            "Scaled to 8 bits; where only the low bits are used, they look dark.",
            "",
        ),
        (_where(facts["has_alpha"]), "with transparency", "Laid on white.", ""),
        ([i for i, mode in enumerate(modes) if mode == "CMYK"], "in CMYK", "Converted to RGB.", ""),
        ([i for i, mode in enumerate(modes) if mode in ("P", "PA")], "with a palette", "Looked up, to RGB.", ""),
    ]
    grey = [i for i, mode in enumerate(modes) if mode in ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")]
    if 0 < len(grey) < len(modes):
        told = "Some images are grey and others in colour; where that goes with the class or with train and test, the "
        cases.append(
            (grey, "grey among coloured ones", told + "model learns it.", "images.mode: L makes all of them grey")
        )
    for rows, what, told, setting in cases:
        if len(rows):
            do = "Nothing is needed." if not setting else "Decide whether colour is part of the question."
            yield _finding("note", f"{_n(len(rows), 'image')} {what}", told, do, setting, len(rows), rows, seen)


def _sizes(seen: Seen) -> Iterator[Finding]:
    sides = np.minimum(seen.facts["width"], seen.facts["height"])
    if not len(sides):
        return
    small = float((sides < seen.px / 2).mean())
    if small > 0.2:
        told = f"{small:.0%} have a short side below {seen.px // 2} px (median {np.median(sides):.0f}), and the model "
        told += f"sees {seen.px} px: enlarging costs time and adds nothing."
        do = "Try a smaller input."
        yield _finding(
            "note", "Images are smaller than the model's input", told, do, "images.px", int(small * len(sides))
        )
    aspect = np.maximum(seen.facts["width"], seen.facts["height"]) / sides
    long = _where(aspect > 2)
    if len(long):
        told = "The centre square is what the model sees; of these more than half lies outside it."
        do = "Look whether what matters is in the middle."
        title = f"{_n(len(long), 'image')} more than twice as long as wide"
        yield _finding("note", title, told, do, "images.crop", len(long), long, seen)


def _notes(seen: Seen) -> Iterator[Finding]:
    """What the source has to say that is no mistake."""
    by_kind: dict[str, list] = {}
    for note in seen.competition.notes:
        by_kind.setdefault(note.kind, []).append(note)
    for kind, notes in by_kind.items():
        told = "; ".join(f"{note.where}: {note.found}" for note in notes[:6]) + ("; ..." if len(notes) > 6 else "")
        yield _finding("note", f"{kind[0].upper()}{kind[1:]}: {len(notes):,}", told, notes[0].valid, "", len(notes))
    if not seen.competition.is_excerpt and (n := n_unused(seen.competition)):
        told = "They lie beside the competition's images, and no row of a table names them."
        do = "Nothing is needed, if the organisers meant it so."
        yield _finding("note", f"{_n(n, 'image file')} in no table", told, do, "", n)


def _where(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
