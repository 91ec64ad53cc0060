"""From settings to a `Competition`: the one place that knows which sources there are."""

from pipeline.competition import csv, digits, folder, mask
from pipeline.competition.assemble import Found, assemble
from pipeline.competition.contract import Competition
from pipeline.competition.paths import DATA, root_of
from pipeline.config.data import CsvCompetition, Declared, DigitsCompetition, FolderCompetition, MaskCompetition
from pipeline.config.mistakes import Mistake, shown


def open_competition(
    settings: CsvCompetition | DigitsCompetition | FolderCompetition | MaskCompetition,
) -> Competition:
    """Reads what the organisers gave; `digits` is written at first use. Its `mistakes` say what is wrong."""
    if isinstance(settings, DigitsCompetition):
        digits.write(root_of(settings))
    elif not root_of(settings).is_dir():
        return absent(settings)
    if isinstance(settings, FolderCompetition):
        return folder.read(settings)
    if isinstance(settings, MaskCompetition):
        return mask.read(settings)
    return csv.read(settings)


def absent(settings: Declared) -> Competition:
    """An empty competition with one mistake: its folder is not there, so no table of it needs to be named."""
    place = f"competition.root={settings.root}"
    valid = f"valid: the folder of the organisers' files; {DATA}=FOLDER stands in for data/"
    mistake = Mistake(place, f"there is no folder {shown(root_of(settings))}", valid, "missing folders")
    return assemble(settings, Found(root_of(settings), place, [], []), [mistake])
