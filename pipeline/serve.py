"""A registered model on 127.0.0.1 and nowhere else: image bytes in, class and probabilities out.

In: a version of the competition's registered model. Out: `tracking/scoring` over its package, in a process that runs
the package's code. Whoever can write to the MLflow store can change that code, so serve from a store that you trust.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from shlex import quote

from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import RUNS
from pipeline.server import HOST, check_port, run
from pipeline.tracking import package


def serve(client: package.MlflowClient, name: str, number: str, port: int) -> int:
    """Version `number` of the model `name` in the client's MLflow store. Stays until Ctrl-C; returns the exit status.

    Raises `Mistakes` for a port that is taken, and where the package cannot be had.
    """
    check_port(port, "serve")
    cache = RUNS / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for folder in cache.glob("served-*"):
        _remove_abandoned(folder)
    with tempfile.TemporaryDirectory(dir=cache, prefix="served-", ignore_cleanup_errors=True) as scratch:
        fcntl.flock(os.open(scratch, os.O_RDONLY), fcntl.LOCK_EX)  # as long as this process lives
        try:
            folder = package.download(client, name, number, Path(scratch) / "package")
        except Exception as error:  # MLflow raises many kinds; each means that its files cannot be had
            found = f"MLflow does not give its files ({type(error).__name__})"
            valid = "valid: a version that is whole; make promote makes another the champion"
            raise Mistakes([Mistake(f"model {name} version {number}", found, valid, "models")]) from error
        example = Path(scratch) / "example.jpg"
        example.write_bytes(package.example())
        command, environment = package.serving(folder, HOST, port)
        print(f"{name} version {number} is starting on {HOST}:{port} (10 to 30 s) ...", flush=True)
        log = RUNS / "serve.log"
        return run(command, port, "The model", ready(port, example), log, folder, environment, scratch=scratch)


def _remove_abandoned(folder: Path) -> None:
    """Removes the folder of a command that was killed: one that still runs holds its lock."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(file)


def ready(port: int, image: Path) -> str:
    """A command that sends one picture. By a pipe, since a picture is longer than an argument may be."""
    # base64 breaks its lines, which JSON forbids
    encoded = f"base64 < {quote(shown(image))} | tr -d '\\n'"
    body = f'{{ printf \'{{"dataframe_split": {{"columns": ["image"], "data": [["\'; {encoded}; printf \'"]]}}}}\'; }}'
    url = f"http://{HOST}:{port}/invocations"
    send = f"curl -sS --noproxy '*' {url} -H 'Content-Type: application/json' --data-binary @-"
    return f"try it, with this picture or one of yours:\n{body} | {send}"
