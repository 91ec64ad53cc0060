"""The model that leaves the building, by the verbs that a user has: what the README shows, served, promoted."""

import base64
import csv
import fcntl
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import only_here, serving
from PIL import Image
from test_docs import BLOCKS

from pipeline.compare import compare
from pipeline.config.settings import ROOT
from pipeline.images import decode
from pipeline.stages import models
from pipeline.tracking import package, registry, scoring
from pipeline.tracking import runs as tracking

EXPERIMENT = "experiments/digits.yaml"


def answers(checkout) -> dict[str, str]:
    with (checkout.runs / "digits/submission.csv").open() as file:
        return dict(list(csv.reader(file))[1:])


@pytest.fixture(scope="module")
def served(first):
    """(the address, what was printed) of `make serve` after the first `make submit`."""
    with serving(first[0], "serve") as found:
        yield found


def ask(server: str, column: str, values: list[str]) -> list[dict]:
    body = json.dumps({"dataframe_split": {"columns": [column], "data": [[value] for value in values]}}).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/invocations", body, kind)  # noqa: S310 (ours)
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (ours)
        return json.load(answer)["predictions"]


def test_it_answers_over_http_as_the_submission_did(first, served):
    checkout, _ = first
    submitted = dict(list(answers(checkout).items())[:24])
    files = [checkout.root / f"data/digits/images/{image_id}.png" for image_id in submitted]
    got = ask(served[0], "image", [base64.b64encode(path.read_bytes()).decode() for path in files])
    assert [row["class"] for row in got] == list(submitted.values()) and len(set(submitted.values())) > 1


def test_a_jpeg_is_answered_as_by_the_model_in_this_process(first, served):
    checkout, _ = first
    jpeg, path = BytesIO(), next(iter(answers(checkout)))
    Image.open(checkout.root / f"data/digits/images/{path}.png").resize((90, 70)).save(jpeg, "JPEG", quality=90)
    [got] = ask(served[0], "image", [base64.b64encode(jpeg.getvalue()).decode()])
    client = mlflow.MlflowClient(f"sqlite:///{checkout.runs / 'mlflow.db'}")
    source = client.get_model_version_by_alias("digits", "champion").source
    [expected] = mlflow.pyfunc.load_model(source).predict(pd.DataFrame({"image": [jpeg.getvalue()]})).to_dict("records")
    assert got.pop("class") == expected.pop("class")
    assert got == pytest.approx(expected, abs=1e-6) and sum(got.values()) == pytest.approx(1)


@pytest.mark.parametrize(("column", "value"), [("path", "data/digits/train.csv"), ("image", "bm8gaW1hZ2U="), ("x", "")])
def test_what_it_cannot_answer_is_the_askers_mistake_and_names_no_file(served, column, value):
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(served[0], column, [value])
    said = json.load(error.value)
    assert error.value.code == 400 and "valid" in said["message"] + "valid" * (column == "image"), said
    assert "stack_trace" not in said and "site-packages" not in said["message"]


