"""What earlier commands left: calls that they kept are sent, and runs that they left open are closed.

What is wrong with one of them is told in a line, stays where it is, and stops nothing else.
"""

from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient

from pipeline.config.mistakes import first_line
from pipeline.tracking.alive import OpenRuns
from pipeline.tracking.calls import NEVER, answers, ended, send
from pipeline.tracking.outbox import Outbox, Waits, real_id
from pipeline.tracking.registry import OUR_ID
from pipeline.tracking.uploads import Refused


class Earlier:
    """say: tells the user a line."""

    def __init__(
        self, client: MlflowClient, experiment_id: str, outbox: Outbox, open_runs: OpenRuns, say: Callable[[str], None]
    ):
        self.client, self.experiment_id, self.outbox, self.open_runs, self.say = (
            client, experiment_id, outbox, open_runs, say)  # fmt: skip
        self.n_sent = 0  # calls
        self.n_elsewhere = self.n_stuck = 0  # journals that wait for another store; that MLflow does not take now

    @property
    def n_running(self) -> int:
        """Journals of commands that still run."""
        return len(self.outbox.journals()) - self.n_elsewhere - self.n_stuck

    def send(self, send_again: Callable[[dict[str, Any], bool], str], refused: Callable[[Any, Refused], None]) -> None:
        def make(call: dict[str, Any]) -> None:
            try:
                made = send_again(call, True)
            except Refused as error:
                refused(call, error)
                return
            if made:
                self.outbox.named(call["id"], made)
            self.n_sent += 1

        for journal in self.outbox.journals():
            try:
                for what in self.outbox.send(journal, make):
                    self.say(f"{what}; it is set aside in refused.jsonl beside it, and the rest is sent")
            except Waits as why:
                self.n_elsewhere += str(why) == "another store"
            except Exception as error:
                self.n_stuck += 1
                self._go_on_after(error, "what an earlier command kept in mlruns/outbox/ cannot be sent now")
        self.outbox.tidy()
        if self.n_sent:
            self.say(f"{self.n_sent} calls to MLflow that an earlier command kept are sent now")
        if n := self.n_elsewhere:
            self.say(f"the record of {n} earlier commands waits for another store than this one: make sync with the "
                     "MLFLOW_TRACKING_URI that they had sends it")  # fmt: skip

    def close(self) -> None:
        """Raises OSError where the disk does not take the note of it."""
        for name in self.open_runs.close_orphans(self._close):
            self.say(f"mlruns/.open/{name} holds lines that are no note of a run; they are left out")

    def _close(self, noted: str, experiment: str) -> bool:
        """False: MLflow does not have the run yet, or does not close it now. Gone on with, it is opened again."""
        try:
            run = self.client.get_run(real) if (real := self._made(noted, experiment)) else None
            if run and run.info.status in ("RUNNING", "SCHEDULED"):
                send(self.client, self.experiment_id, ended(run.info.run_id, "KILLED"))
            return bool(run) or not self.outbox.holds(noted)  # in neither: it was noted and never made
        except Exception as error:
            if getattr(error, "error_code", "") in NEVER or isinstance(error, Refused):  # deleted meanwhile
                return True
            self._go_on_after(error, "a run that an earlier command left open cannot be closed now")
            return False

    def _made(self, noted: str, experiment: str) -> str:
        """MLflow's id of a run that may have been noted before MLflow made it; empty where it did not."""
        if (real := real_id(noted, self.outbox.root)) or not experiment:
            return real
        at = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs([at.experiment_id], f"tags.`{OUR_ID}` = '{noted}'") if at else []
        return runs[0].info.run_id if runs else ""

    def _go_on_after(self, error: Exception, what: str) -> None:
        if not answers(self.client, self.experiment_id):
            raise error
        self.say(f"{what} ({first_line(error)}); it stays there")
