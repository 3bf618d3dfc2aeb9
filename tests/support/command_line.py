"""`m3h` in this process, where a test is not about the process: a new one takes seconds to import
what it needs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import traceback
from pathlib import Path

from click.testing import CliRunner

from m3h_pipeline.cli.main import main


def m3h(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What the command ends with and says; of an error that it does not catch, the traceback that
    a terminal would show. The environment is afterwards as it was.
    """
    words = [str(argument) for argument in arguments]
    environment = dict(os.environ)
    mask = os.umask(0)
    os.umask(mask)
    try:
        with contextlib.chdir(cwd or Path.cwd()):
            result = CliRunner().invoke(main, words)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.umask(mask)
    errors = result.stderr
    if result.exception and not isinstance(result.exception, SystemExit):
        errors += "".join(traceback.format_exception(result.exception))
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, errors)
