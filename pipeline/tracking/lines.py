"""A journal's line, read back. Whoever can write to the disk may have written it: it is checked before it is sent."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.tracking.uploads import Refused

Call = Mapping[str, Any]
# what each call holds beside its name (`calls` makes them)
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "store": {"store": str},
    "start": {"id": str, "name": str, "tags": dict, "parent": str, "time": int},
    "resume": {"run": str, "name": str},
    "rename": {"run": str, "name": str},
    "end": {"run": str, "status": str, "time": int},
    "params": {"run": str, "params": dict},
    "metrics": {"run": str, "metrics": dict, "step": int, "time": int},
    "curve": {"run": str, "steps": list, "time": int},
    "tags": {"run": str, "tags": dict},
    "artifact": {"run": str, "file": str, "folder": str},
    "text": {"run": str, "text": str, "name": str},
    "inputs": {"run": str, "datasets": list},
    "model": {"id": str, "run": str, "name": str, "params": dict, "metrics": dict, "step": int, "tags": dict,
              "parent": str, "time": int},
    "ensemble": {"id": str, "run": str, "name": str, "score": dict, "metrics": dict, "time": int, "file": str},
}  # fmt: skip


def parsed(line: bytes, experiment: str) -> Call:
    """A journal's line. Raises `Refused` for what is no call, or none that this experiment's journal may hold."""
    try:
        call = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("it is no JSON") from None
    fields = FIELDS.get(call.get("call", "")) if isinstance(call, dict) and isinstance(call.get("call"), str) else None
    if fields is None:
        raise Refused("it is no call of Podium's")
    if wrong := [name for name, kind in fields.items() if not isinstance(call.get(name), kind)]:
        raise Refused(f"its {', '.join(wrong)} cannot be read")
    inside = PurePosixPath(call["name"] if call["call"] == "text" else call.get("folder", ""))
    if inside.is_absolute() or ".." in inside.parts:
        raise Refused("its place lies outside of the run")
    if call["call"] == "ensemble" and call["name"] != experiment:
        raise Refused(f"it registers a model of another experiment ({call['name']!r})")
    return call
