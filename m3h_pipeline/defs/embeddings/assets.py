"""One embedding a modality, each fitted on the training split and computed in a job of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from m3h_pipeline.config import spill
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, materialized
from m3h_pipeline.features.items import is_given
from m3h_pipeline.jobs.encoders import encoder_options
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.state.steps import code_version

INPUTS_CODE = code_version("m3h_pipeline.features")
CODE = code_version("m3h_core.embedders", "m3h_pipeline.features", "m3h_pipeline.jobs.embed")

# modality -> (canonical tables that it comes from, kinds, description)
_MODALITIES: dict[str, tuple[list[str], set[str], str]] = {
    "tabular": (
        ["samples"],
        {"polars", "scikitlearn"},
        "A vector a sample from the hospital's declared columns: quantiles, one-hot categories, "
        "what is missing.",
    ),
    "timeseries": (
        ["samples", "events"],
        {"numpy", "scikitlearn"},
        "A vector a sample from its events: eleven statistics of each vital sign, lab and "
        "procedure up to the prediction time.",
    ),
    "language": (
        ["samples", "notes"],
        {"huggingface", "pytorch"},
        "A vector a sample from its notes known at the prediction time, by a transformers "
        "encoder; recent notes weigh more.",
    ),
    "vision": (
        ["samples", "images"],
        {"pytorch", "timm"},
        "A vector a sample from its images known at the prediction time, by a timm encoder; "
        "recent images weigh more.",
    ),
}


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            f"{modality}_inputs",
            deps=[f"valid_{table}" for table in [*tables, "embeddings"]],
            description=(
                f"What was known of each stay at its prediction time: the {modality} inputs. The "
                "one place where the future is cut off."
            ),
            group_name="inputs",
            kinds={"duckdb"},
            owners=OWNERS,
            code_version=INPUTS_CODE,
            partitions_def=snapshots,
        )
        for modality, (tables, _, _) in _MODALITIES.items()
    ],
    partitions_def=snapshots,
    name="as_of_inputs",
    pool="duckdb_write",
)
def as_of_inputs(context: dg.AssetExecutionContext, workspace: Workspace):
    """Cut every modality at the prediction time."""
    from m3h_pipeline.features.as_of import write_inputs

    config = workspace.config
    valid = workspace.valid(context)
    step = workspace.produce(
        context,
        "inputs",
        [INPUTS_CODE, *valid.values()],
        lambda to: write_inputs(
            {table: part.folder for table, part in valid.items()},
            to,
            config.cohort.memory_limit,
            spill(config),
        ),
    )
    for modality in _MODALITIES:
        rows = (
            pl.scan_parquet(step.folder / f"{modality}.parquet").select(pl.len()).collect().item()
        )
        yield materialized(step, {"dagster/row_count": rows}, asset_key=f"{modality}_inputs")


def _origin(given: bool, facts: Mapping[str, Any]) -> str:
    if given:
        return "given by the hospital, only scaled"
    return "computed by the encoder" if facts["present"] else "none: nobody has this modality"


def _embedding(modality: str) -> dg.AssetsDefinition:
    _, kinds, description = _MODALITIES[modality]

    @dg.asset(
        name=f"{modality}_embedding",
        deps=[f"{modality}_inputs"],
        description=description,
        group_name="embeddings",
        kinds=kinds,
        owners=OWNERS,
        code_version=CODE,
        partitions_def=snapshots,
        pool="gpu",
    )
    def embedding(
        context: dg.AssetExecutionContext, workspace: Workspace, launcher: JobLauncher
    ) -> dg.MaterializeResult:
        from m3h_pipeline.jobs.embed import absent_embedder, embed_nothing

        inputs = workspace.step(context, "inputs")
        given = is_given(modality, inputs.folder)
        settings = workspace.config.embedding
        options = {} if given else encoder_options(modality, settings)
        job = {
            "modality": modality,
            "inputs": str(inputs.folder),
            "options": options,
            # Decides what is computed again, and no result.
            "cache": str(workspace.embedding_cache),
            "cache_bytes": int(settings.cache_gb * 1e9),
        }

        def embed(to: Path) -> dict[str, Any]:
            absent = absent_embedder(modality, inputs.folder, options)
            if absent is None:
                return launcher.run(context, "embed", job, to)
            context.log.info(f"{modality}: nobody has this modality, so no job is started")
            return embed_nothing(absent, inputs.folder, to)

        step = workspace.produce(context, f"embedding/{modality}", [CODE, inputs, options], embed)
        facts = step.info
        return materialized(
            step,
            {
                "samples with this modality": facts["present"],
                "samples": facts["samples"],
                "share present": round(facts["present"] / max(facts["samples"], 1), 3),
                "width": facts["width"],
                "seconds": facts["seconds"],
                "vectors": _origin(given, facts),
                "items run through the encoder": facts["items computed"],
                "encoder": dg.MetadataValue.json(facts["encoder"]),
                "unreadable items": dg.MetadataValue.json(facts["unreadable"]),
            },
        )

    return embedding


embeddings = [_embedding(modality) for modality in _MODALITIES]
