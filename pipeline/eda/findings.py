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
    level: str,
    title: str,
    seen: str,
    do: str = "",
    setting: str = "",
    n: int = 0,
    shown: Iterable = (),
    of: Any = None,
    all_in: str = "",
) -> Finding:
    """shown: rows, or tuples of rows that belong side by side; of: the `Seen` that names them; all_in: a file."""
    sets = [members if isinstance(members, tuple) else (int(members),) for members in list(shown)[:SHOWN]]
    images = [[of.key(i) for i in members[:4]] for members in sets]
    captions = [[of.caption(i) for i in members[:4]] for members in sets]
    words = {"level": level, "title": title, "seen": seen, "do": do, "setting": setting, "n": n, "all_in": all_in}
    return words | {"images": images, "captions": captions}


def _conflicting(seen: Seen) -> Iterator[Finding]:
    if sets := seen.conflicting_copies:
        title = f"{_n(len(sets), 'set')} of copies with different labels"
        told = "The same picture, or a copy of it, has several labels, and the model learns from all of them."
        do = (
            "Look at them. Where a label is wrong, a table of fixes gives the right one (or none: the row is left out)."
        )
        setting = "competition.fixes_csv: experiments/NAME-fixes.csv"
        yield _finding("warning", title, told, do, setting, len(sets), sets, seen, "duplicates.json")


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
    exact, copies = seen.of_train(seen.exact), seen.of_train(seen.copies)
    remedy = "Nothing, if you keep the default: folds keep each set on one side."
    keeps, all_in = "folds.duplicates: together", "duplicates.json"
    if exact:
        over = _over_groups(seen, exact)[1]
        title = f"{_n(len(exact), 'picture')} in several training rows"
        told = f"{sum(map(len, exact)):,} rows show {_n(len(exact), 'picture')}, the same to the pixel{over}."
        yield _finding("warning", title, told, remedy, keeps, len(exact), exact, seen, all_in)
    if copies:
        between, over = _over_groups(seen, copies)
        title = f"{_n(len(copies), 'set')} of copies in the training set"
        told = (
            f"{sum(map(len, copies)):,} rows. The pictures of a set are much nearer to each other than to all others: "
        )
        told += (
            f"resized, re-encoded, retouched, cropped, moved, mirrored or turned copies, or shots of one moment{over}."
        )
        shown = [*between, *(members for members in copies if members not in set(between))]
        level = "warning" if between else "note"
        yield _finding(level, title, told, remedy, keeps, len(copies), shown, seen, all_in)
    if not exact and not copies:
        yield _finding("good", "No copies in the training set", "Neither equal pixels nor changed copies.")


def _over_groups(seen: Seen, sets: list[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], str]:
    """The sets that no declared group holds together, and what to say about them."""
    between = [rows for rows in sets if any(seen.apart(rows[0], other) for other in rows[1:])]
    if not seen.competition.has_groups:
        return between, ""
    n = len(between)
    told = f"; {_n(n, 'set')} {'reaches' if n == 1 else 'reach'} over declared groups, which folds would have split"
    return between, told if n else "; all of them inside declared groups"


def _across(seen: Seen) -> Iterator[Finding]:
    if not (across := seen.across):
        return
    n, n_test, equal = len(across), len(seen.test), sum(is_exact for *_, is_exact in across)
    title = f"{_n(n, 'test image')} also in the training set"
    told = f"{n:,} of {n_test:,} test rows ({n / n_test:.1%}): {equal:,} with the same pixels as a training row, "
    told += (
        f"{n - equal:,} copies. A model may answer these from memory. Cross-validation has no such rows, since folds "
    )
    told += (
        "keep copies on one side. So the leaderboard may come out higher than cross-validation by up to this share, "
    )
    told += "where these rows count and the labels agree; new images would not."
    do = "Nothing to set; know it when the leaderboard looks better than cross-validation."
    yield _finding("warning", title, told, do, "", n, [pair[:2] for pair in across], seen, "duplicates.json")


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
