"""Registry: the joint model with its embedders becomes a version that people review."""

import json

import dagster as dg
import polars as pl

from m3h_pipeline import tracking
from m3h_pipeline.defs.partitions import snapshots
from m3h_pipeline.defs.resources import OWNERS, Workspace, materialized
from m3h_pipeline.features.items import MODALITIES, is_given
from m3h_pipeline.storage import code_version

CODE = code_version("m3h_pipeline.registry", "m3h_pipeline.serving", "m3h_pipeline.monitoring", "m3h_core")


@dg.asset(
    deps=["m3h_model", "quality"],
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    code_version=CODE,
    partitions_def=snapshots,
    description="The joint model and its own embedders as a version in MLflow's registry, waiting for review.",
)
def model_version(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """Register the candidate."""
    joint, quality = workspace.step(context, "joint"), workspace.step(context, "quality")
    embedded = {modality: workspace.step(context, f"embedding/{modality}") for modality in MODALITIES}
    inputs, cohort = workspace.step(context, "inputs"), workspace.step(context, "cohort")

    def build(to):
        from m3h_pipeline.monitoring import REFERENCE, write_reference
        from m3h_pipeline.registry import register

        tracking.connect(workspace.mlflow_uri, workspace.mlflow_artifacts)
        metrics = json.loads((quality.folder / "metrics.json").read_text())
        write_reference(inputs.folder, cohort.folder, joint.folder, metrics, to)
        schema = pl.read_parquet_schema(inputs.folder / "tabular.parquet")
        return register(
            key=joint.key,
            model=joint.folder / "model",
            embedders={name: step.folder / "embedder" for name, step in embedded.items()},
            calibration=joint.folder / "calibration",
            reference=to / REFERENCE,
            features={
                name: "double" if kind.is_numeric() or kind == pl.Boolean else "string"
                for name, kind in schema.items()
                if name not in ("sample_id", "split")
            },
            given=[modality for modality in MODALITIES if is_given(modality, inputs.folder)],
            metrics=metrics,
            tags={"snapshot": context.partition_key, "dagster.run_id": context.run_id},
        )

    step = workspace.produce(context, "model_version", [CODE, joint.key, joint, quality, *embedded.values()], build)
    return materialized(step, **step.info)
