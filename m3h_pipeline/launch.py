"""Where a job runs: one resource, chosen by ``[launcher]`` in m3h.toml."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.jobs import FACTS

# Quiet libraries: what a job has to say goes through its log.
_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
}


class JobLauncher(dg.ConfigurableResource):
    """Runs ``m3h_pipeline.jobs.<name>`` as a process of its own and reports its log to Dagster through Pipes."""

    def run(self, context: dg.AssetExecutionContext, job: str, config: dict[str, Any], to: Path) -> dict[str, Any]:
        """Write ``config`` to ``to/.job.json``, start the job, wait, return its facts; raise where it ended badly."""
        file = to / ".job.json"
        file.write_text(json.dumps({**config, "to": str(to)}, indent=1))
        with warnings.catch_warnings():
            # Of a part of Pipes that Dagster itself uses.
            warnings.simplefilter("ignore", dg.PreviewWarning)
            dg.PipesSubprocessClient().run(
                context=context.op_execution_context,
                command=[sys.executable, "-m", f"m3h_pipeline.jobs.{job}", "--config", str(file)],
                env=_ENVIRONMENT | dict(os.environ),
            )
        file.unlink()
        return json.loads((to / FACTS).read_text())
