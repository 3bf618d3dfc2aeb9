"""``m3h forget``: ask, erase, and print what went and which models had learned from the patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from m3h_pipeline import config as configuration
from m3h_pipeline.erasure.forgetting import Erased, count_samples, forget
from m3h_pipeline.erasure.forgotten import Forgotten
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry import versions as registry
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.opening import open_out_folder


def forget_subject(out: Path, subject_id: str, ask: Callable[[str], bool] | None) -> int:
    """Erase a patient, after asking where ``ask`` is given; exit code 0 where it was done."""
    open_out_folder(out)
    config = configuration.load(out)
    counts = count_samples(out, subject_id)
    for snapshot, samples in counts.items():
        print(f"snapshot {snapshot}: {samples} samples")
    question = f"Erase them from {len(counts)} snapshots? This can't be undone."
    if counts and ask is not None and not ask(question):
        print("Nothing was erased.")
        return 1

    def list_versions() -> list[registry.RegisteredVersion]:
        if not counts or not _has_registry(out):
            return []
        _connect(out)
        return registry.list_versions()

    erased = forget(
        out,
        subject_id,
        models=list_versions,
        on_wait=lambda: print("A run is under way: waiting for its step to end ..."),
    )
    if erased.models and _has_registry(out):
        _connect(out)
        registry.mark_forgotten(Forgotten.load(out).count_by_version())
    _print_erased(erased, config.source.name)
    return 0


def _has_registry(out: Path) -> bool:
    uri = mlflow_uri(out)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _connect(out: Path) -> None:
    tracking.connect(mlflow_uri(out), out / "mlflow" / "artifacts")


def _print_erased(erased: Erased, source: str) -> None:
    for place, rows in erased.rows.items():
        print(f"{place}: {rows:,} rows erased")
    if erased.was_forgotten_before and not any(erased.rows.values()):
        print("This patient was forgotten before; nothing of theirs was left.")
    print(
        f"{source} itself was not touched: from now on, what it holds of them is left "
        "out and counted."
    )
    if not erased.models:
        print("No registered model had learned from them.")
        return
    for model in erased.models:
        print(_describe_model(model))
    print("To learn without them, run a new snapshot: m3h run --snapshot DATE")


def _describe_model(model: Mapping[str, Any]) -> str:
    names = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
    doubt = "" if model["certain"] else ": its cohort is no longer there, so take it that it did"
    return f"{tracking.MODEL_NAME} version {model['version']}{names} had learned from them{doubt}"
