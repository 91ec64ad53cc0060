"""A server on 127.0.0.1 and nowhere else, for as long as the user wants it, and ended with all that it started."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config.mistakes import Mistake, Mistakes

HOST = "127.0.0.1"
START_LIMIT_S = 180


def check_port(port: int, verb: str) -> None:
    """Raises `Mistakes` where something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            found = f"port {port} of {HOST} is taken (by an earlier make {verb}?)"
            valid = f"valid: a free one, e.g. make {verb} PORT={port + 1 if port < 65535 else 5001}"
            raise Mistakes([Mistake("port", found, valid, "ports")]) from None


def run(
    command: Sequence[str], port: int, name: str, ready: str, log: Path, folder: Path, environment: Mapping[str, str],
    health: str = "/health", scratch: str = "",
) -> int:  # fmt: skip
    """Starts the command, prints `ready` once `health` answers, and stays until Ctrl-C. Returns the exit status.

    name: for messages. log: its output, of use only when it fails, so it is kept aside until then. scratch: a folder
    that is removed where this process is killed. The server never outlives this process, see `watched`.
    """
    parent = os.getppid()
    reading, writing = os.pipe()
    with log.open("w+") as output:
        command = [sys.executable, "-P", str(Path(__file__).with_name("watched.py")), str(reading), scratch, *command]
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=dict(environment),
                                  start_new_session=True, pass_fds=[reading])  # fmt: skip
        os.close(reading)
        try:
            if not _answers(server, port, health):
                output.seek(0)
                print(f"{name} did not start:\n{output.read()[-3000:]}", file=sys.stderr)
                return 1
            print(f"{ready}\nCtrl-C ends it", flush=True)
            while server.poll() is None and not ("MAKELEVEL" in os.environ and os.getppid() != parent):
                time.sleep(0.2)  # until the server ends, or the `make` that started this process was killed
            return server.poll() or 0
        except (KeyboardInterrupt, SystemExit):
            return 0
        finally:
            _end(server)
            os.close(writing)


def _answers(server: subprocess.Popen, port: int, health: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would look on its own machine
    give_up = time.monotonic() + START_LIMIT_S
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with direct.open(f"http://{HOST}:{port}{health}", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


def _end(server: subprocess.Popen) -> None:
    """Ends the server with the workers it started: they share its process group and would outlive it."""
    if server.poll() is None:
        os.killpg(server.pid, 15)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
