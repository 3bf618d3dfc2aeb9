"""Tell people that something needs them: a command, a web address, or both, from ``[notify]`` in
m3h.toml.

A message names runs, snapshots and steps, never an error's own text: that may quote a patient's
value.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request

from m3h_pipeline.config import NotifyConfig

_SECONDS = 30


def notify(config: NotifyConfig, message: str) -> list[str]:
    """Send a message by every way that is configured; returns what went wrong, so that the caller
    can log it.
    """
    problems = []
    if config.command:
        try:
            subprocess.run(
                config.command, shell=True, input=message, text=True, check=True, timeout=_SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            problems.append(f"[notify] command failed ({type(error).__name__})")
    if config.webhook:
        body = json.dumps({"text": message}).encode()
        request = urllib.request.Request(config.webhook, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS):
                pass
        except OSError as error:
            problems.append(f"[notify] webhook failed ({type(error).__name__})")
    return problems
