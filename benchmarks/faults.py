"""A fault at every file operation of a small `eda`, `train` and `submit`: a kill, a full disk, a folder that is gone.

    .venv/bin/python benchmarks/faults.py [--n 0] [--seed 0]

Works in a copy of the tracked files; `tests/walk.py` says how. n: so many cases, drawn by the seed; 0 for all, which
takes hours on one core. Prints a line for each case that ended wrong, then a table of right and wrong in Markdown.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    right: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in tracked.split("\0")[:-1]:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                       "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
        command = [sys.executable, "tests/walk.py", str(args.n), str(args.seed)]
        walk = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        assert walk.stdout is not None
        for line in walk.stdout:
            case = json.loads(line)
            (wrong if case["wrong"] else right)[case["verb"], case["kind"]] += 1
            if case["wrong"]:
                print(f"{case['verb']} {case['kind']} at {case['at']}, {case['operation']}: {'; '.join(case['wrong'])}",
                      flush=True)  # fmt: skip
        walk.wait()
    kinds = sorted({kind for _, kind in [*right, *wrong]})
    print(f"\n| verb | {' | '.join(kinds)} |\n| --- |{' --- |' * len(kinds)}")
    for verb in ("eda", "train", "submit"):
        cells = [f"{right[verb, kind]} right, {wrong[verb, kind]} wrong" for kind in kinds]
        print(f"| {verb} | {' | '.join(cells)} |")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
