"""Worker processes, one job at a time each, that may die at any moment without taking the driver with them.

In: a function that makes a worker's own function (imports, data) and jobs, as plain data. Out: messages, in the order
in which they arrive. A worker that tells of an epoch waits for the answer, so that a verdict falls exactly there and
not a few epochs later. Processes are spawned: a fork would share the threads of torch, and a GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.refused import refused

Job = Mapping[str, Any]
Ask = Callable[[Any], bool]  # told of an epoch; whether to go on
Perform = Callable[[Job, Ask], Any]
Start = Callable[..., Perform]  # of a worker, once; its arguments are those that `Pool` was given


class GivenUp(Exception):
    """The driver said to stop."""


@dataclass(frozen=True)
class Message:
    """kind: epoch (answer it), done, stopped (as it was told), failed (it raised; `data` says what), died."""

    worker: int
    kind: str
    job: Job
    data: Any


class Pool:
    """A context. arguments: for `start`, one tuple a worker. Jobs of a worker that died may be submitted again."""

    def __init__(self, start: Start, arguments: Sequence[tuple[Any, ...]]):
        self._start, self._arguments = start, arguments
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._jobs: dict[int, Job] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        for process, connection in self._workers.values():
            process.kill()  # what it made is on the disk; nothing is to be tidied up
            process.join()
            connection.close()
        self._workers = {}

    def idle(self) -> list[int]:
        return [i for i in range(len(self._arguments)) if i not in self._jobs]

    @property
    def jobs(self) -> list[Job]:
        """In work now."""
        return list(self._jobs.values())

    def submit(self, worker: int, job: Job) -> None:
        if worker not in self._workers:  # the first job, or the process before has died
            ours, theirs = self._context.Pipe()
            arguments = (self._start, self._arguments[worker], theirs, os.getpid())
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()  # ours alone is left here, so that its end is seen when the process dies
            self._workers[worker] = process, ours
        self._jobs[worker] = job
        with suppress(OSError):  # it has died: `next` tells
            self._workers[worker][1].send(job)

    def answer(self, message: Message, go_on: bool) -> None:
        with suppress(OSError):
            self._workers[message.worker][1].send(go_on)

    def next(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None where none came in time."""
        busy = {self._workers[i][1]: i for i in self._jobs}
        for connection in wait(list(busy), timeout_s):
            worker = busy[connection]  # ty: ignore[invalid-argument-type]
            job = self._jobs[worker]
            try:
                kind, data = self._workers[worker][1].recv()
            except (EOFError, OSError):
                process, connection = self._workers.pop(worker)
                process.join()
                connection.close()
                del self._jobs[worker]
                return Message(worker, "died", job, process.exitcode)
            if kind != "epoch":
                del self._jobs[worker]
            return Message(worker, kind, job, data)
        return None


def _serve(start: Start, arguments: tuple[Any, ...], connection: Connection, parent: int) -> None:
    """A worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the driver ends its workers itself
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    perform: Perform | None = None
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return

        def ask(data: Any) -> bool:
            connection.send(("epoch", data))
            return connection.recv()

        try:
            perform = perform or start(*arguments)
            connection.send(("done", perform(job, ask)))
        except GivenUp:
            connection.send(("stopped", None))
        except (EOFError, BrokenPipeError):
            return
        except Exception as error:  # the driver decides what it means for the trial; a traceback in a log helps nobody
            connection.send(("failed", (type(error).__name__, refused(error) or str(error))))


def _end_with(parent: int) -> None:
    """Ends this process when the driver has: else it would train on beside the one that goes on with its work."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
