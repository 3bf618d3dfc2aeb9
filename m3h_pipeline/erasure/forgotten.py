"""Who is forgotten (``<out>/forgotten.json``): a keyed hash of each subject's id, never the id."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.permissions import create_private_file

FILE = "forgotten.json"


@dataclass
class Forgotten:
    """The list of ``forgotten.json``: digest of a subject -> {"erased": bool, "models": versions
    that saw them}.
    """

    key: bytes
    subjects: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, out: Path) -> Forgotten:
        """The out-folder's list; a new, empty one where nobody was forgotten yet."""
        try:
            record = json.loads((out / FILE).read_text())
        except FileNotFoundError:
            return cls(secrets.token_bytes(32))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{out / FILE} is damaged: without it, forgotten patients come back; restore it"
            ) from error
        return cls(bytes.fromhex(record["key"]), record["subjects"])

    def save(self, out: Path) -> None:
        """Write the list, for its owner alone."""
        partial = out / f".{FILE}.partial"
        create_private_file(partial)
        record = {"key": self.key.hex(), "subjects": self.subjects}
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(out / FILE)

    def digest(self, subject_id: str) -> str:
        """Keyed hash of an id."""
        return hashlib.blake2b(subject_id.encode(), key=self.key, digest_size=16).hexdigest()

    def __contains__(self, subject_id: str | None) -> bool:
        return subject_id is not None and self.digest(subject_id) in self.subjects

    @property
    def is_pending(self) -> bool:
        """Whether an erasure was begun and not finished."""
        return not all(entry["erased"] for entry in self.subjects.values())

    def count_by_version(self) -> Counter[str]:
        """Version of a registered model -> how many forgotten patients it had learned from."""
        entries = self.subjects.values()
        return Counter(model["version"] for entry in entries for model in entry["models"])
