"""What assets share: the out-folder with its configuration, and how a step becomes a
materialisation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline import config as configuration
from m3h_pipeline.contracts import TABLES, load_contract
from m3h_pipeline.errors import InputError, without_values
from m3h_pipeline.errors.endings import explain, messages
from m3h_pipeline.registry import tracking
from m3h_pipeline.sources import Source
from m3h_pipeline.state.liveness import mark_run_alive
from m3h_pipeline.state.location import update_location
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.snapshots import need_date
from m3h_pipeline.state.steps import Step, make_key, need_step, produce

OUT_VARIABLE = "M3H_OUT"
OWNERS = ["team:m3h"]


class Workspace(dg.ConfigurableResource):
    """One out-folder: ``m3h.toml``, snapshots, MLflow's store, reports."""

    out: str

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Workspace]:
        """What a run holds from its first step to its end: the sign that it lives."""
        if context.run_id is None:
            yield self
            return
        with clearly():
            update_location(self.root)
        with mark_run_alive(self.root, context.run_id):
            yield self

    @property
    def root(self) -> Path:
        """The out-folder."""
        return Path(self.out)

    @property
    def config(self) -> configuration.Config:
        """What ``m3h.toml`` says now."""
        return configuration.load(self.root)

    @property
    def source(self) -> Source:
        """The configured source."""
        return configuration.source(self.config, self.root)

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking store; a server by ``MLFLOW_TRACKING_URI`` where one is configured."""
        return mlflow_uri(self.root)

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps artefacts, unless a server decides that."""
        return self.root / "mlflow" / "artifacts"

    def connect(self) -> None:
        """Point MLflow at the store."""
        tracking.connect(self.mlflow_uri, self.mlflow_artifacts)

    @property
    def embedding_cache(self) -> Path:
        """Where the vectors of notes and images are kept from snapshot to snapshot."""
        return self.root / "cache" / "embeddings"

    def folder(self, context: dg.AssetExecutionContext, step: str) -> Path:
        """Where a step of this run's snapshot lies; a run of a partition that is no date fails."""
        with clearly():
            need_date(context.partition_key, self.root)
        return self.root / "snapshots" / context.partition_key / step

    def step(self, context: dg.AssetExecutionContext, name: str) -> Step:
        """A step that an upstream asset has made."""
        return need_step(self.folder(context, name))

    def valid(self, context: dg.AssetExecutionContext) -> dict[str, Step]:
        """The validated tables."""
        return {table: self.step(context, f"valid/{table}") for table in TABLES}

    def produce(
        self,
        context: dg.AssetExecutionContext,
        name: str,
        decided_by: list[object],
        build: Callable[[Path], Mapping[str, Any] | None],
    ) -> Step:
        """Make a step, or take it as it is where nothing that decides it has changed.

        ``decided_by``: code version, settings and the upstream steps.
        """
        made_from = [part.version for part in decided_by if isinstance(part, Step)]
        with clearly(), lock_shared(self.root):
            step = produce(self.folder(context, name), key_of(name, decided_by), build, made_from)
        context.log.info(f"{name}: unchanged, taken as it is" if step.reused else f"{name}: made")
        return step


def for_this_out(resource: type[dg.ConfigurableResource]) -> dg.ResourceDefinition:
    """A resource of the out-folder that ``M3H_OUT`` names; the configuration of a run can't name
    another.

    A resource given to Dagster as it is could be sent anywhere from the launchpad.
    """
    definition = resource.configure_at_launch().get_resource_definition()
    return definition.configured({"out": {"env": OUT_VARIABLE}}, config_schema={})


@contextmanager
def clearly() -> Generator[None]:
    """A user's mistake, or a full disk, becomes a Dagster failure that is not retried and has no
    traceback.

    A library's error loses the values that it quotes.
    """
    try:
        yield
    except InputError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except Exception as error:
        told = explain(messages(error))
        if told is not None:
            raise dg.Failure(description=told, allow_retries=False) from error
        left_out = without_values(error)
        if left_out is error:
            raise
        raise left_out from None


def key_of(name: str, decided_by: list[object]) -> str:
    """A step's key: upstream steps count by what came out of them."""
    return make_key(name, [part.version if isinstance(part, Step) else part for part in decided_by])


def columns_of(table: str) -> dict[str, dg.TableSchema]:
    """The columns that a table's contract names, as Dagster shows them beside the asset."""
    contract = load_contract(table)
    columns = [
        dg.TableColumn(name, str(kind.base_type()), description=contract.about[name])
        for name, kind in contract.columns.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns)}


def mlflow_link(workspace: Workspace, route: str) -> dg.UrlMetadataValue:
    """A link to a place within MLflow's pages; `Workspace.connect` comes first."""
    return dg.MetadataValue.url(f"{tracking.page(workspace.root)}/{route}")


def picture(chart: Any, title: str) -> dg.MarkdownMetadataValue:
    """A chart as Dagster shows it beside an asset's numbers."""
    from m3h_pipeline.reports import charts

    return dg.MetadataValue.md(charts.markdown(chart, title))


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that comes from several places, as one mapping.

    Raises ValueError where two of them use the same key: one value would hide the other.

    >>> merged({"rows": 3}, {"columns": 2})
    {'rows': 3, 'columns': 2}
    """
    together: dict[str, Any] = {}
    for part in parts:
        if repeated := sorted(together.keys() & part.keys()):
            raise ValueError(
                f"metadata comes twice under one key: {', '.join(repeated)}; rename one of the two"
            )
        together |= part
    return together


def materialized(
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
        metadata=merged(*metadata, about_step),
        data_version=dg.DataVersion(step.version),
        check_results=checks or [],
    )
