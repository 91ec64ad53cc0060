"""Is a submission what its record says? Its file is made again, from the checkpoints, and compared byte by byte."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import receipts
from pipeline.config.mistakes import Mistake, Mistakes, Stopped, first_line, shown
from pipeline.config.submission import Submit
from pipeline.stages.blend_record import FORMAT, Recorded, RecordedMember
from pipeline.stages.board import file_named, find_submission
from pipeline.stages.describe import machine
from pipeline.stages.members import Models, file_of
from pipeline.stages.record import connect
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.tracking.browse import Run


def verify(work: Work, wanted: str) -> int:
    """Makes the submission again and says whether it is the same. Returns the exit status: 0 for the same bytes."""
    path, record = recorded(work, wanted)
    members = [_models(work, member) for member in record.members]
    again = rebuilt(work, record, members)
    say("verify", f"{record.n_rows:,} rows made again from {sum(len(m.checkpoints) for m in members)} checkpoints")
    return told(work, record, path, again, "verify")


def recorded(work: Work, wanted: str) -> tuple[Path, Recorded]:
    """(the submission's file, its record): beside each other where a file is named, else from MLflow.

    Raises `Mistakes` where there is no record, or the file is another than was recorded.
    """
    path = file_named(wanted)
    if path and path.with_suffix(".json").is_file():
        record_path = path.with_suffix(".json")
    else:
        run = find_submission(connect(work.settings), wanted, work)
        path, record_path = as_submitted(work, run), file_of(run.id, "submission.json", again=True)
    try:
        data = json.loads(record_path.read_text())
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        record = Recorded.model_validate(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # pydantic's are ValueErrors
        found, valid = f"is no record of a submission ({first_line(error)})", f"valid: {FORMAT!r}, from make submit"
        raise Mistakes([Mistake(record_path.name, found, valid, "records")]) from None
    if (digest := receipts.sha256(path)) != record.sha256:
        found = f"has hash {digest[:16]}, and its record says {record.sha256[:16]}"
        raise Mistakes([Mistake(path.name, found, "valid: the file as it was submitted", "foreign artifacts")])
    _check_data(work, record)
    n_bias, total = len(record.bias), sum(member.weight for member in record.members)
    if n_bias not in (0, len(work.competition.classes)) or abs(total - 1) > 1e-6:
        found = f"holds {n_bias} shifts for {len(work.competition.classes)} classes and weights of sum {total:g}"
        raise Mistakes([Mistake(record_path.name, found, "valid: none or one a class; weights of sum 1", "records")])
    return path, record


def as_submitted(work: Work, run: Run) -> Path:
    """A submission's file, from MLflow. Raises `Mistakes` where it, or the one here, is not what the run recorded."""
    path, last = file_of(run.id, "submission.csv", again=True), receipts.read(work.folder, "submit")
    here, digest = work.folder / "submission.csv", run.tags.get("submission_sha256", "")
    places = {f"submission.csv of run {run.id[:8]} in MLflow": path}
    if last and work.in_mlflow(last) == run.id and here.is_file():
        places[shown(here)] = here
    valid = "valid: the file as it was made; make submit makes it again"
    mistakes = [
        Mistake(name, f"has hash {found[:16]}, and its run recorded {digest[:16]}", valid, "foreign artifacts")
        for name, place in places.items() if (found := receipts.sha256(place)) != digest
    ]  # fmt: skip
    if mistakes:
        raise Mistakes(mistakes)
    return path


def _check_data(work: Work, record: Recorded) -> None:
    """Raises `Mistakes` where the competition here is not the one that was predicted."""
    competition = work.competition
    if competition.mistakes:
        raise Mistakes(competition.mistakes)
    sample = receipts.sha256(competition.sample_csv) if competition.sample_csv else "none"
    answer = (competition.cells or competition.form.answer) if record.answer else ""
    here = {"competition": competition.name, "answer": answer, "test_images": work.image_hashes[1], "sample": sample}
    mistakes = [
        Mistake(name.replace("_", " "), f"here {value[:16]}, in the record {getattr(record, name)[:16]}",
                "valid: the data that were predicted; EXP and PODIUM_DATA say where they are", "data")
        for name, value in here.items() if getattr(record, name) != value
    ]  # fmt: skip
    if mistakes:
        raise Mistakes(mistakes)


def _models(work: Work, member: RecordedMember) -> Models:
    """A recorded run's checkpoints, here or in MLflow. Raises `Mistakes` where one is not what was recorded."""
    trained = receipts.read(work.folder, "train")
    is_own = trained is not None and trained.run_id == member.run
    files = {}
    for name, digest in member.checkpoints.items():
        path = work.resolve(trained, name) if is_own and trained else file_of(member.run, name)
        if (found := receipts.sha256(path)) != digest:
            what = f"has hash {found[:16]}, and the submission was made with {digest[:16]}"
            raise Mistakes([Mistake(name, what, "valid: the checkpoint as it was trained", "foreign artifacts")])
        files[path] = digest
    return Models(member.run, member.name, list(files), list(files.values()), member.store)


def rebuilt(work: Work, record: Recorded, members: list[Models]) -> bytes:
    """The submission's bytes, by its recipe and these models; nothing that was kept of earlier predictions is read."""
    from pipeline.ensemble.recipe import Recipe
    from pipeline.stages.predictions import test_outputs
    from pipeline.submit import write_submission

    work.check()
    threads = record.machine.get("env.threads", "")
    if threads.isdecimal() and 1 <= int(threads) <= 1024:  # those of the submission, on which its last bits depend
        train = work.settings.train.model_copy(update={"threads": int(threads)})
        work.settings = work.settings.model_copy(update={"train": train})
    submit = Submit.model_validate({"average": record.average, "views": record.views})
    recipe = Recipe(submit.average, tuple(m.weight for m in record.members), tuple(record.bias))
    outputs = recipe.outputs(test_outputs(work, members, submit, fresh=True), work.competition.target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        write_submission(work.competition, outputs, path)
        return path.read_bytes()


def told(work: Work, record: Recorded, path: Path, again: bytes, verb: str) -> int:
    """Says whether these are the bytes of the file, and where not, what is different. Returns the exit status."""
    from pipeline.model import pick_device

    before = path.read_bytes()
    if before == again:
        say(verb, f"byte-identical: sha256 {record.sha256[:16]}")
        return 0
    rows = list(zip(before.splitlines(), again.splitlines(), strict=False))
    n = sum(a != b for a, b in rows)
    say(verb, f"not identical: {n:,} of {len(rows) - 1:,} rows differ")
    for a, b in [(a, b) for a, b in rows if a != b][:3]:
        say(verb, f"  {a.decode(errors='replace')}  is now  {b.decode(errors='replace')}")
    here = machine(pick_device(work.settings.train.device))
    for key, value in sorted(record.machine.items()):
        if here.get(key) != value:
            say(verb, f"  made with {key.removeprefix('env.')} {value}, here {here.get(key, 'none')}")
    if record.code_version != receipts.code_version():
        say(verb, f"  made by code {record.code_version}, here {receipts.code_version()}")
    return 1


def need_git() -> None:
    """Raises `Stopped` where there is no repository to take earlier code from."""
    if receipts.code_version().startswith("source-"):
        raise Stopped("this is no git checkout, so the code that trained cannot be had; clone the repository")
