"""Hands an asset its inputs: for each parameter that names an asset, the step that it made."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.defs.failures import raise_as_failure
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.features.items import MODALITIES
from m3h_pipeline.state.layout import INGESTED, INPUTS
from m3h_pipeline.state.steps import Step, need_step

# asset -> its step, where one step is several assets; that of any other asset has the asset's name
_SHARED_STEPS = {
    **dict.fromkeys(TABLES, INGESTED),
    **dict.fromkeys([f"{modality}_inputs" for modality in MODALITIES], INPUTS),
}


def step_name(asset: str) -> str:
    """The step that an asset makes, alone or with others: the folder's name in a snapshot.

    >>> step_name("m3h_model"), step_name("samples"), step_name("notes")
    ('m3h_model', 'ingested', 'ingested')
    """
    return _SHARED_STEPS.get(asset, asset)


class StepIOManager(dg.IOManager):
    """Loads the step of an upstream asset, of the snapshot of this run.

    Assets make their steps themselves (`Workspace.produce`) and return no value, so there is
    nothing to store: what Dagster loads for a parameter is the step's path and facts.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def load_input(self, context: dg.InputContext) -> Step:
        """The step of the asset that the input names; a failure where it was not made yet."""
        asset = context.asset_key.to_python_identifier()
        folder = self._workspace.folder(context.partition_key, step_name(asset))
        with raise_as_failure():
            return need_step(folder)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuse a value: an asset returns a `MaterializeResult` of its step."""
        raise TypeError(f"{context.name} returned {type(obj).__name__}: an asset makes a step")


@dg.io_manager(
    required_resource_keys={"workspace"},
    description="Hands each asset the steps that its parameters name.",
)
def step_io_manager(context: dg.InitResourceContext) -> StepIOManager:
    """The IO manager of every asset."""
    return StepIOManager(context.resources.workspace)


def shared_step(steps: Mapping[str, Step]) -> Step:
    """The one step that several assets have made together."""
    first = next(iter(steps.values()))
    if any(step.folder != first.folder for step in steps.values()):
        raise ValueError(f"{', '.join(steps)} are not of one step")
    return first


def further_step(step: Step, name: str) -> Step:
    """A second step of the asset that made ``step``: the gate's verdict, the models of subsets."""
    with raise_as_failure():
        return need_step(step.folder.with_name(name))
