"""What a command prints at its end: what came out, where it stands, and what to open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.layout import LATEST
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.pages import is_served, read_last_server
from m3h_pipeline.state.paths import out_option

if TYPE_CHECKING:
    import dagster as dg


def read_facts(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of what was materialised, by asset."""
    materializations = [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization
    ]
    return {one.asset_key.to_user_string(): one.metadata for one in materializations}


def format_run(out: Path, result: dg.ExecuteInProcessResult, snapshot: str) -> str:
    """The last screen of a run."""
    from m3h_pipeline.reports.findings import describe_data_checks

    facts = read_facts(result)
    quality = facts["quality"]
    version = facts["model_version"]
    cohort = facts["cohort"]
    number = str(version["version"].value)
    return "\n".join(
        [
            "",
            f"Cohort     {cohort['samples'].value:,} samples of {cohort['subjects'].value:,} "
            f"patients, {quality['tasks'].value} tasks, {quality['claimed'].value} with enough "
            "labels to be claimed",
            f"Judged     {cohort['evaluation'].value}",
            "Learning   model against the same with single-task networks: "
            f"{quality['model against the same with single-task networks'].value}",
            "           model against boosted trees alone: "
            f"{quality['model against boosted trees alone'].value}",
            f"Model      {version['name'].value} version {number} {describe_standing(out, number)}",
            *describe_data_checks(out, snapshot),
            f"Report     {out / LATEST / 'report.html'}",
            f"Look on    {_describe_pages(out)}",
        ]
    )


def format_scores(out: Path, facts: dict[str, Any], model: str, version: str, snapshot: str) -> str:
    """The last screen of `m3h score`; ``facts``: those of the asset ``scores``."""
    samples = facts["samples"].value
    lines = [
        "",
        f"Scored     {samples:,} samples of {snapshot} with {model} version {version}",
        f"Model      version {version} {describe_standing(out, version)}",
        *_list_score_files(out, facts, version),
    ]
    if not samples:
        lines.append(
            "Nobody is still in hospital, or new to this version: `m3h score "
            f"--all{out_option(out)}` scores everyone."
        )
    return "\n".join(lines)


def _list_score_files(out: Path, facts: dict[str, Any], version: str) -> list[str]:
    from m3h_pipeline.scoring.scores import DATABASE, FILE

    if facts["approved"].value:
        return [
            f"Rows       {out / LATEST / FILE}",
            f"Table      {out / DATABASE}, table scores",
        ]
    return [
        f"Rows       {Path(facts['folder'].value) / FILE}",
        f"A trial: version {version} is not approved, so neither {LATEST}/{FILE} nor {DATABASE} "
        f"holds these scores. `m3h review approve {version}{out_option(out)}` makes it the "
        "champion.",
    ]


def describe_standing(out: Path, number: str) -> str:
    """Where a version stands in the registry now, and what to do about it."""
    from m3h_pipeline.registry import tags
    from m3h_pipeline.registry.client import open_client, raise_if_unreachable
    from m3h_pipeline.registry.gate.advice import complete_advice
    from m3h_pipeline.registry.versions import RegistryState

    try:
        client = open_client(out)
        with raise_if_unreachable(client.tracking_uri):
            state = RegistryState.fetch(client)
    except InputError as error:
        return f"is registered; where it stands is not known: {error}"
    version = state.versions.get(number)
    words = state.describe(number)
    if version and version.status == tags.PENDING:
        return f"{words}: m3h review approve {number}{out_option(out)}"
    if version and version.is_rejected_by_gate:
        command = f"m3h review show {number}{out_option(out)}"
        advice = complete_advice(version.tags.get(tags.ADVICE, ""), number, out_option(out))
        return f"{words}: {command}\nTo do      {advice}" if advice else f"{words}: {command}"
    return words


def _describe_pages(out: Path) -> str:
    """How Dagster's and MLflow's pages are opened."""
    served = read_last_server(out)
    uri = mlflow_uri(out)
    mlflow_page = "its own server" if uri.startswith("http") else served.mlflow_page
    addresses = f"Dagster: {served.dagster_page}, MLflow: {mlflow_page}"
    return addresses if is_served(out) else f"m3h ui{out_option(out)}   ({addresses})"
