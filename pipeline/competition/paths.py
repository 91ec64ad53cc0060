"""From what a table says to image files: inside the competition's folder, and nowhere else.

Ids and paths are a stranger's words. They may not climb out of the folder, by `..`, an absolute path or a link, and no
folder outside of it is even listed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from pipeline.competition.contract import WHERE, Competition, Row
from pipeline.competition.tables import columns_of
from pipeline.config.data import Declared
from pipeline.config.mistakes import Mistake, nearest, shown
from pipeline.config.settings import ROOT

DATA = "PODIUM_DATA"  # environment variable: a folder that stands in for data/


def root_of(settings: Declared) -> Path:
    """The competition's folder. The embedded one is written by us, so it always lies where the settings say."""
    elsewhere = os.environ.get(DATA, "")
    inside = Path(settings.root)
    if elsewhere and inside.parts[:1] == ("data",) and getattr(settings, "source", "") != "digits":
        return ROOT / elsewhere / Path(*inside.parts[1:])
    return ROOT / inside


def leaves(relative: str) -> bool:
    """Whether a path from the competition's folder leads out of it by its words alone."""
    return "\0" in relative or os.path.isabs(relative) or ".." in relative.replace("\\", "/").split("/")


def is_inside(path: str, real_root: str) -> bool:
    """Whether a path, links resolved, lies under `real_root` (resolved, too)."""
    return os.path.commonpath([os.path.realpath(path), real_root]) == real_root


class Finder:
    """Finds the image of a table's row by path templates; lists each folder at most once."""

    def __init__(self, templates: str | Sequence[str], setting: str, root: Path, trains: bool):
        self.templates = [templates] if isinstance(templates, str) else list(templates)
        self.setting = setting
        self.root = root
        self.trains = trains  # a training row that is wrong may be left out; a test row may not
        self._real_root = os.path.realpath(root)
        self._listed: dict[str, dict[str, list[str]]] = {}  # folder -> name without extension -> names

    def check(self, table: list[Row], mistakes: list[Mistake]) -> bool:
        """Whether each template can work on the table's columns."""
        known = {*columns_of(table), "image_id"}
        good = True
        for template in self.templates:
            try:
                parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
            except ValueError:  # an unbalanced brace
                parts = []
            # plain names only: `{id:04d}` cannot work on strings, and attributes are nobody's business
            if table and (not parts or any(n not in known or spec or convert for n, spec, convert in parts)):
                valid = f"valid: a path with {{column}} in it, of the columns {', '.join(columns_of(table))}"
                mistakes.append(Mistake(self.setting, f"found {template!r}", valid, "path templates"))
                good = False
        return good

    def find(self, row: Row, image_id: str, mistakes: list[Mistake]) -> str:
        """The path of a row's image, empty where its words lead out of the folder; a missing file's path as written."""
        paths: list[str] = []
        for template in self.templates:
            relative = template.format_map({"image_id": image_id, **row})
            if leaves(relative):
                found = f"the path {relative!r} leaves the competition's folder"
                valid = f"valid: a path under {shown(self.root)}"
                mistakes.append(Mistake(row[WHERE], found, valid, "paths out of the folder", image_id * self.trains))
                return ""
            paths.append(os.path.join(self.root, relative))
        if len(paths) == 1 and not paths[0].endswith(".*"):
            return paths[0]
        there = [path for candidate in paths for path in self._expand(candidate)]
        if len(there) > 1:
            found = f"image {image_id!r} is there {len(there)} times ({', '.join(shown(Path(p)) for p in there[:3])})"
            valid, kind = "valid: one file an id", "ambiguous images"
            mistakes.append(Mistake(row[WHERE], found, valid, kind, image_id * self.trains))
        return there[0] if there else paths[0]

    def _expand(self, path: str) -> list[str]:
        """The files that exist under a path, whose extension may be `*`."""
        if not path.endswith(".*"):
            return [path] if os.path.isfile(path) else []
        folder, name = os.path.split(path.removesuffix(".*"))
        if folder not in self._listed:
            self._listed[folder] = by_stem(folder) if is_inside(folder, self._real_root) else {}
        return [os.path.join(folder, found) for found in self._listed[folder].get(name, [])]


def by_stem(folder: str) -> dict[str, list[str]]:
    """File names of a folder by their name without extension; hidden ones (`._mask1.jpg`) are not images."""
    names: dict[str, list[str]] = {}
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return names
    for name in entries:
        if not name.startswith("."):
            names.setdefault(os.path.splitext(name)[0], []).append(name)
    return names


def missing_images(competition: Competition) -> dict[int, Mistake]:
    """Rows (training rows first, then test rows) whose image is no file inside the competition's folder."""
    real_root = os.path.realpath(competition.root)
    real_folders: dict[str, str] = {}
    mistakes: dict[int, Mistake] = {}
    n_train = len(competition.train_rows)
    for i, row in enumerate([*competition.train_rows, *competition.test_rows]):
        path, trained_id = row["path"], row["image_id"] if i < n_train else ""
        folder = os.path.dirname(path)
        real = real_folders.setdefault(folder, os.path.realpath(folder))
        if os.path.islink(path):
            real = os.path.realpath(path)
        if os.path.commonpath([real, real_root]) != real_root:
            found = f"image {row['image_id']!r} is a link to outside the competition's folder"
            valid, kind = f"valid: a file under {shown(competition.root)}", "links out of the folder"
            mistakes[i] = Mistake(row[WHERE], found, valid, kind, trained_id)
        elif not os.path.isfile(path):
            hint = _hint(path) if len(mistakes) < 3 else ""
            found, valid = f"image {row['image_id']!r} is missing{hint}", f"valid: a file {shown(Path(path))}"
            mistakes[i] = Mistake(row[WHERE], found, valid, "missing images", trained_id)
    return mistakes


def _hint(path: str) -> str:
    """Where the image may be instead: no folder, the same name with another ending, a similar name."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return f", and there is no folder {shown(Path(folder))}"
    there = sorted(os.listdir(folder))
    stem = os.path.splitext(name)[0]
    alike = [other for other in there if os.path.splitext(other)[0] == stem]
    if alike:
        return f", but {alike[0]!r} is there: with `.*` for its ending, a path template takes whichever there is"
    return nearest(name, there[:20_000])


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def n_unused(competition: Competition) -> int:
    """Image files in the folders of the competition's images that are none of them: no table speaks of them."""
    used = {row["path"] for row in [*competition.train_rows, *competition.test_rows]}
    n = 0
    for folder in {os.path.dirname(path) for path in used}:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        n += sum(
            os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
            and not name.startswith(".")
            and os.path.join(folder, name) not in used
            for name in names
        )
    return n
