"""From settings to a `Competition`: the one place that knows which sources there are."""

from pipeline.competition import csv, digits, folder, mask
from pipeline.competition.contract import Competition
from pipeline.competition.paths import root_of
from pipeline.config.data import CsvCompetition, DigitsCompetition, FolderCompetition, MaskCompetition


def open_competition(
    settings: CsvCompetition | DigitsCompetition | FolderCompetition | MaskCompetition,
) -> Competition:
    """Reads what the organisers gave; `digits` is written at first use. Its `mistakes` say what is wrong."""
    if isinstance(settings, FolderCompetition):
        return folder.read(settings)
    if isinstance(settings, MaskCompetition):
        return mask.read(settings)
    if isinstance(settings, DigitsCompetition):
        digits.write(root_of(settings))
    return csv.read(settings)
