"""How bad input is told to the user: all of it at once, each mistake with its place, what was found and what is valid.

In: places and facts, collected by whoever checks something. Out: one exception, `Mistakes`, that `__main__` prints
before it exits with status 2. Nothing is written by then: checks come before work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipeline.config.secrets import hidden
from pipeline.config.settings import ROOT

SHOWN_OF_A_KIND = 10
LONGEST = 2000  # characters of one mistake
LONGEST_WORD = 200  # for which a similar one is looked for


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in what the user gave.

    where: file and row (`data/digits/train.csv:14`) or dotted setting and file (`train.lr (SET)`).
    found: what stands there. valid: what could stand there. kind: groups alike mistakes, so that 10,000 missing
    images do not bury one duplicate id. image_id: of a training row that is wrong, where leaving it out would
    mend that.
    """

    where: str
    found: str
    valid: str
    kind: str
    image_id: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}; {self.valid}"
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} ... {text[-190:]}"


class Mistakes(Exception):
    """Everything that is wrong with the input, raised before any work. `__main__` turns it into exit status 2."""

    def __init__(self, mistakes: Iterable[Mistake]):
        self.mistakes = list(mistakes)
        super().__init__(self._text())

    def _text(self) -> str:
        n = len(self.mistakes)
        lines = [f"{n:,} mistake{'s' if n != 1 else ''} in the input:"]
        by_kind: dict[str, list[Mistake]] = {}
        for mistake in self.mistakes:
            by_kind.setdefault(mistake.kind, []).append(mistake)
        for kind, members in by_kind.items():
            lines += [f"  {mistake}" for mistake in members[:SHOWN_OF_A_KIND]]
            if len(members) > SHOWN_OF_A_KIND:
                lines.append(f"  ... and {len(members) - SHOWN_OF_A_KIND:,} more of this kind ({kind})")
        return "\n".join(lines)


class Stopped(Exception):
    """Work that began and cannot go on: why, and what to try. `__main__` exits with status 1 and no traceback."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """`"; did you mean X?"` for the closest of `valid`, or nothing where none is close."""
    if len(word) > LONGEST_WORD:  # a whole text in a cell; the search grows with the square of it
        return ""
    close = get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 50) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def shown(path: Path) -> str:
    """A path as the user knows it: from the repository's root where it lies inside."""
    path = Path(path).absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def first_line(error: BaseException) -> str:
    """What an error says, short enough for one line."""
    text = hidden(str(error).strip())
    return f"{type(error).__name__}: {text.splitlines()[0][:200] if text else 'no message'}"
