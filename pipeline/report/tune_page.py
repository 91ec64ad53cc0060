"""The page of a tuning study: one self-contained HTML file.

In: the study as plain data: its trials, space, importance, confirmed settings and verdict. Out: `tune.html` and the
pictures of `tune_pictures` in a folder. Names and values of parameters are a stranger's words: the template escapes
all of them. Nothing is fetched, no script runs. Differences are positive where a setting is better, also where less is
better, as in `compare`.
"""

import base64
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from pipeline.atomic import atomic
from pipeline.report import tune_pictures
from pipeline.report.tune_study import STATES, ordered, shown, worth

PICTURES = {  # file -> title, how to read it
    "history": (
        "Trial by trial",
        "Each mark is a trial in the order they were started; the line is the best finished score so far. A flat end "
        "means that more trials found nothing better; what has no score stands at the bottom edge.",
    ),
    "slices": (
        "Parameter by parameter",
        "Each mark is a trial: look for a side of a panel where the scores are better. A best value at the edge of its "
        "range asks for a wider range.",
    ),
    "parallel": (
        "Settings as lines",
        "Follow the dark lines upwards from the better scores: where they meet, good settings agree on a value.",
    ),
    "curves": (
        "Learning curves",
        "Each line is a trial. A cross is where its last fold was stopped; a line that goes on behind it is of folds "
        "before. Crosses among the dark lines would mean that pruning is too eager.",
    ),
    "confirmed": (
        "Confirmed with fresh seeds",
        "A score that falls from the circle to the diamond owed its rank to luck. A difference whose bar crosses the "
        "dashed line is not told apart from the baseline.",
    ),
}


def write_tune(study: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the page and the pictures that there is enough for; returns their paths, the page first."""
    pictures = tune_pictures.draw(study, folder)
    page = folder / "tune.html"
    with atomic(page) as temporary:
        temporary.write_text(render(study, {path.stem: path.read_bytes() for path in pictures}), encoding="utf-8")
    return [page, *pictures]


def render(study: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page as text. pictures: PNG files by name."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"shown": shown, "duration": duration, "score": score, "signed": signed}
    template = environment.from_string(Path(__file__).with_suffix(".html.jinja").read_text(encoding="utf-8"))
    trials = ordered(study)
    base = next((trial for trial in trials if trial["is_baseline"]), None)
    states = Counter(trial["state"] for trial in trials)
    return template.render(
        s={**study, "made": {"code_version": "", "command": "", **study["made"]}},
        trials=trials,
        worth=[worth(trial) for trial in trials],
        states=[(state, states[state]) for state in STATES if states[state]],
        base=base,
        base_params=base["params"] if base else {},
        chosen=[entry["number"] for entry in study["confirmed"] if entry["chosen"]],
        # the space's order, then what only older trials have
        params=list(dict.fromkeys([*study["space"], *(name for trial in trials for name in trial["params"])])),
        how=PICTURES,
        pictures={k: f"data:image/png;base64,{base64.b64encode(png).decode()}" for k, png in pictures.items()},
    )


def score(value: float | None) -> str:
    """Four decimals, which is finer than any noise; words where there is no number."""
    return f"{value:,.4f}" if value is not None and math.isfinite(value) else "none"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return f"{value:+,.4f}" if value is not None and math.isfinite(value) else "none"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 05 min`"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
