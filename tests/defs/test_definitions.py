"""The graph that people see: its assets, and what loading it may import."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from m3h_pipeline.definitions import MAIN_JOB, defs
from m3h_pipeline.defs.metadata import to_materialization
from m3h_pipeline.state.steps import Step

pytestmark = pytest.mark.slow(20)

TABLES = ["samples", "events", "codes", "notes", "images", "labels", "embeddings"]
# What m3h_core knows nothing of, and what would cost each of Dagster's processes seconds.
OUTER_WORLD = ["dagster", "mlflow", "duckdb", "polars", "great_expectations", "m3h_pipeline"]
SLOW_TO_IMPORT = ["torch", "transformers", "timm", "mlflow", "great_expectations", "sklearn"]
MODALITIES = ["tabular", "timeseries", "language", "vision"]


@pytest.fixture(scope="module")
def graph():
    return defs.resolve_asset_graph()


def test_asset_keys(graph):
    expected = {
        *TABLES,
        *(f"valid_{table}" for table in TABLES),
        *(f"{modality}_inputs" for modality in MODALITIES),
        *(f"{modality}_embedding" for modality in MODALITIES),
        "cohort", "single_task_models", "tree_models", "m3h_model", "ensemble_model",
        "quality", "tim_report", "model_version", "report", "scores", "monitoring",
    }  # fmt: skip
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == expected


def test_every_asset_explains_itself(graph):
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.group_name != "default", key
        assert node.owners, key
        assert node.kinds, key
        assert node.code_version, key
        assert node.partitions_def is not None, key


def test_every_table_says_what_its_columns_hold(graph):
    for table in TABLES:
        for key in (table, f"valid_{table}"):
            columns = graph.get(dg.AssetKey(key)).metadata["dagster/column_schema"].columns
            assert "sample_id" in {column.name for column in columns} or "stay_id" in {
                column.name for column in columns
            }
            assert all(column.description for column in columns), key


def test_every_validated_table_is_guarded_by_blocking_checks(graph):
    for table in TABLES:
        keys = graph.get_check_keys_for_assets({dg.AssetKey(f"valid_{table}")})
        assert keys, table


def test_metadata_of_one_key_from_two_places_is_refused(tmp_path):
    step = Step(tmp_path, "key", "version", {"tasks": 3, "seconds": 1.5})
    metadata = to_materialization(step, {"chart": "drawn"}, step.info).metadata
    assert set(metadata) == {"chart", "tasks", "seconds", "computed", "folder"}
    for repeated in ("tasks", "folder"):
        with pytest.raises(ValueError, match=f"under one key: {repeated}"):
            to_materialization(step, {repeated: "another value"}, step.info)


def test_data_flows_from_the_source_to_the_report(graph):
    upstream = graph.get(dg.AssetKey("report")).parent_keys
    reached = set(upstream)
    while upstream:
        upstream = {parent for key in upstream for parent in graph.get(key).parent_keys} - reached
        reached |= upstream
    assert {dg.AssetKey(table) for table in TABLES} <= reached


def test_main_job_holds_every_asset(graph):
    job = defs.resolve_job_def(MAIN_JOB)
    assert job.asset_layer.executable_asset_keys == graph.get_all_asset_keys()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("m3h_core", [*OUTER_WORLD, "timm"]),
        ("m3h_core.embedders", OUTER_WORLD),
        ("m3h_pipeline.definitions", SLOW_TO_IMPORT),
        ("m3h_pipeline.cli.main", ["dagster", "torch", "mlflow", "polars"]),
    ],
)
def test_a_fresh_process_does_not_load(module, absent):
    script = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == []


def test_dg_finds_and_checks_the_project():
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", "defs"],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
        env={**os.environ, "M3H_OUT": "/nowhere"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