def refused(server: str, body: bytes | None, method: str = "POST", **headers: str) -> tuple[int, str]:
    """(status, message) over a connection of its own."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)
    connection.request(method, "/invocations", body, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    said = json.loads(answer.read())["message"]
    connection.close()
    assert "\n" not in said and "site-packages" not in said
    return answer.status, said


def body_of(*images: bytes) -> bytes:
    return json.dumps({"dataframe_records": [{"image": base64.b64encode(image).decode()} for image in images]}).encode()


def test_a_request_has_limits_and_what_is_wrong_with_it_is_one_line(served):
    bomb, dot, jpeg = BytesIO(), BytesIO(), BytesIO()
    Image.new("1", (10_000, 9_000)).save(bomb, "PNG")  # 11 kB, and 90 million pixels
    Image.new("L", (8, 8), 200).save(dot, "PNG")
    Image.effect_noise((90, 90), 80).save(jpeg, "JPEG")
    whole = body_of(dot.getvalue())
    cases = [
        (413, "row 1: the image is too large", body_of(dot.getvalue(), bomb.getvalue()), {}),
        (413, "1,001 images; valid: at most 1,000", body_of(*[dot.getvalue()] * 1001), {}),
        (413, "the body is larger than 64 MiB", b" " * (65 << 20), {}),
        (413, "too many values", b"[" + b"0," * 20_000 + b"0]", {}),
        (400, "row 2: OSError", body_of(dot.getvalue(), dot.getvalue(), jpeg.getvalue()[:900]), {}),
        (400, "row 0: `image` is empty or no base64", whole.replace(b': "i', b': "@@i'), {}),
        (400, "the body is no JSON", whole[:-1], {}),
        (400, "the body is no JSON", b"[" * 100_000, {}),
        (400, "the body is no JSON", b"", {}),
        (415, "application/json", whole, {"Content-Type": "text/csv"}),
        (403, "foreign Host or Origin", whole, {"Host": "example.org"}),
        (403, "foreign Host or Origin", whole, {"Origin": "http://example.org"}),
        (403, "foreign Host or Origin", whole, {"Origin": "null"}),
    ]
    for status, message, body, headers in cases:
        found = refused(served[0], body, **headers)
        assert found[0] == status and message in found[1], (status, message, found)
    assert refused(served[0], None, "GET")[0] == 404
    dots = [base64.b64encode(dot.getvalue()).decode()] * 300  # two batches
    together = ask(served[0], "image", dots)
    assert len(together) == 300 and all(row == together[0] for row in together)


def test_the_server_opens_what_the_model_opens():
    assert (scoring.FORMATS, scoring.MAX_PIXELS) == (decode.FORMATS, decode.MAX_PIXELS)


SERVER = "import sys, signal, time; {}; open(sys.argv[1], 'w').write(str(__import__('os').getpid())); time.sleep(60)"


@pytest.mark.parametrize(("killed", "ignores"), [("process", True), ("make", False)])
def test_a_server_ends_with_the_process_that_started_it_even_by_sigkill(tmp_path, killed, ignores):
    scratch, pid, health = tmp_path / "served-x", tmp_path / "pid", tmp_path / "health"
    scratch.mkdir()
    health.write_text("")
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignores else "0"
    code = f"""
from pathlib import Path
import os, sys, pipeline.server as s
s._answers = lambda *_: True
s.run([sys.executable, "-c", {SERVER.format(stubborn)!r}, {str(pid)!r}], 1, "it", "ready", Path({str(tmp_path / "log")!r}),
      Path({str(tmp_path)!r}), os.environ, scratch={str(scratch)!r})
