"""How busy the machine is, for MLflow's `System metrics` page: by MLflow's own monitors, without its own sending.

MLflow's thread would call the server by itself and fail beside `Tracker`; here a thread only measures, and what it
measured goes along with an epoch's metrics.
"""

import logging
import threading
from contextlib import suppress
from types import TracebackType

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

INTERVAL_S = 5.0
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)


class SystemSampler:
    """A context that measures every few seconds; `take` gives the means since the last call."""

    def __init__(self, interval_s: float = INTERVAL_S):
        self._interval_s = interval_s
        self._monitors: list[BaseMetricsMonitor] = []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            with suppress(Exception):  # a container may show no network, most machines no GPU: no curve says so
                self._monitors.append(kind())
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._measure, name="system metrics", daemon=True)

    def __enter__(self) -> "SystemSampler":
        self.take()  # the first share of the processor is since nothing, and 0
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._over.wait(self._interval_s):
            self._collect()

    def _collect(self) -> None:
        with self._lock:
            for monitor in self._monitors:
                with suppress(Exception):  # what cannot be measured now is left out
                    monitor.collect_metrics()

    def take(self) -> dict[str, float]:
        """`system/...` -> mean since the last call; at least one measurement."""
        self._collect()
        found: dict[str, float] = {}
        with self._lock:
            for monitor in self._monitors:
                with suppress(Exception):  # likewise
                    found |= {f"system/{name}": float(v) for name, v in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
        return found
