"""What a person can write into Dagster's launchpad."""

import dagster as dg
import pytest

from m3h_pipeline.definitions import MAIN_JOB, defs


@pytest.mark.parametrize("resource", ["workspace", "launcher"])
def test_no_run_can_be_sent_to_another_out_folder(resource, tmp_path, monkeypatch):
    monkeypatch.setenv("M3H_OUT", str(tmp_path))
    job = defs.resolve_job_def(MAIN_JOB)
    config = dg.validate_run_config(job, {})
    assert config["resources"][resource]["config"] == {"out": str(tmp_path)}
    elsewhere = {"resources": {resource: {"config": {"out": "/elsewhere"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
        dg.validate_run_config(job, elsewhere)
