"""`--fix`: a table that leaves out what cannot be used. The organisers' files and the user's are never touched.

In: the mistakes that stopped a stage. Out: a new CSV beside the experiment (`image_id,label,reason`), for
`competition.fixes_csv`; with the rows of the fixes that are in use already, so that one table says all.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.atomic import atomic
from pipeline.config.data import Declared
from pipeline.config.mistakes import Mistake, shown
from pipeline.config.settings import ROOT


def write_fixes(mistakes: Sequence[Mistake], settings: Declared, name: str) -> str:
    """Writes the table under a name that no file has yet; returns what to tell the user."""
    reasons = {mistake.image_id: mistake.found for mistake in mistakes if mistake.image_id}
    n_left = len({mistake.where for mistake in mistakes if not mistake.image_id})
    rest = f"; {n_left:,} mistakes remain that leaving out training rows does not mend" if n_left else ""
    if not reasons:
        return f"--fix: nothing that leaving out training rows would mend{rest}"
    rows = [(image_id, "", reason) for image_id, reason in reasons.items()]
    path = ROOT / settings.fixes_csv
    if settings.fixes_csv != "none" and path.is_file():
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            table = [row for row in csv.DictReader(file) if row.get("image_id") and row.get("label") is not None]
        before = [(row["image_id"], row["label"], row.get("reason") or "") for row in table]
        rows = [row for row in before if row[0] not in reasons] + rows
    target = _free(ROOT / "experiments", f"{name}-fixes")
    with atomic(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "label", "reason"])
        writer.writerows(rows)
    told = f"--fix: {shown(target)} leaves out {len(reasons):,} training rows; look at it, then set "
    return f"{told}competition.fixes_csv: {shown(target)}{rest}"


def _free(folder: Path, stem: str) -> Path:
    number = 1
    while (path := folder / f"{stem}{'' if number == 1 else f'-{number}'}.csv").exists():
        number += 1
    return path
