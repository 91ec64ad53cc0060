"""The page of the first look: self-contained, readable by a parser, and harmless whatever the data are called."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pipeline.report.eda_page import findings_lines, render, thumbnails_wanted, write_eda

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "x" * 300,
    "שלום",
    "口罩",
    "a\u202eb",
    "$x^2$",
]


class Reader(HTMLParser):
    """Elements that are open, all tags, and every attribute that could fetch or run something."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.fetched, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [
            value
            for name, value in attrs
            if name in ("src", "href", "xlink:href", "srcset") and not (value or "").startswith(("#", "data:image/"))
        ]
        self.fetched += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def histogram(n: int = 24) -> dict:
    return {"edges": list(range(n + 1)), "counts": list(range(n)), "low": 0.0, "median": 3.0, "high": 24.0}


def side(n: int) -> dict:
    nothing = {"edges": [], "counts": [], "low": 0.0, "median": 0.0, "high": 0.0}
    shared = {
        "n": n,
        "sizes": {"20x30": n} if n else {},
        "n_sizes": 1,
        "modes": {"RGB": n} if n else {},
        "formats": {"JPEG": n} if n else {},
    }
    channels = {"mean": [0.1, 0.2, 0.3] if n else [], "std": [0.1, 0.2, 0.3] if n else []}
    return {
        **shared,
        **channels,
        **{
            k: histogram() if n else nothing
            for k in ("width", "height", "aspect", "brightness", "contrast", "sharpness")
        },
    }


def findings(names: list[str], n_test: int = 20, parts: bool = True) -> dict:
    shown = [[f"train:{names[0]}", f"train:{names[1]}"]]
    told = {
        "title": f"copies of {names[0]}",
        "seen": f"seen {names[1]}",
        "do": "look",
        "setting": f"k: {names[0]}",
        "all_in": "duplicates.json",
        "n": 30,
    }
    found = [
        {"level": level, **told, "images": shown, "captions": [[f"{names[0]}, 3", "b"]]}
        for level in ("warning", "note", "good")
    ]
    joint = {
        "rows": names[0],
        "columns": "y",
        "row_values": names[:2],
        "column_values": ["u", "v"],
        "counts": [[1, 2], [3, 4]],
    }
    no_shift = {
        "auc": 0.6,
        "low": 0.5,
        "high": 0.7,
        "null_low": 0.4,
        "null_high": 0.6,
        "features": [["colour", 0.3]],
        "why_not": "",
    }
    return {
        "name": names[0], "metric": "macro_f1", "n_train": 100, "n_test": n_test, "n_classes": len(names), "n_groups": 10,
        "imbalance_ratio": 3.5, "classes": [{"name": n, "means": f"{n}, old", "n": i + 1, "share": 0.1} for i, n in enumerate(names)],
        "parts": [], "joint": [joint] if parts else [], "group_sizes": {str(s): 3 for s in range(1, 30)},
        "images": {"train": side(100), "test": side(n_test)},
        "duplicates": {"exact_sets": 1, "exact_rows": 2, "copy_sets": 2, "copy_rows": 5, "across_train_test": 0, "conflicting": 1},
        "shift": no_shift | {"verdict": "alike" if n_test else "not measured"},
        "possible_groups": [{"what": f"column {names[0]}", "n_groups": 5, "mean_size": 2.0, "auc": 0.7, "low": 0.6, "high": 0.8, "setting": "s"}],
        "findings": found, "samples": [{"class": n, "images": [f"train:{n}"]} for n in names],
    }  # fmt: skip


def thumbnails(data: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(60, 80, 3), (80, 60, 1), (8, 8, 1)]
    return {key: rng.integers(0, 255, shapes[i % 3], dtype=np.uint8) for i, key in enumerate(thumbnails_wanted(data))}


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize(
    "names", [HOSTILE, ["a", "b"], [f"class {n}" for n in range(1000)]], ids=["hostile", "two", "thousand"]
)
@pytest.mark.parametrize("n_test", [0, 20])
def test_the_page_is_whole_self_contained_and_shows_everything(names, n_test, tmp_path):
    data = findings(names, n_test, parts=n_test > 0)
    paths = write_eda(data, thumbnails(data), tmp_path)
    page = (tmp_path / "eda.html").read_text()
    reader = read(page)
    assert reader.fetched == [] and "script" not in reader.tags and "http" not in page
    assert page.count("data:image/") >= len(thumbnails_wanted(data))
    text = "".join(reader.words)
    for name in names[:40]:
        assert name in text, name  # as it is, and as text
    assert ("Train and test" in text) == bool(n_test)
    assert len(page) < 3_000_000
    for path in paths:
        assert path.stat().st_size > 500
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert len(image.convert("RGB").getcolors(1 << 24)) > 10 and image.width <= 1400


def test_headings_come_in_order_and_pictures_have_words():
    data = findings(["a", "b"])
    page = render(data, thumbnails(data))
    levels = [int(tag[1]) for tag in read(page).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert all('alt="' in tag for tag in re.findall("<img[^>]*>", page))
    assert 'lang="en"' in page and "width=device-width" in page and "prefers-color-scheme: dark" in page


def test_a_finding_says_what_to_do_and_which_setting_does_it():
    data = findings(["a", "b"])
    text = "".join(read(render(data, thumbnails(data))).words)
    assert "What to do. look" in text and "k: a" in text and "1 of 30 shown; all are in duplicates.json." in text
    lines = findings_lines(data)
    assert lines[:2] == ["warning: copies of a", "  -> look [k: a]"] and len(lines) == 4


def test_histograms_are_the_counts():
    data = findings(["a", "b"])
    heights = [float(h) for h in re.findall(r'class="train"[^>]*height="([\d.]+)"', render(data, thumbnails(data)))][
        :24
    ]
    assert heights == pytest.approx([76 * n / 23 for n in range(24)], abs=0.06)
