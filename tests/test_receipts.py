"""Receipts and atomic files: nothing is made twice, nothing is half there, and what changed is told by name."""

import dataclasses
import errno
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from pipeline import kept, receipts
from pipeline.atomic import atomic
from pipeline.config.settings import ROOT, fingerprint
from pipeline.refused import refused


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


def test_a_file_of_other_bytes_is_made_again_whatever_mlflow_has(receipt, tmp_path):
    tracked = dataclasses.replace(receipt, run_id="run")
    (tmp_path / "out.txt").write_text("edit")
    assert receipts.changes(tracked, dict(receipt.inputs), tmp_path) == ["out.txt is not the file that was made"]


@pytest.mark.parametrize("other", ["[]", "null", '"text"', "{}", "[" * 100_000, '{"verb": 1}', "\0"])
@pytest.mark.parametrize("had_one", [True, False])
def test_a_receipt_that_holds_other_json_is_no_receipt(receipt, tmp_path, other, had_one, capsys):
    if had_one:
        receipts.write(tmp_path, receipt)
    (tmp_path / "train.json").write_text(other)
    assert receipts.read(tmp_path, "train") is None and "is not as it was written" in capsys.readouterr().err


def test_a_receipt_whose_figures_were_edited_is_none_and_one_of_an_earlier_version_is_read(receipt, tmp_path):
    receipts.write(tmp_path, receipt)
    path = tmp_path / "train.json"
    whole = path.read_text()
    path.write_text(whole.replace("0.5", "0.9"))
    assert receipts.read(tmp_path, "train") is None
    path.write_text(whole)
    (tmp_path / ".train.json.sha256").unlink()
    assert receipts.read(tmp_path, "train") == receipt


def test_a_kept_file_is_believed_after_a_kill_between_its_checksum_and_itself(tmp_path):
    path = tmp_path / "kept.json"
    kept.write_json(path, {"a": 1})
    kept.seal(path, "0" * 64)  # the next one's, which a kill kept from coming
    assert kept.read_json(path) == {"a": 1}
    path.write_text('{"a": 2}')
    assert kept.read_json(path) == {}


def test_what_killed_commands_left_half_written_goes_unless_another_command_is_at_work(tmp_path):
    litter = [tmp_path / "mlruns/x/.a.csv.12.tmp", tmp_path / "experiments/.b.csv.12.tmp"]
    folder = tmp_path / "mlruns/x/.package-ab.tmp"
    for path in [*litter, folder / "file", tmp_path / "mlruns/x/own.tmp"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    code = "import sys, pathlib\nfrom pipeline.kept import at_work\nwith at_work(pathlib.Path(sys.argv[1])): input()\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with kept.at_work(tmp_path):
        assert not any(path.exists() for path in [*litter, folder])
    assert (tmp_path / "mlruns/x/own.tmp").exists()  # not one of ours
    other = subprocess.Popen(
        [sys.executable, "-u", "-c", code.replace("input()", "print(1); input()"), str(tmp_path)], **pipes
    )
    other.stdout.readline()
    litter[0].write_text("being written")
    with kept.at_work(tmp_path):
        assert litter[0].exists()
    other.communicate(b"\n")
    with kept.at_work(tmp_path):
        assert not litter[0].exists()


def raised(error, before=None):
    try:
        try:
            if before:
                raise before
        finally:
            raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x", str(ROOT / "mlruns/t/.fold-0.state.77.tmp")), "mlruns/t/fold-0.state; make room"),
        (raised(RuntimeError("[enforce fail] . unexpected pos 64 vs 0"), OSError(errno.ENOSPC, "x")), "No space left"),
        (RuntimeError("unexpected pos 64 vs 0"), "No space left"),
        (sqlite3.OperationalError("database or disk is full"), "No space left"),
        (OSError(errno.EDQUOT, "x"), "Disk quota exceeded"),
        (OSError(errno.EROFS, "x", "mlruns"), "Read-only file system: mlruns"),
        (PermissionError(errno.EACCES, "x", "mlruns"), "Permission denied: mlruns"),
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (FileNotFoundError(errno.ENOENT, "x", str(ROOT / "mlruns/t/a")), "mlruns/t/a; it was removed while"),
        (ZeroDivisionError("division by zero"), ""),
        (FileNotFoundError("not of the system"), ""),
    ],
)
def test_what_the_system_refuses_is_one_line(error, words):
    line = refused(error)
    assert words in line and bool(line) == bool(words) and "\n" not in line


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
