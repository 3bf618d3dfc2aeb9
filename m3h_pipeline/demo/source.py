"""The demo: a synthetic hospital, written once, then read by the very code that reads MIMIC-IV."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import Settings, Source
from m3h_pipeline.sources.mimic_iv import MimicIV
from m3h_pipeline.state.steps import code_version, make_key, produce

# For tests: every kind of problem.
_TINY_TASKS = (
    "heart_failure",
    "acute_kidney_injury",
    "length_of_stay",
    "death_in_hospital",
    "discharge_location",
    "phenotype",
)
# size -> number of stays, tasks (None: all)
SIZES: dict[str, tuple[int, Collection[str] | None]] = {
    "full": (1000, None),
    "tiny": (150, _TINY_TASKS),
}


@dataclass
class DemoHospital(Source):
    """A hospital of seed ``seed``, written into ``path`` when it is first needed, and anew when its
    code changes.
    """

    path: Path
    size: str = "full"
    seed: int = 0
    name: ClassVar[str] = "demo"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"the demo has no size {self.size!r}; choose {' or '.join(SIZES)}")
        self._stays, self.tasks = SIZES[self.size]

    def check(self) -> None:
        """Nothing can be wrong before it is written."""

    def fingerprint(self) -> str:
        """Hash of size, seed and the generator's code: nothing needs to be written for it."""
        return make_key("demo", self._stays, self.seed, code_version("m3h_pipeline.demo"))

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the hospital unless it is there, then the canonical tables."""
        from m3h_pipeline.demo import write_demo_hospital

        hospital = produce(
            self.path,
            self.fingerprint(),
            lambda folder: write_demo_hospital(folder, self._stays, self.seed),
        )
        return MimicIV(hospital.folder).extract(to, settings)
