"""What the system refuses (no room, no permission, too many open files), in one line instead of a traceback.

In: an exception with all that led to it. Out: what happened, to which file, and what to do; nothing where the error is
of another kind. Libraries wrap such errors or say them in words of their own, so causes and words are looked at too.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.mistakes import shown
from pipeline.config.settings import RUNS

RIGHTS = "write there as another user, or work in a checkout of your own"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDIES = {
    errno.ENOSPC: "make room, and the same command goes on",
    errno.EDQUOT: "make room within your quota, and the same command goes on",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and the same command goes on",
    errno.EMFILE: "raise the limit on open files (ulimit -n), and the same command goes on",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: RIGHTS,
    errno.ENOENT: "it was removed while the command worked, or never was there; the same command makes it again",
    errno.EIO: "the disk, or the way to it, is broken: copy what matters to another one",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EINVAL: "a path may hold no NUL character",
}
# what libraries say instead of a number; torch says the first two where it cannot write a file whole
WORDS = {os.strerror(number): number for number in REMEDIES if number != errno.EINVAL} | {
    "unexpected pos": errno.ENOSPC,
    "PytorchStreamWriter failed writing": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
    "Parent directory": errno.ENOENT,
    "embedded null": errno.EINVAL,
}


def refused(error: BaseException) -> str:
    """One line for the user; empty where it is no error of the system's."""
    # a full disk makes other things fail as well, so it is looked for in all that went before
    full = [each for each in _chain(error, "__cause__", "__context__") if _number(each) in FULL]
    for each in [*full, *(cause for cause in _chain(error, "__cause__") if _number(cause))]:
        number, name = _number(each), getattr(each, "filename", None)
        path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) and name else None
        return f"{_reason(number, path)}{f': {_named(path)}' if path else ''}; {REMEDIES.get(number, 'look there')}"
    return ""


def _number(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno and (error.filename is not None or error.errno in REMEDIES):
        return error.errno
    return next((number for words, number in WORDS.items() if words in str(error)), 0)


def _chain(error: BaseException, *links: str) -> Iterator[BaseException]:
    """The error and what led to it."""
    known: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in known:
        known.add(id(following))
        yield following
        following = next((before for link in links if (before := getattr(following, link)) is not None), None)


def _reason(number: int, path: Path | None) -> str:
    reason = os.strerror(number)
    if number not in FULL:
        return reason
    folder = next((each for each in (path or RUNS, *(path or RUNS).parents) if each.is_dir()), Path("/"))
    return f"{reason} ({shutil.disk_usage(folder).free / 1e6:,.0f} MB are free in {shown(folder)})"


def _named(path: Path) -> str:
    """The file that was meant, not the temporary one; a long name is cut."""
    meant = re.sub(r"^\.(.+)\.\d+\.tmp$", r"\1", path.name)
    text = shown(path.with_name(meant)) if meant else shown(path)
    return text if len(text) <= 160 else f"{text[:150]}..."
