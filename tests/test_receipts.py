"""Receipts and atomic files: nothing is made twice, nothing is half there, and what changed is told by name."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.config.settings import fingerprint


@pytest.fixture
def receipt(tmp_path) -> receipts.Receipt:
    (tmp_path / "out.txt").write_text("made")
    inputs = {"train.lr": 0.1, "folds": "abc"}
    return receipts.Receipt(
        verb="train",
        inputs=inputs,
        fingerprint=fingerprint(inputs),
        artifacts={"out.txt": receipts.artifact(tmp_path / "out.txt", tmp_path)},
        figures={"score": 0.5},
        code={},
        code_version="x",
    )


def test_a_receipt_is_read_as_written_and_a_damaged_one_is_none(receipt, tmp_path):
    assert receipts.read(tmp_path, "train") is None
    receipts.write(tmp_path, receipt)
    assert receipts.read(tmp_path, "train") == receipt
    (tmp_path / "train.json").write_text('{"verb": "train"')
    assert receipts.read(tmp_path, "train") is None
    (tmp_path / "train.json").write_text('{"verb": "train", "of_a_later_version": 1}')
    assert receipts.read(tmp_path, "train") is None


def test_what_changed_is_told_by_name_with_both_values(receipt, tmp_path):
    assert receipts.changes(receipt, dict(receipt.inputs), tmp_path) == []
    assert receipts.changes(receipt, {"train.lr": 0.2, "folds": "abc"}, tmp_path) == ["train.lr changed (0.1 to 0.2)"]
    [line] = receipts.changes(receipt, {**receipt.inputs, "train.seed": 1}, tmp_path)
    assert line == "train.seed changed (none to 1)"
    assert receipts.changes(None, {}, tmp_path) == ["not made yet"]


def test_a_lost_file_is_made_again_unless_mlflow_has_it(receipt, tmp_path):
    (tmp_path / "out.txt").unlink()
    assert receipts.changes(receipt, dict(receipt.inputs), tmp_path) == ["out.txt is gone"]
    tracked = dataclasses.replace(receipt, run_id="run")
    assert receipts.changes(tracked, dict(receipt.inputs), tmp_path) == []
    assert receipts.changes(tracked, dict(receipt.inputs), tmp_path, fetchable=False) == ["out.txt is gone"]


def test_code_is_hashed_file_by_file():
    hashes = receipts.code_hashes(["config", "folds"])
    assert {"pipeline/folds/split.py", "pipeline/config/load.py"} <= set(hashes)


def test_an_atomic_file_is_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "file"
    with atomic(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("two")
        1 / 0  # noqa: B018
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import os, sys, pathlib\nfrom pipeline.atomic import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1])) as t:\n    t.write_text('new')\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_files_are_readable_by_the_team(tmp_path):
    with atomic(tmp_path / "file") as temporary:
        temporary.write_text("x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
