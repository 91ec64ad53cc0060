"""What is said to MLflow, as data: so that it can be kept while MLflow cannot be reached, and said later.

A call is a dict that JSON can hold. Each may be made twice without harm, because nobody knows whether a call that timed
out had arrived: what creates something carries an id of ours, by which it is found again.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException

from pipeline.config.mistakes import first_line
from pipeline.tracking.lines import Call
from pipeline.tracking.registry import OUR_ID, log_ensemble, name_output
from pipeline.tracking.uploads import Refused, check_seen, files_of

# what another try would not change; everything else may be the store's or the network's bad day
NEVER = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "MALFORMED_REQUEST",
         "INVALID_STATE", "INVALID_STATE_TRANSITION"}  # fmt: skip

BATCH = 1000  # metrics that one call of MLflow's may carry


def now_ms() -> int:
    return int(time.time() * 1000)


def ended(run_id: str, status: str) -> dict[str, Any]:
    return {"call": "end", "run": run_id, "status": status, "time": now_ms()}


def send(client: MlflowClient, experiment_id: str, call: Call, again: bool = False) -> str:
    """Makes the call; the id that MLflow gave to what it created, else empty.

    again: the call comes from a journal, so it may have been made before, and holds what it likes. Raises `Refused`,
    `Unseen`, or whatever shows that MLflow cannot be reached.
    """
    try:
        return _send(client, experiment_id, call, again) or ""
    except (Refused, OSError):
        raise
    except MlflowException as error:
        # SQL errors of a broken store and of a bad value look alike
        if error.error_code in NEVER or (error.error_code == "BAD_REQUEST" and answers(client, experiment_id)):
            raise Refused(first_line(error)) from error
        raise
    except Exception as error:  # a value that MLflow does not expect; stores of files raise kinds of their own
        if again and "file" not in call and answers(client, experiment_id):
            raise Refused(first_line(error)) from error
        raise


def _send(client: MlflowClient, experiment_id: str, call: Call, again: bool) -> str | None:
    run = call.get("run", "")
    match call["call"]:
        case "start":
            tags = {**call["tags"], OUR_ID: call["id"]} | (
                {"mlflow.parentRunId": call["parent"]} if call["parent"] else {}
            )
            known = client.search_runs([experiment_id], f"tags.`{OUR_ID}` = '{call['id']}'") if again else []
            made = known[0] if known else client.create_run(experiment_id, call["time"], tags, call["name"])
            return made.info.run_id
        case "resume":
            client.update_run(run, status="RUNNING", name=call["name"])
        case "rename":
            client.update_run(run, name=call["name"])
        case "end":
            client.set_terminated(run, call["status"], call["time"])
        case "params":
            client.log_batch(run, params=[Param(key, value) for key, value in call["params"].items()])
        case "metrics":
            client.log_batch(run, metrics=_metrics(call))
        case "curve":
            each = [{**call, "step": step, "metrics": metrics} for step, metrics in call["steps"]]
            values = [metric for one in each for metric in _metrics(one)]
            for start in range(0, len(values), BATCH):
                client.log_batch(run, metrics=values[start : start + BATCH])
        case "tags":
            client.log_batch(run, tags=[RunTag(key, value) for key, value in call["tags"].items()])
        case "artifact":
            path, folder = Path(call["file"]), call["folder"]
            sizes = files_of(path)
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run, str(path), folder or None)
            if again:  # the journal's copy is deleted next
                check_seen(lambda name: client.list_artifacts(run, name), sizes, folder)
        case "text":
            client.log_text(run, call["text"], call["name"])
        case "inputs":
            client.log_inputs(run, [_dataset(dataset) for dataset in call["datasets"]])
        case "model":
            return _model(client, experiment_id, call)
        case "ensemble":
            return log_ensemble(client, experiment_id, call)
        case other:
            raise Refused(f"nobody knows the call {other!r}")
    return None


def _metrics(call: Call, model_id: str | None = None) -> list[Metric]:
    values = call["metrics"].items()
    return [Metric(key, float(value), call["time"], call["step"], model_id=model_id) for key, value in values]


def _dataset(data: Mapping[str, str]) -> DatasetInput:
    dataset = Dataset(data["name"], data["digest"], "local", data["source"], profile=data["profile"])
    return DatasetInput(dataset, [InputTag("mlflow.data.context", data["context"])])


def _model(client: MlflowClient, experiment_id: str, call: Call) -> str:
    """A checkpoint in MLflow's Models view, with the metrics that it is ranked by; the file is the run's artifact."""
    known = client.search_logged_models([experiment_id], f"tags.`{OUR_ID}` = '{call['id']}'")
    if known:
        model = known[0]
    else:
        tags = {**call["tags"], OUR_ID: call["id"], "mlflow.model.isExternal": "true"}
        model = client.create_logged_model(experiment_id, call["name"], call["run"], tags, call["params"], "checkpoint")
    client.finalize_logged_model(model.model_id, "READY")
    client.log_batch(call["run"], metrics=_metrics(call, model.model_id))
    for run in filter(None, (call["run"], call["parent"])):
        name_output(client, run, model.model_id, call["step"])
    return model.model_id


def answers(client: MlflowClient, experiment_id: str) -> bool:
    """Whether the store answers to something else."""
    try:
        client.get_experiment(experiment_id)
    except Exception:  # then it is the store: the caller raises what it had, which is told, and its call is kept
        return False
    return True
