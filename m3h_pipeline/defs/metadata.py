"""What Dagster shows beside an asset: how a step becomes a materialisation, and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.steps import Step

OWNERS = ["team:m3h"]


def table_schema(table: str) -> dict[str, dg.TableSchema]:
    """The columns that a table's contract names, as Dagster shows them beside the asset."""
    contract = load_contract(table)
    columns = [
        dg.TableColumn(name, str(kind.base_type()), description=contract.about[name])
        for name, kind in contract.columns.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns)}


def mlflow_link(out: Path, route: str) -> dg.UrlMetadataValue:
    """A link to a place within MLflow's pages; `Workspace.connect` comes first."""
    return dg.MetadataValue.url(f"{tracking.find_page(out)}/{route}")


def chart_metadata(chart: Any, title: str) -> dg.MarkdownMetadataValue:
    """A chart as Dagster shows it beside an asset's numbers."""
    from m3h_pipeline.reports import charts

    return dg.MetadataValue.md(charts.to_markdown(chart, title))


def merge_metadata(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge metadata that comes from several places into one mapping.

    Raises ValueError where two of them use the same key: one value would hide the other.

    >>> merge_metadata({"rows": 3}, {"columns": 2})
    {'rows': 3, 'columns': 2}
    """
    merged: dict[str, Any] = {}
    for part in parts:
        if repeated := sorted(merged.keys() & part.keys()):
            raise ValueError(
                f"metadata comes twice under one key: {', '.join(repeated)}; rename one of the two"
            )
        merged |= part
    return merged


def to_materialization(
    step: Step,
    *metadata: Mapping[str, Any],
    asset_key: str | None = None,
    checks: list[dg.AssetCheckResult] | None = None,
) -> dg.MaterializeResult:
    """What Dagster shows of a step: metadata, whether it was computed now, and its version."""
    about_step = {
        "computed": "taken as it was: nothing upstream changed" if step.reused else "in this run",
        "folder": dg.MetadataValue.path(str(step.folder)),
    }
    return dg.MaterializeResult(
        asset_key=asset_key,
        metadata=merge_metadata(*metadata, about_step),
        data_version=dg.DataVersion(step.version),
        check_results=checks or [],
    )
