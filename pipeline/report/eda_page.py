"""The page of the first look: one self-contained HTML file, and the same figures as PNG for MLflow.

In: `findings` (as in `findings.json`) and thumbnails by key (`train:ID`, `test:ID`). Out: `eda.html` and pictures in a
folder. Names, ids and paths are a stranger's words: the template escapes all of them. Nothing is fetched, no script
runs.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pipeline.atomic import atomic
from pipeline.report import eda_pictures

LEVELS = ("error", "warning", "note", "good")
MAX_BARS = 40  # classes whose bar stands on the page unfolded
MAX_CLASSES = 120  # of which samples are shown
MEASURES = {  # key -> title, unit, digits
    "width": ("Width", "px", 0),
    "height": ("Height", "px", 0),
    "aspect": ("Width to height", "", 2),
    "brightness": ("Brightness", "0 black, 1 white", 2),
    "contrast": ("Contrast", "deviation", 2),
    "sharpness": ("Sharpness", "log10", 1),
}


def thumbnails_wanted(findings: Mapping[str, Any]) -> list[str]:
    """Keys of all images that the page shows, each once."""
    keys = [key for finding in findings["findings"] for images in finding["images"] for key in images]
    keys += [key for sample in findings["samples"][:MAX_CLASSES] for key in sample["images"]]
    return list(dict.fromkeys(keys))


def write_eda(findings: Mapping[str, Any], thumbnails: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    """Writes the page and the pictures; returns their paths. thumbnails: (h, w, 1 or 3) uint8 for each wanted key."""
    pictures = eda_pictures.draw(findings, thumbnails, folder)
    page = folder / "eda.html"
    with atomic(page) as temporary:
        temporary.write_text(render(findings, thumbnails), encoding="utf-8")
    return [page, *pictures]


def render(findings: Mapping[str, Any], thumbnails: Mapping[str, np.ndarray]) -> str:
    """The page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_suffix(".html.jinja").read_text(encoding="utf-8"))
    levels = [finding["level"] for finding in findings["findings"]]
    classes = (
        sorted(findings["classes"], key=lambda entry: -entry["n"])
        if len(findings["classes"]) > 40
        else findings["classes"]
    )
    return template.render(
        f={
            **findings,
            "samples": findings["samples"][:MAX_CLASSES],
            "made": {"code_version": "", **findings.get("made", {})},
        },
        levels=[(level, levels.count(level)) for level in LEVELS if level in levels],
        thumbnails={key: _embedded(pixels) for key, pixels in thumbnails.items()},
        class_rows=[(entry["name"], entry["means"], entry["n"]) for entry in classes],
        class_top=max((entry["n"] for entry in classes), default=1) or 1,
        means={entry["name"]: entry["means"] for entry in findings["classes"]},
        channels=_channels(findings["images"]),
        histograms=_histograms(findings["images"]),
        shift_svg=_shift_svg(findings["shift"]),
    )


def findings_lines(findings: Mapping[str, Any]) -> list[str]:
    """The findings as a terminal shows them: a line each, and what to do about it on the next."""
    lines = []
    for finding in findings["findings"]:
        lines.append(f"{finding['level']}: {finding['title']}")
        if finding["level"] in ("error", "warning") and finding["do"]:
            setting = f" [{finding['setting']}]" if finding["setting"] else ""
            lines.append(f"  -> {finding['do']}{setting}")
    return lines


def _channels(images: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels: one where all images are grey."""
    means = [tuple(images[side]["mean"]) for side in ("train", "test") if images[side]["mean"]]
    if not means:
        return ()
    return ("grey",) if all(len(set(mean)) == 1 for mean in means) else ("red", "green", "blue")


def _embedded(pixels: np.ndarray) -> str:
    """A data URI: JPEG for what is larger than an icon, PNG for what JPEG would smear."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = max(image.size) <= 32
    if small:  # enlarged without smoothing, so that the pixels can be seen
        scale = 96 // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 82}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _histograms(images: Mapping[str, Any]) -> list[tuple[str, str, Markup, tuple[str, ...]]]:
    """(title, unit, drawing, (lowest, median, highest) of train) for each measure that varies."""
    found = []
    for key, (title, unit, digits) in MEASURES.items():
        train, test = images["train"][key], images["test"][key]
        if not train["counts"] or train["low"] == train["high"]:
            continue
        ends = tuple(f"{train[end]:,.{digits}f}" for end in ("low", "median", "high"))
        found.append((title, unit, _histogram_svg(train["counts"], test["counts"]), ends))
    return found


def _histogram_svg(train: list[int], test: list[int]) -> Markup:
    """Shares of train as bars, of test as a line over them; numbers only, so nothing of a stranger's is in it."""
    shares = [np.array(counts) / max(sum(counts), 1) for counts in (train, test) if counts]
    top = max(float(share.max()) for share in shares) or 1.0
    width = 240 / len(train)
    bars = [
        f'<rect class="train" x="{i * width + 0.5:.1f}" y="{80 - 76 * share / top:.1f}" width="{width - 1:.1f}" '
        f'height="{76 * share / top:.1f}"/>'
        for i, share in enumerate(shares[0])
    ]
    line = ""
    if test and sum(test):
        points = [(i, 80 - 76 * share / top) for i, share in enumerate(shares[1])]
        path = "M0 80" + "".join(f"V{y:.1f}H{(i + 1) * width:.1f}" for i, y in points) + "V80"
        line = f'<path class="test" d="{path}"/>'
    body = "".join(bars) + line + '<path d="M0 80H240" stroke="currentColor" stroke-opacity=".35"/>'
    return Markup(f'<svg viewBox="0 0 240 82" role="img" aria-label="histogram">{body}</svg>')  # noqa: S704 - numbers


def _shift_svg(shift: Mapping[str, Any]) -> Markup:
    """The AUC with its interval on a scale from 0.4 to 1, over the band of what the training set gives by itself."""

    def x(value: float) -> float:
        return 20 + 460 * (min(max(value, 0.4), 1.0) - 0.4) / 0.6

    ticks = "".join(
        f'<path d="M{x(v):.1f} 44v5" stroke="currentColor" stroke-opacity=".5"/><text x="{x(v):.1f}" y="64" '
        f'text-anchor="middle" font-size="13" fill="currentColor" fill-opacity=".75">{v:.1f}</text>'
        for v in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    )
    low, high, auc = x(shift["low"]), x(shift["high"]), x(shift["auc"])
    band = f'<rect x="{x(shift["null_low"]):.1f}" y="10" width="{x(shift["null_high"]) - x(shift["null_low"]):.1f}" '
    band += 'height="34" fill="var(--blue)" fill-opacity=".22"/>'
    own = f'<path d="M{low:.1f} 27H{high:.1f}" stroke="var(--orange)" stroke-width="3"/>'
    own += f'<circle cx="{auc:.1f}" cy="27" r="6" fill="var(--orange)"/>'
    axis = '<path d="M20 44H480" stroke="currentColor" stroke-opacity=".5"/>'
    label = "AUC of train against test, over the band of train against train"
    return Markup(f'<svg viewBox="0 0 500 70" role="img" aria-label="{label}">{band}{axis}{ticks}{own}</svg>')  # noqa: S704
