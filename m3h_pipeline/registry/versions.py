"""Which versions the registry holds, and how they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.tags import (
    ANCHOR,
    APPROVED,
    BY,
    CHAMPION,
    GATE,
    PENDING,
    REJECTED,
    STATUS,
    SUPERSEDED,
    UNKNOWN,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_FILTER = f"name='{tracking.MODEL_NAME}'"


@dataclass(frozen=True)
class Version:
    """A version as it stands in MLflow."""

    number: str
    tags: Mapping[str, str]
    description: str = ""

    @property
    def status(self) -> str:
        """What its tag says."""
        return self.tags.get(STATUS, "")

    @property
    def is_rejected_by_gate(self) -> bool:
        """Whether the gate, not a person, rejected it."""
        return self.status == REJECTED and self.tags.get(BY) == GATE


@dataclass(frozen=True)
class RegistryState:
    """All versions by number, and which version each alias names."""

    versions: Mapping[str, Version]
    aliases: Mapping[str, str]

    @classmethod
    def fetch(cls, client: MlflowClient) -> RegistryState:
        """As MLflow says now."""
        aliases = _fetch_aliases(client)
        versions = [
            Version(str(row.version), dict(row.tags), row.description or "")
            for row in client.search_model_versions(_FILTER)
        ]
        versions.sort(key=lambda version: int(version.number))
        return cls({version.number: version for version in versions}, aliases)

    def get_version(self, number: str) -> Version:
        """The version of this number; raises `InputError` where there is none."""
        if number not in self.versions:
            numbers = ", ".join(self.versions) or "none"
            raise InputError(f"there is no version {number}; there are: {numbers}")
        return self.versions[number]

    def find_sole_pending(self) -> str:
        """The number of the only version that waits for review; raises `InputError` where there
        are none or several.
        """
        pending = [
            version.number for version in self.versions.values() if version.status == PENDING
        ]
        if len(pending) != 1:
            raise InputError(f"name a version: {', '.join(pending) or 'none'} waits for review")
        return pending[0]

    def list_aliases(self, number: str) -> list[str]:
        """The aliases of a version."""
        return sorted(alias for alias, named in self.aliases.items() if named == number)

    def describe(self, number: str) -> str:
        """Where a version stands now, in words: "is the champion", "waits for review"."""
        if number not in self.versions:
            return "was deleted in MLflow"
        version = self.versions[number]
        champion = self.aliases.get(CHAMPION)
        if champion == number:
            return "is the champion"
        if version.is_rejected_by_gate:
            return "was rejected by the gate"
        if version.status == PENDING:
            return "passed the gate and waits for review"
        rest = f"; the champion is version {champion}" if champion else "; there is no champion"
        if version.status == REJECTED:
            return f"was rejected by {version.tags.get(BY) or UNKNOWN}{rest}"
        if version.status == SUPERSEDED:
            return f"gave way to a later candidate before anybody decided on it{rest}"
        if version.status == APPROVED:
            return f"was approved{rest}"
        return f"was not judged{rest}"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry: its aliases, and the snapshot and cohort (a step's version) that
    it learned from.

    ``training``: the key of its training, the same for no other version.
    """

    version: str
    aliases: tuple[str, ...]
    snapshot: str
    cohort: str
    pending: bool
    training: str = ""


def list_versions() -> list[RegisteredVersion]:
    """All versions, the earliest first."""
    from mlflow import MlflowClient

    client = MlflowClient()
    aliases_by_number: dict[str, list[str]] = {}
    for alias, number in sorted(_fetch_aliases(client).items()):
        aliases_by_number.setdefault(number, []).append(alias)
    versions = []
    for row in client.search_model_versions(_FILTER):
        version = RegisteredVersion(
            version=str(row.version),
            aliases=tuple(aliases_by_number.get(str(row.version), ())),
            snapshot=row.tags.get("snapshot", ""),
            cohort=_fetch_cohort(client, row),
            pending=row.tags.get(STATUS) == PENDING,
            training=row.tags.get(tracking.TRAINING_TAG, ""),
        )
        versions.append(version)
    return sorted(versions, key=lambda version: int(version.version))


def _fetch_aliases(client: MlflowClient) -> dict[str, str]:
    models = client.search_registered_models(_FILTER)
    if not models:
        return {}
    return {alias: str(number) for alias, number in models[0].aliases.items()}


def _fetch_cohort(client: MlflowClient, row: ModelVersion) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(row.run_id or "").data.tags.get("m3h.cohort", "")
    except MlflowException:  # somebody deleted the run
        return ""


def find_version(alias: str = CHAMPION, version: str = "", where: str = "") -> RegisteredVersion:
    """The version of this number, else of this alias; an `InputError` says what to do where there
    is none.

    ``where``: what the commands that it names need so that they mean this out-folder.
    """
    versions = list_versions()
    if not versions:
        raise InputError(f"no model is registered yet: `m3h run{where}` trains and registers one")
    for registered in versions:
        if registered.version == version or (not version and alias in registered.aliases):
            return registered
    numbers = ", ".join(registered.version for registered in versions)
    there_are = f"there are the versions {numbers}"
    if version:
        raise InputError(f"{tracking.MODEL_NAME} has no version {version}: {there_are}")
    raise InputError(
        f"no version of {tracking.MODEL_NAME} has the alias {alias!r}; {there_are}. Approve one "
        f"(`m3h review approve VERSION{where}`, or the alias in MLflow's UI), or score with one "
        f"that nobody has reviewed: `m3h score --version N{where}`"
    )


def list_snapshots_in_use() -> set[str]:
    """Snapshots of versions that have an alias (champion, previous, challenger) or wait for review.

    The anchor's is not among them: nobody compares with what it learned from, only with what it
    predicts.
    """
    return {
        version.snapshot
        for version in list_versions()
        if version.pending or set(version.aliases) - {ANCHOR}
    }


def mark_forgotten(counts: Mapping[str, int]) -> None:
    """Tag versions with the number of forgotten patients that they learned from; a reviewer sees
    it.
    """
    from mlflow import MlflowClient

    for version, patients in counts.items():
        MlflowClient().set_model_version_tag(
            tracking.MODEL_NAME, version, "m3h.forgotten_patients", str(patients)
        )
