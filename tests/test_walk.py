"""A fault at single file operations of whole commands: a seeded sample. All of them: `benchmarks/faults.py`."""

import json
import subprocess
import sys

SAMPLE, SEED = 4, 16


def test_a_fault_at_any_file_operation_is_told_in_a_line_and_the_same_command_ends_as_undisturbed(make_checkout):
    checkout = make_checkout("walk")
    environment = checkout.environment(PYTHONPATH=str(checkout.root))
    done = subprocess.run(
        [sys.executable, "tests/walk.py", str(SAMPLE), str(SEED)],
        cwd=checkout.root, capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == SAMPLE, done.stderr
    assert [case for case in cases if case["wrong"]] == []
    assert len({case["kind"] for case in cases}) > 1  # a sample of one kind would say little
