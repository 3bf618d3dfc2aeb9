"""What assets share: the out-folder with its configuration, and how they make steps in it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from m3h_pipeline import config as configuration
from m3h_pipeline.defs.failures import raise_as_failure
from m3h_pipeline.registry import tracking
from m3h_pipeline.sources import Source
from m3h_pipeline.state.layout import snapshot_folder
from m3h_pipeline.state.liveness import mark_run_alive
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.opening import open_out_folder
from m3h_pipeline.state.snapshots import need_date
from m3h_pipeline.state.steps import Step, make_key, produce, read_step

OUT_VARIABLE = "M3H_OUT"


class Workspace(dg.ConfigurableResource):
    """One out-folder: ``m3h.toml``, snapshots, MLflow's store, reports."""

    out: str

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Workspace]:
        """What a run holds from its first step to its end: the sign that it lives."""
        if context.run_id is None:
            yield self
            return
        with raise_as_failure():
            open_out_folder(self.root)
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
        return configuration.open_configured_source(self.config, self.root)

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

    def folder(self, snapshot: str, step: str) -> Path:
        """Where a step of a snapshot lies; a run of a partition that is no date fails."""
        with raise_as_failure():
            need_date(snapshot, self.root)
        return snapshot_folder(self.root, snapshot) / step

    def find_step(self, snapshot: str, name: str) -> Step | None:
        """A step of any snapshot, or None where there is none.

        For the few steps that are no input of an asset, because they need not exist: what an
        earlier night has read or validated, what a champion has learned from, and the tables of
        this night that the page of checks shows so far. An asset's inputs are its parameters
        (`StepIOManager`).
        """
        return read_step(snapshot_folder(self.root, snapshot) / name)

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
        folder = self.folder(context.partition_key, name)
        with raise_as_failure(), lock_shared(self.root):
            step = produce(folder, key_of(name, decided_by), build, made_from)
        context.log.info(f"{name}: unchanged, taken as it is" if step.reused else f"{name}: made")
        return step


def bind_to_out(resource: type[dg.ConfigurableResource]) -> dg.ResourceDefinition:
    """A resource of the out-folder that ``M3H_OUT`` names; the configuration of a run can't name
    another.

    A resource given to Dagster as it is could be sent anywhere from the launchpad.
    """
    definition = resource.configure_at_launch().get_resource_definition()
    return definition.configured({"out": {"env": OUT_VARIABLE}}, config_schema={})


def key_of(name: str, decided_by: list[object]) -> str:
    """A step's key: upstream steps count by what came out of them."""
    return make_key(name, [part.version if isinstance(part, Step) else part for part in decided_by])
