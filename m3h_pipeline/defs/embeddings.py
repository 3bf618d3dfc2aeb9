"""One embedding a modality, each fitted on the training split and computed in a job of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_core.data.cohort import TIMESERIES
from m3h_pipeline.defs.metadata import OWNERS, to_materialization
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.features.items import is_given
from m3h_pipeline.jobs.encoders import encoder_options
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.state.steps import Step, code_version

CODE = code_version(
    "m3h_core.embedders",
    "m3h_pipeline.features",
    "m3h_pipeline.jobs.embed",
    "m3h_pipeline.jobs.encoders",
)

# modality -> (kinds, description)
_MODALITIES: dict[str, tuple[set[str], str]] = {
    "tabular": (
        {"polars", "scikitlearn"},
        "One vector per sample, from the hospital's declared columns: quantiles, one-hot "
        "categories, what is missing.",
    ),
    "timeseries": (
        {"numpy", "scikitlearn"},
        "One vector per sample, from its events: statistics of each vital sign, lab and procedure "
        "up to the prediction time, and in its last hours.",
    ),
    "language": (
        {"huggingface", "pytorch"},
        "One vector per sample, from its notes known at the prediction time, by a transformers "
        "encoder; recent notes weigh more.",
    ),
    "vision": (
        {"pytorch", "timm"},
        "One vector per sample, from its images known at the prediction time, by a pretrained "
        "encoder; recent images weigh more.",
    ),
}
# For assets that read the embeddings of all modalities.
ALL_EMBEDDINGS = {f"{modality}_embedding": dg.AssetIn() for modality in _MODALITIES}


def by_modality(steps: Mapping[str, Step]) -> dict[str, Step]:
    """The embeddings among an asset's inputs, by their modality."""
    return {modality: steps[f"{modality}_embedding"] for modality in _MODALITIES}


def _embedding(modality: str) -> dg.AssetsDefinition:
    kinds, description = _MODALITIES[modality]
    name = f"{modality}_embedding"

    @dg.asset(
        name=name,
        ins={"inputs": dg.AssetIn(f"{modality}_inputs")},
        description=description,
        group_name="embeddings",
        kinds=kinds,
        owners=OWNERS,
        code_version=CODE,
        partitions_def=snapshots,
        pool="gpu",
    )
    def embedding(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        launcher: JobLauncher,
        inputs: Step,
    ) -> dg.MaterializeResult:
        from m3h_pipeline.jobs.embed import absent_embedder, embed_nothing

        given = is_given(modality, inputs.folder)
        settings = workspace.config.embedding
        options = {} if given else encoder_options(modality, settings)
        series_steps = settings.series_steps if modality == TIMESERIES else 0
        job = {
            "modality": modality,
            "inputs": str(inputs.folder),
            "options": options,
            "series_steps": series_steps,
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

        step = workspace.produce(context, name, [CODE, inputs, options, series_steps], embed)
        return to_materialization(step, _facts(step.info, given))

    return embedding


def _facts(info: Mapping[str, Any], given: bool) -> dict[str, Any]:
    return {
        "samples with this modality": info["present"],
        "samples": info["samples"],
        "share present": round(info["present"] / max(info["samples"], 1), 3),
        "width": info["width"],
        "seconds": info["seconds"],
        "vectors": _origin(info, given),
        "items run through the encoder": info["items computed"],
        "encoder": dg.MetadataValue.json(info["encoder"]),
        "unreadable items": dg.MetadataValue.json(info["unreadable"]),
    }


def _origin(info: Mapping[str, Any], given: bool) -> str:
    if given:
        return "given by the hospital, only scaled"
    return "computed by the encoder" if info["present"] else "none: nobody has this modality"


embeddings = [_embedding(modality) for modality in _MODALITIES]
