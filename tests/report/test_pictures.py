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
