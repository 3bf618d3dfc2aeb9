"""Inputs: what was known of each sample at its prediction time, a modality an asset."""

import dagster as dg
import polars as pl

from m3h_core.embedders.tabular import CODES
from m3h_pipeline.config import find_spill_folder
from m3h_pipeline.defs.metadata import OWNERS, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.state.layout import INPUTS
from m3h_pipeline.state.steps import Step, code_version

CODE = code_version("m3h_pipeline.features")
# modality -> the canonical tables that its inputs come from
TABLES_OF = {
    "tabular": ["samples", "codes"],
    "timeseries": ["samples", "events"],
    "language": ["samples", "notes"],
    "vision": ["samples", "images"],
}
# Of any modality a hospital may give vectors of its own.
_GIVEN = "embeddings"
_TABLES = ["samples", "events", "codes", "notes", "images", _GIVEN]
# For assets that read the inputs of all modalities.
ALL_INPUTS = {f"{modality}_inputs": dg.AssetIn() for modality in TABLES_OF}


def _spec(modality: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        f"{modality}_inputs",
        deps=[f"valid_{table}" for table in [*TABLES_OF[modality], _GIVEN]],
        description=(
            f"What was known of each stay at its prediction time: the {modality} inputs. The "
            "one place where the future is cut off."
        ),
        group_name="inputs",
        kinds={"duckdb"},
        owners=OWNERS,
        code_version=CODE,
        partitions_def=snapshots,
    )


@dg.multi_asset(
    specs=[_spec(modality) for modality in TABLES_OF],
    ins={table: dg.AssetIn(f"valid_{table}") for table in _TABLES},
    partitions_def=snapshots,
    name="as_of_inputs",
    pool="duckdb_write",
)
def as_of_inputs(context: dg.AssetExecutionContext, workspace: Workspace, **valid: Step):
    """Cut every modality at the prediction time."""
    from m3h_pipeline.features.as_of import write_inputs

    config = workspace.config
    tables = [table for table in _TABLES if table != CODES or config.inputs.codes]
    folders = {table: valid[table].folder for table in tables}
    step = workspace.produce(
        context,
        INPUTS,
        [CODE, *(valid[table] for table in tables)],
        lambda to: write_inputs(folders, to, config.cohort.memory_limit, find_spill_folder(config)),
    )
    for modality in TABLES_OF:
        frame = pl.scan_parquet(step.folder / f"{modality}.parquet")
        rows = frame.select(pl.len()).collect().item()
        yield to_materialization(step, {"dagster/row_count": rows}, asset_key=f"{modality}_inputs")
