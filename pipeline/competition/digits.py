"""The embedded competition: scikit-learn's bundled handwritten digits, laid out as organisers lay out theirs.

In: nothing but scikit-learn's own data (UCI's optical recognition of handwritten digits, 1,797 images of 8x8). Out,
under `root`: `images/NNNN.png` (NNNN = row in `load_digits`, 8-bit grey, pixel = round(value * 255 / 16)),
`train.csv` (1,197 rows), `sample_submission.csv` (600 rows) and `answers.csv`, all with `image_id,label`. No download.
"""

import csv
import os
import shutil
import tempfile
from pathlib import Path

N_TEST = 600
SEED = 20_211  # of the split; another seed is another competition


def write(root: Path) -> None:
    """Makes `root`, whole or not at all; leaves an existing one alone."""
    if root.exists():
        return
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    indices = np.arange(len(pixels))
    train, test = train_test_split(indices, test_size=N_TEST, stratify=digits.target, random_state=SEED)

    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", suffix=".tmp", dir=root.parent))
    try:
        (temporary / "images").mkdir()
        for index in indices:
            Image.fromarray(pixels[index]).save(temporary / "images" / f"{index:04d}.png")
        _write_csv(temporary / "train.csv", sorted(train), digits.target)
        _write_csv(temporary / "answers.csv", sorted(test), digits.target)
        _write_csv(temporary / "sample_submission.csv", sorted(test), np.zeros_like(digits.target))
        temporary.chmod(0o755)
        try:
            os.rename(temporary, root)
        except OSError:
            if not root.exists():  # another process may have made it meanwhile; then its copy stands
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_csv(path: Path, indices, labels) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "label"])
        writer.writerows((f"{index:04d}", int(labels[index])) for index in indices)
