"""What takes how long at n and at 2n: rows, classes, columns, keys, groups. Twice the size may take twice the time.

    .venv/bin/python benchmarks/squares.py [NAME ...]

One thread, no training. `4.0 times` would be time that grows with the square.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition.contract import WHERE, Competition
from pipeline.competition.grouping import merged_groups, units
from pipeline.competition.paths import missing_images
from pipeline.competition.tables import read_table
from pipeline.config.data import Folds
from pipeline.config.load import load
from pipeline.config.mistakes import Mistakes
from pipeline.ensemble.bias import fit_bias
from pipeline.folds.audit import audit_folds, audit_lines
from pipeline.folds.split import make_folds
from pipeline.metrics import bootstrap_interval
from pipeline.report.pictures import confusion

SCRATCH = Path(tempfile.mkdtemp())
EXPERIMENT = Path("experiments/digits.yaml").read_text()


def probs(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(targets, (N, C) float32) of a model that is right in about half of the rows."""
    rng = np.random.default_rng(0)
    targets = rng.integers(n_classes, size=n)
    outputs = rng.random((n, n_classes), np.float32)
    outputs[np.arange(n), targets] += 0.5
    return targets, outputs / outputs.sum(axis=1, keepdims=True)


def competition(n: int, n_classes: int, n_groups: int = 0) -> Competition:
    rows = [{"image_id": f"i{i:06d}", "path": f"{SCRATCH}/i{i:06d}.png", WHERE: f"t:{i}", "label": f"c{i % n_classes}",
             **({"group": f"g{i % n_groups}"} if n_groups else {})} for i in range(n)]  # fmt: skip
    classes = tuple(sorted({row["label"] for row in rows}))
    return Competition("c", "macro_f1", classes, n_groups > 0, rows, [], ("image_id", "label"), None, classes,
                       root=SCRATCH)  # fmt: skip


def wrong_ending(n: int) -> float:
    """n rows whose files end otherwise."""
    for i in range(n):
        (SCRATCH / f"i{i:06d}.jpg").touch()
    case = competition(n, 3)
    started = time.process_time()
    assert len(missing_images(case)) == n
    return time.process_time() - started


def columns(n: int) -> float:
    path = SCRATCH / "wide.csv"
    path.write_text("\n".join(",".join(f"{word}{i}" for i in range(n)) for word in ("column", "a", "b", "c")))
    mistakes: list = []
    started = time.process_time()
    assert len(read_table(path, "train_csv", ["column0"], mistakes)) == 3 and not mistakes
    return time.process_time() - started


def unknown_keys(n: int) -> float:
    path = SCRATCH / "keys.yaml"
    path.write_text(EXPERIMENT + "\n" + "".join(f"key{i}: 1\n" for i in range(n)))
    started = time.process_time()
    try:
        load(path)
    except Mistakes as error:
        assert len(error.mistakes) == n
    return time.process_time() - started


def timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def bias(n_classes: int) -> float:
    targets, outputs = probs(10_000, n_classes)
    return timed(lambda: fit_bias(outputs, targets, "macro_f1", "class"))


def bias_of_labels(n_classes: int) -> float:
    targets, outputs = probs(10_000, n_classes)
    truth = np.eye(n_classes, dtype=np.int8)[targets]
    return timed(lambda: fit_bias(outputs * n_classes / 3, truth, "micro_f2", "multilabel"))


def interval_of_classes(n_classes: int) -> float:
    targets, outputs = probs(10_000, n_classes)
    return timed(lambda: bootstrap_interval("macro_f1", targets, outputs, np.arange(10_000)))


def interval_of_rows(n: int) -> float:
    targets, outputs = probs(n, 10)
    return timed(lambda: bootstrap_interval("macro_f1", targets, outputs, np.arange(n)))


def units_of_groups(n: int) -> float:
    case = competition(5 * n, 3, n)
    return timed(lambda: units([row["image_id"] for row in case.train_rows], merged_groups(case)))


def folds_of_classes(n_classes: int) -> float:
    case = competition(10 * n_classes, n_classes)
    table = pd.DataFrame()

    def work() -> None:
        nonlocal table
        table = make_folds(case, Folds(k=5))
        audit_lines(audit_folds(table, case), case.classes)

    return timed(work)


def folds_of_groups(n: int) -> float:
    case = competition(5 * n, 3, n)
    return timed(lambda: audit_folds(make_folds(case, Folds(k=5)), case))


def confusion_of_classes(n_classes: int) -> float:
    targets, outputs = probs(10_000, n_classes)
    return timed(lambda: confusion(targets, outputs.argmax(axis=1), [f"c{i}" for i in range(n_classes)],
                                   SCRATCH / "confusion.png"))  # fmt: skip


CASES = {
    "rows with a wrong file ending": (wrong_ending, 25_000),
    "columns of a table": (columns, 15_000),
    "unknown keys of a YAML file": (unknown_keys, 4_000),
    "classes: bias of each (10,000 rows)": (bias, 500),
    "labels: bias of each (10,000 rows)": (bias_of_labels, 500),
    "classes: interval of macro F1 (10,000 rows)": (interval_of_classes, 2_500),
    "rows by themselves: interval of macro F1": (interval_of_rows, 100_000),
    "groups: units of five rows each": (units_of_groups, 10_000),
    "groups: folds and audit": (folds_of_groups, 5_000),
    "classes: folds and audit (10 rows each)": (folds_of_classes, 1_000),
    "classes: picture of the confusion": (confusion_of_classes, 2_500),
}


def main(wanted: list[str]) -> None:
    print(f"{'what':<48}{'n':>9}{'s':>8}{'2n':>9}{'s':>8}{'times':>7}{'peak MB':>9}")
    for name, (case, n) in CASES.items():
        if wanted and not any(word in name for word in wanted):
            continue
        once, twice = case(n), case(2 * n)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:<48}{n:>9,}{once:>8.2f}{2 * n:>9,}{twice:>8.2f}{twice / max(once, 0.01):>7.1f}{peak:>9,.0f}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
