"""A path that is meant to be a file: reading a pipe waits for ever, and a device may have no
end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from m3h_pipeline.errors import InputError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_regular_file(file: Path) -> bool:
    """Whether a regular file, or a link to one, lies there; false where nothing does.

    Raises `InputError` where something else lies there: it must not pass for an absent table.
    """
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        if os.path.islink(file):
            raise InputError(
                f"{file} is a link that leads nowhere: put the file there, or take it away"
            ) from None
        return False
    except NotADirectoryError:
        return False
    except OSError as error:
        raise InputError(
            f"{file} can't be looked at ({error.strerror}): see who may read it"
        ) from None
    if stat.S_ISREG(mode):
        return True
    kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")
    raise InputError(f"{file} is {kind}, not a file: put the file itself there, or take this away")
