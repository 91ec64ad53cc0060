"""Runs a command until it ends, or until the process that asked for it is gone, however that one ended.

`python watched.py DESCRIPTOR FOLDER COMMAND ...`, as the leader of a process group. The descriptor is the reading end
of a pipe whose other end the asking process alone holds. The system closes that end with the process, after SIGKILL
too, on Linux and macOS alike. Then the group is ended and FOLDER (may be empty) is removed.
"""

import os
import select
import shutil
import signal
import subprocess
import sys


def main(descriptor: int, folder: str, command: list[str]) -> int:
    """Returns the exit status of the command."""
    # a handler, since a signal that is ignored would be ignored by the command as well
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = subprocess.Popen(command)
    while server.poll() is None:
        if select.select([descriptor], [], [], 0.2)[0]:
            os.killpg(0, signal.SIGTERM)
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            os.killpg(0, signal.SIGKILL)  # workers that are still there, and this process
    os.killpg(0, signal.SIGTERM)  # workers that outlived the command
    return server.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