"""
    (tmp_path / "Makefile").write_text(f"run:\n\t@{sys.executable} code.py\n")
    (tmp_path / "code.py").write_text(code)
    command = ["make", "-C", str(tmp_path), "run"] if killed == "make" else [sys.executable, str(tmp_path / "code.py")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    wait_for(lambda: pid.is_file() and pid.read_text())
    server = int(pid.read_text())
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(server))
    wait_for(lambda: killed == "make" or not scratch.exists())


def wait_for(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path(f"/proc/{pid}/stat").exists() else True


def test_the_printed_line_works_and_nobody_else_can_reach_it(first, served):
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    [line] = [line for line in served[1].splitlines() if "curl" in line]
    done = subprocess.run(["bash", "-c", line], cwd=first[0].root, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["predictions"][0]["class"] in "0123456789"
    assert only_here(served[0])


def test_the_python_of_the_readme_prints_an_answer(first):
    checkout, _ = first
    [text] = [text for language, text in BLOCKS if language == "python"]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", text], cwd=checkout.root, capture_output=True, text=True,
                          env=checkout.environment(), timeout=120)  # fmt: skip
    assert re.search(r"class .*p_0 .*p_9", done.stdout) and done.returncode == 0, done.stderr


def test_promote_moves_the_champion_on_request_and_registers_what_is_not_there(finished):
    client = mlflow.MlflowClient(f"sqlite:///{finished.runs / 'mlflow.db'}")
    run = json.loads((finished.runs / "digits/train.json").read_text())["run_id"]
    client.delete_registered_model_alias("digits", "champion")
    _, errors = finished.main("serve", EXPERIMENT, expect=2)
    assert "there is no champion" in errors and "make promote" in errors
    _, errors = finished.main("promote", EXPERIMENT, "--run", "nothing", expect=2)
    assert "0 runs with a registered model begin so" in errors and f"{run[:8]} (version 1, macro_f1" in errors
    output, _ = finished.main("promote", EXPERIMENT, "--run", run[:8])
    assert "version 1 of digits is the champion" in output
    client.delete_registered_model("digits")
    output, _ = finished.main("promote", EXPERIMENT)
    assert "version 1 of the model digits. Champion: the first" in output
    assert client.get_model_version_by_alias("digits", "champion").run_id == run
    assert not list((finished.runs / "digits").glob(".package-*"))


def test_a_champion_whose_files_cannot_be_had_is_told(finished):
    client = mlflow.MlflowClient(f"sqlite:///{finished.runs / 'mlflow.db'}")
    made = client.create_model_version("digits", str(finished.root / "nowhere"), None)
    client.set_registered_model_alias("digits", "champion", made.version)
    (finished.runs / "cache/served-left/package").mkdir(parents=True)  # by a kill
    held = finished.runs / "cache/served-held"
    held.mkdir()
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _, errors = finished.main("serve", EXPERIMENT, "--port", "5999", expect=2)
    assert "version 2: MLflow does not give its files" in errors and "make promote" in errors
    assert [path.name for path in (finished.runs / "cache").glob("served-*")] == ["served-held"]
    os.close(lock)


def test_an_mlflow_that_goes_away_while_it_registers_is_kept_for_and_not_lost(tmp_path, monkeypatch):
    """`log_model` asks for the champion; where nobody answers, the package is handed to the tracker all the same."""
    handed = []

    def gone(*_):
        raise ConnectionError("gone")

    pd.DataFrame({"image_id": ["a"], "group": [""]}).to_csv(tmp_path / "folds.csv", index=False)
    monkeypatch.setattr(registry, "champion", gone)
    monkeypatch.setattr(package, "save_package", lambda place, *_: place)
    tracker = SimpleNamespace(failure="", client=None, ensemble=lambda *arguments: handed.append(arguments) or "")
    competition = SimpleNamespace(name="x", metric="accuracy", target="class", is_excerpt=False, label_texts=("a", "b"),
                                  separator=" ")  # fmt: skip
    work = SimpleNamespace(competition=competition, folder=tmp_path, tracker=tracker, store=SimpleNamespace(side=128))
    said = models.log_model(work, "run", "folds", [], pd.DataFrame(), {"score": 0.5, "low": 0.4, "high": 0.6})
    assert said == "" and len(handed) == 1 and handed[0][-3:] == ("", None, None)


def test_the_champion_is_judged_as_compare_does_with_duplicates_kept_together(tmp_path, monkeypatch):
    """Each picture ten times: row by row a gain of luck looks sure, by groups of the folds table it does not."""
    rng = np.random.default_rng(0)
    rows = [(f"i{n}", n // 10) for n in range(160)]
    folds = pd.DataFrame({"image_id": [name for name, _ in rows], "group": [f"same{group}" for _, group in rows]})
    folds.to_csv(tmp_path / "folds.csv", index=False)
    truth = rng.integers(0, 2, 16)

    def table(wrong: set[int]) -> pd.DataFrame:
        said = [truth[g] if g not in wrong else 1 - truth[g] for _, g in rows]
        return pd.DataFrame({"image_id": folds["image_id"], "fold": [g % 2 for _, g in rows],
                             "target": [truth[g] for _, g in rows],
                             "p_a": [0.9 if s == 0 else 0.1 for s in said],
                             "p_b": [0.1 if s == 0 else 0.9 for s in said]})  # fmt: skip

    old, new = table({0, 1, 2, 3}), table({2, 3})
    old.to_parquet(tmp_path / "oof.parquet")
    leader = registry.Version("1", "run", None, "")
    monkeypatch.setattr(registry, "champion", lambda client, name: leader)
    monkeypatch.setattr(tracking, "fetch", lambda run, name, folder: tmp_path / name)
    competition = SimpleNamespace(name="x", rule="accuracy", target="class")
    work = SimpleNamespace(competition=competition, folder=tmp_path, tracker=SimpleNamespace(failure="", client=None))
    before, low, own = models._paired_with_champion(work, new)
    groups = dict(zip(folds["image_id"], folds["group"], strict=True))
    assert before is leader and own is None and low == compare(old, new, groups, "accuracy", "class").low
    assert low <= 0 < compare(old, new, {}, "accuracy", "class").low
