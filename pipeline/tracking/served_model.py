"""The model that leaves the building: MLflow runs this file ("models from code") wherever a package is opened.

In: a DataFrame with either `image`, bytes of an image file (base64 over HTTP), or `path`, its place. Out: a row each:
`class`, the answer in the submission's words (for a regression a number), and `p_NAME`, the probability of each class.
Decoding and preprocessing are the pipeline's own, from the checkpoints and from the side of the image store they were
trained from, so that the answers are those of `make submit` on the same kind of device. Nothing is unpickled: this
file, our package beside it, and safetensors files whose hashes are in the package are all there is.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pipeline.answers import labels_of
from pipeline.images.decode import Unreadable
from pipeline.infer import Ensemble, refuse_altered
from pipeline.model import pick_device

COLUMNS = ("image", "path")
# MLflow's word for its servers, and ours: a stranger who may ask must not have this machine's files opened
SERVED = ("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "PODIUM_SERVED")


class ServedEnsemble(PythonModel):
    """The folds' models, and how their answers are said."""

    def load_context(self, context: Any) -> None:
        """Raises `Mistakes` where a checkpoint is not the one that was packaged."""
        config = context.model_config
        paths = [Path(context.artifacts[name]) for name in config["checkpoints"]]
        for path, recorded in zip(paths, config["sha256"], strict=True):
            refuse_altered(path, recorded)
        self.ensemble = Ensemble(paths, pick_device(config["device"]), config["store_side"])
        self.label_texts, self.separator = config["label_texts"], config["separator"]

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Raises MlflowException (over HTTP status 400) that names the rows which cannot be answered."""
        try:
            outputs = self.ensemble.outputs(_sources(model_input))
        except Unreadable as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        kind = self.ensemble.task.kind
        if kind == "regression":
            return pd.DataFrame({"class": outputs[:, 0].astype(np.float64)})
        answers = pd.DataFrame({"class": labels_of(outputs, kind, self.label_texts, self.separator)}, dtype="str")
        columns = [f"p_{name}" for name in self.label_texts]
        return pd.concat([answers, pd.DataFrame(outputs.astype(np.float64), columns=columns)], axis=1)


def _sources(table: pd.DataFrame) -> list[str | bytes]:
    """What is to be read for each row."""
    given = [name for name in COLUMNS if name in table and not (len(table) and table[name].isna().all())]
    if len(given) != 1:
        found = f"found {' and '.join(given) or 'neither'}"
        raise MlflowException.invalid_parameter_value(f"{found}; valid: a column `image` (bytes) or a column `path`")
    if given == ["path"] and any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in SERVED):
        raise MlflowException.invalid_parameter_value("paths are not opened for others; valid: a column `image`")
    sources, kind = list(table[given[0]]), str if given == ["path"] else (bytes, bytearray)
    if strange := [row for row, source in enumerate(sources) if not isinstance(source, kind) or not source]:
        rows = ", ".join(map(str, strange[:5]))
        raise MlflowException.invalid_parameter_value(f"row {rows}: `{given[0]}` is empty or of another type")
    return sources if given == ["path"] else [bytes(source) for source in sources]


set_model(ServedEnsemble())
