"""A training's pictures: drawn without a warning, whatever the classes are called."""

import numpy as np
from PIL import Image

from pipeline.report.pictures import confusion, plain


def test_classes_in_any_script_are_drawn_without_a_warning(tmp_path):
    classes = ["口罩", "$x^2$", "a" * 80, "<b>"]
    confusion(np.array([0, 1, 2, 3, 0]), np.array([0, 1, 2, 3, 1]), classes, tmp_path / "c.png")  # warnings are errors
    with Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 200
    assert [plain(name, i, 10) for i, name in enumerate(classes)] == ["#0", "$x^2$", "aaaaaaaaa…", "<b>"]


def test_thousands_of_classes_are_drawn_by_those_that_are_mixed_up(tmp_path, monkeypatch):
    """By their true counts: of 5,000 classes two are mixed up, in 3 of 10 rows of one of them."""
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, table, **_: drawn.append((table, axes)))
    monkeypatch.setattr("pipeline.report.pictures.save", lambda figure, path: None)
    targets = np.repeat(np.arange(5000), 2)
    answers = targets.copy()
    targets, answers = np.append(targets, [4000] * 8), np.append(answers, [17] * 3 + [4000] * 5)
    confusion(targets, answers, [f"c{i}" for i in range(5000)], tmp_path / "c.png")
    [(table, axes)] = drawn
    assert table.shape == (60, 60) and "60 classes of 5,000" in axes.get_title()
    names = [label.get_text() for label in axes.get_yticklabels()]
    row, column = names.index("c4000"), names.index("c17")
    assert table[row, column] == 0.3 and table[row, row] == 0.7 and table[column, column] == 1
