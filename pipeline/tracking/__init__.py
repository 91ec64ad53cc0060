"""MLflow, and the only room that imports it. What follows must be said before it is imported."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # nothing leaves this machine unasked; read when mlflow is imported
os.environ["DO_NOT_TRACK"] = "true"
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 back off for minutes, in silence
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
