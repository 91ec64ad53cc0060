"""From settings to a `Competition`: the one place that knows which sources there are."""

from pipeline.competition import csv, digits
from pipeline.competition.contract import Competition
from pipeline.config.settings import ROOT, CsvCompetition, DigitsCompetition


def open_competition(settings: CsvCompetition | DigitsCompetition) -> Competition:
    """Reads what the organisers gave; `digits` is written at first use. Its `mistakes` say what is wrong."""
    if isinstance(settings, DigitsCompetition):
        digits.write(ROOT / settings.root)
    return csv.read(settings)
