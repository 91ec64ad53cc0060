"""Journals: what is kept arrives whole or stays, runs are closed whenever a command is killed, nothing strange is sent."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import package, registry
from pipeline.tracking import runs as tracking
from pipeline.tracking.lines import FIELDS
from pipeline.tracking.uploads import Unseen, check_seen, files_of

SCRIPT = """
import os, sys
from pathlib import Path
from pipeline.tracking import place, runs as tracking
root = Path(sys.argv[1])
tracking.RUNS, tracking.ARTIFACTS = root, root / "artifacts"
tracking.LOCAL_STORE = place.uri_of(root / "mlflow.db")
CODE
"""


def run_script(store: Path, code: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("CODE", code), str(store)], capture_output=True, text=True
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def keep(begin, name: str, *calls) -> Path:
    """A journal of a command that MLflow did not answer."""
    tracker = begin(name)
    tracker.failure = "as if"
    for call in calls:
        call(tracker)
    [journal] = tracker._outbox.journals()
    tracker.let_go()
    return journal


def statuses(tracker) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in tracker.client.search_runs([tracker.experiment_id])}


def make_package(folder: Path) -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "code/a.py").write_text("a = 1\n")
    return folder


def log_package(run: str, folder: Path):
    score = registry.Score("f1", 0.9, 0.8, 1.0, True, run, "folds")
    return lambda tracker: tracker.ensemble(run, "tiny", folder, score, ["a"])


def test_a_package_whose_path_holds_the_run_s_own_id_arrives_whole_after_a_move(settle_in, tmp_path):
    settle_in(tmp_path / "before/mlruns")
    tracker = tracking.Tracker("tiny")
    tracker.failure = "as if"
    run = tracker.start("cv", {})
    package_folder = make_package(tmp_path / "before/mlruns/tiny" / f".package-{run}")
    assert log_package(run, package_folder)(tracker) == ""
    tracker.end(run)
    tracker.let_go()
    shutil.rmtree(package_folder)
    (tmp_path / "before").rename(tmp_path / "after")
    after = settle_in(tmp_path / "after/mlruns")
    later = tracking.Tracker("tiny")
    later.let_go()
    assert (later.failure, later.earlier.n_sent, later.earlier.n_stuck) == ("", 3, 0)
    fetched = package.download(later.client, "tiny", "1", tmp_path / "fetched")
    assert (fetched / "MLmodel").read_text() == "flavors: {}\n" and (fetched / "code/a.py").read_text() == "a = 1\n"
    assert [path.name for path in (after / "outbox").iterdir()] == ["ids.json"] and not (tmp_path / "before").exists()


def test_an_absent_or_empty_package_is_refused_and_registers_nothing(store, begin, tmp_path, capsys):
    tracker = begin("tiny")
    run = tracker.start("cv", {})
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.txt").write_text("a")
    for name in ("nowhere", "empty", "none"):
        assert log_package(run, tmp_path / name)(tracker) == ""
    assert tracker.failure == "" and registry.versions(tracker.client, "tiny") == []
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_what_mlflow_takes_and_does_not_show_is_deleted_nowhere(store, begin, monkeypatch, capsys):
    journal = keep(begin, "lossy", lambda t: t.artifact(t.start("run", {}), Path(__file__)))
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    write = LocalArtifactRepository.log_artifact

    def half(self, local_file, artifact_path=None):
        write(self, local_file, artifact_path)
        os.truncate(Path(self.artifact_dir, artifact_path or "", Path(local_file).name), 10)

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", half)
        first = begin("lossy")
        assert first.failure == "" and first.earlier.n_stuck == 1  # its own record goes to MLflow all the same
        assert "does not show 1 whole" in capsys.readouterr().err
        [kept] = journal.with_suffix("").rglob("*.py")
        assert kept.read_bytes() == Path(__file__).read_bytes()
    second = begin("lossy")
    [run] = second.client.search_runs([second.experiment_id])
    assert second.earlier.n_stuck == 0 and not journal.exists()
    assert (
        tracking.fetch(run.info.run_id, Path(__file__).name, store / "got").read_bytes() == Path(__file__).read_bytes()
    )


def test_files_are_compared_by_name_and_size(tmp_path):
    from mlflow.entities import FileInfo

    folder = make_package(tmp_path / "p")
    sizes = files_of(folder)
    assert sizes == {"MLmodel": 12, "code/a.py": 6}
    tree = {None: [("MLmodel", 12), ("code", None)], "code": [("code/a.py", 6)]}

    def shown(changed):
        held = {**tree, **changed}
        return lambda name: [FileInfo(path, size is None and path == "code", size) for path, size in held[name]]

    check_seen(shown({}), sizes)
    check_seen(shown({"code": [("code/a.py", None)]}), sizes)  # a store that knows no sizes
    for changed in ({"code": []}, {"code": [("code/a.py", 5)]}, {None: [("code", None)]}):
        with pytest.raises(Unseen):
            check_seen(shown(changed), sizes)


STRANGE = [b"123", b"null", b"[]", b'"call"', b"{}", b'{"call": []}', b'{"call": "nothing"}', b'{"call": "end"}', b"\xff\xfe",
           b"[" * 100_000, b'{"call": "metrics", "run": 1, "metrics": {}, "step": 0, "time": 0}',
           b'{"call": "metrics", "run": "RUN", "metrics": {"a": "b"}, "step": 0, "time": 0}',
           b'{"call": "curve", "run": "RUN", "steps": [1, [2]], "time": 0}',
           b'{"call": "end", "run": "RUN", "status": "SLEEPING", "time": 0}',
           b'{"call": "inputs", "run": "RUN", "datasets": [7]}',
           b'{"call": "text", "run": "RUN", "text": "x", "name": "../../../up.txt"}',
           b'{"call": "text", "run": "RUN", "text": "x", "name": "/up.txt"}',
           b'{"call": "start", "id": "x", "name": "n", "tags": {"a": {}}, "parent": "", "time": 0}']  # fmt: skip


def test_a_line_that_is_no_call_is_set_aside_and_named_and_the_calls_around_it_are_sent(store, begin, capsys):
    run = begin("tiny").start("run", {})
    box = store / "outbox/tiny"
    box.mkdir(parents=True)
    (box / "20260101-000000-000000-1.jsonl").write_bytes(
        b"".join(
            line.replace(b"RUN", run.encode()) + b"\n" + json.dumps({
                "call": "metrics", "run": run, "metrics": {f"m{i}": 1.0}, "step": 0, "time": 0}).encode() + b"\n"
            for i, line in enumerate(STRANGE)
        )
    )  # fmt: skip
    tracker = begin("tiny")
    assert tracker.failure == "" and tracker.earlier.n_sent == len(STRANGE)
    assert len(tracker.client.get_run(run).data.metrics) == len(STRANGE)
    aside = [json.loads(line) for line in (box / "refused.jsonl").read_text().splitlines()]
    assert len(aside) == len(STRANGE) and all(each["why"] for each in aside) and aside[0]["line"] == "123"
    said = capsys.readouterr().err
    assert "line 1 of mlruns/outbox/tiny/20260101" in said and "it is no call of Podium's" in said
    assert sorted(path.name for path in box.iterdir()) == ["refused.jsonl"]
    assert not list(store.rglob("up.txt"))
    begin("tiny")
    assert capsys.readouterr().err == ""


def test_every_call_that_is_kept_passes_the_check_of_its_line(store, begin):
    journal = keep(begin, "tiny", *(lambda t, verb=verb: verb(t) for verb in (
        lambda t: t.start("run", {"a": "b"}), lambda t: t.start("again", {}, resume="0" * 32),
        lambda t: t.rename("r", "n"), lambda t: t.params("r", {"a": 1}), lambda t: t.metrics("r", {"a": 1}, 2),
        lambda t: t.curve("r", [(1, {"a": 1})], 5), lambda t: t.tags("r", {"a": "b"}), lambda t: t.text("r", "t", "a/b"),
        lambda t: t.inputs("r", []), lambda t: t.artifact("r", Path(__file__), "f"), lambda t: t.end("r"),
        lambda t: t.model("r", "m", {}, {}, 1, {}), log_package("r", make_package(store / "p")))))  # fmt: skip
    from pipeline.tracking.lines import parsed

    assert {parsed(line, "tiny")["call"] for line in journal.read_bytes().splitlines()} == set(FIELDS)


@pytest.mark.parametrize("kind", ["absolute", "relative", "symlink", "inner symlink", "linked folder", "another's"])
def test_a_journal_sends_files_of_its_own_and_no_others(store, begin, kind, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    secret.write_text("hush-hush")
    run = begin("tiny").start("run", {})
    box = store / "outbox/tiny"
    journal = box / "20260101-000000-000000-1.jsonl"
    own = journal.with_suffix("")
    (own / "a/folder").mkdir(parents=True)
    (box.parent / "other/20260101-000000-000000-2").mkdir(parents=True)
    (box.parent / "other/20260101-000000-000000-2/secret.txt").write_text("hush-hush")
    file = {"absolute": str(secret), "relative": "../../../../" + str(secret.relative_to("/")), "symlink": "a/link",
            "inner symlink": "a/folder", "linked folder": "a/there/secret.txt",
            "another's": str(box.parent / "other/20260101-000000-000000-2/secret.txt")}[kind]  # fmt: skip
    (own / "a/link").symlink_to(secret)
    (own / "a/folder/link").symlink_to(secret)
    (own / "a/there").symlink_to(secret.parent)
    call = {"call": "artifact", "run": run, "file": file, "folder": ""}
    journal.write_text(json.dumps(call) + "\n")
    tracker = begin("tiny")
    assert tracker.failure == "" and not journal.exists()
    assert (
        tracker.client.list_artifacts(run) == []
        and "none that this journal keeps" in (box / "refused.jsonl").read_text()
    )
    assert secret.read_text() == "hush-hush" and not [
        p for p in box.rglob("*") if p.is_file() and b"hush" in p.read_bytes()
    ]


def test_a_journal_registers_no_model_of_another_experiment(store, begin):
    journal = keep(begin, "tiny", log_package("0" * 32, make_package(store / "p")))
    journal.write_text(journal.read_text().replace('"name": "tiny"', '"name": "other"'))
    tracker = begin("tiny")
    assert "another experiment" in (store / "outbox/tiny/refused.jsonl").read_text()
    assert registry.champion(tracker.client, "other") is None


def test_journals_are_private_and_hold_no_password(store, begin, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush-hush@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = begin("away")
    tracker.start("run", {})
    tracker.let_go()
    files = [*(store / ".open").iterdir(), *(store / "outbox/away").iterdir()]
    assert len(files) == 2 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "hush" not in capsys.readouterr().err + "".join(path.read_text() for path in files)


@pytest.mark.parametrize("moment", ["before the note", "before MLflow", "after MLflow", "before the end's note"])
def test_no_run_stays_running_whenever_a_command_is_killed(store, begin, moment):
    kill = "os.kill(os.getpid(), 9)"
    hooks = {
        "before the note": f"tracker._open.begin = lambda *_: {kill}",
        "before MLflow": f"tracker._client.create_run = lambda *_: {kill}",
        "after MLflow": f"tracker._open.named = lambda *_: {kill}",
        "before the end's note": f"tracker._open.end = lambda *_: {kill}",
    }
    code = f'tracker = tracking.Tracker("tiny")\n{hooks[moment]}\ntracker.end(tracker.start("run", {{}}))'
    assert run_script(store, code) == -9
    begin("other")  # another experiment's command closes it as well
    expected = {"after MLflow": {"run": "KILLED"}, "before the end's note": {"run": "FINISHED"}}
    assert statuses(begin("tiny")) == expected.get(moment, {})
    assert not list((store / ".open").glob("*"))


def test_a_run_that_could_not_be_closed_stays_noted_and_the_next_command_closes_it(store, begin, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    tracker = begin("tiny")
    run = tracker.start("run", {})
    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "set_terminated", full)
        patch.setattr(tracker._outbox, "keep", full)
        tracker.end(run)
    tracker.let_go()
    assert len(list((store / ".open").iterdir())) == 1
    assert statuses(begin("tiny")) == {"run": "KILLED"} and list((store / ".open").iterdir()) == []


def test_a_disk_without_room_for_notes_is_a_warning_and_tracking_goes_on(store, begin, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.alive.Journal", full)
        tracker = begin("tiny")
        runs = [tracker.start(f"run {n}", {}) for n in range(2)]
        assert tracker.open_runs() == runs[::-1]
        for run in runs:
            tracker.end(run)
    assert tracker.failure == "" and statuses(tracker) == {"run 0": "FINISHED", "run 1": "FINISHED"}
    assert capsys.readouterr().err.count("cannot be noted") == 1
    journal = keep(begin, "tiny", lambda t: t.end(t.start("kept", {})))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.outbox.atomic", full)
        second = begin("tiny")
        assert second.failure == "" and journal.exists() and "No space left" in capsys.readouterr().err
        second.end(second.start("own", {}))
    assert statuses(begin("tiny")) == {f"run {n}": "FINISHED" for n in range(2)} | {
        "own": "FINISHED",
        "kept": "FINISHED",
    }
    assert not journal.exists()


def test_lines_that_are_no_note_are_named_and_the_runs_around_them_are_closed(store, begin, capsys):
    tracker = begin("tiny")
    tracker.start("run", {})
    tracker.let_go()
    [path] = (store / ".open").iterdir()
    path.write_bytes(b"123\n" + path.read_bytes() + b'["local", 7, true]\n\xff\n["local", "x')
    assert statuses(begin("tiny")) == {"run": "KILLED"}
    assert f"mlruns/.open/{path.name} holds lines that are no note" in capsys.readouterr().err
    assert [left.name for left in (store / ".open").iterdir()] == [path.with_suffix(".set-aside").name]
    begin("tiny")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_read_as_no_journal(store, begin, kind, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "notes.txt"
    elsewhere.write_text("these are somebody's notes\n")
    for folder in (store / ".open", store / "outbox/tiny"):
        folder.mkdir(parents=True)
        path = folder / "20260101-000000-000000-1.jsonl"
        path.symlink_to(elsewhere) if kind == "link" else path.mkdir() if kind == "folder" else os.mkfifo(path)
    tracker = begin("tiny")
    tracker.end(tracker.start("run", {}))
    assert tracker.failure == "" and statuses(tracker) == {"run": "FINISHED"}
    assert elsewhere.read_text() == "these are somebody's notes\n"


def test_a_journal_about_runs_that_another_one_begins_waits_for_it(store, begin, monkeypatch):
    first = keep(begin, "tiny", lambda t: t.start("run", {}))
    run = json.loads(first.read_text().splitlines()[1])["id"]
    second = keep_beside(begin, run)
    hidden = first.rename(first.with_name("99999999-later.jsonl"))  # sent after the second
    assert begin("tiny").earlier.n_sent == 1 and second.exists() and not hidden.exists()
    last = begin("tiny")
    assert last.earlier.n_sent == 1 and not second.exists() and not (store / "outbox/tiny").exists()
    assert last.client.get_run(tracking.real_id(run, store / "outbox")).data.metrics == {"loss": 1.0}


def keep_beside(begin, run: str) -> Path:
    """Of a command that met the same failure, and went on with a run of the first."""
    journals = set()
    tracker = begin("elsewhere")
    tracker._outbox.folder, tracker._outbox.experiment = tracker._outbox.root / "tiny", "tiny"
    journals = set(tracker._outbox.journals())
    tracker.failure = "as if"
    tracker.metrics(run, {"loss": 1.0})
    tracker.let_go()
    [journal] = set(tracker._outbox.journals()) - journals
    return journal


def test_what_a_kill_at_the_end_of_sending_leaves_is_deleted_by_the_next_command(store, begin):
    box = store / "outbox/tiny"
    box.mkdir(parents=True)
    (box / "20260101-000000-000000-1.sent").write_text("3 local")
    (box / ".20260101-000000-000000-1.sent.7.tmp").write_text("3 lo")
    begin("tiny")
    assert not box.exists()
