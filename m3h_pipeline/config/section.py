"""What all sections of ``m3h.toml`` have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section whose keys are all known and whose values stay as they were read.

    What a setting means stands below it: from there come the comments in m3h.toml and
    docs/settings.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
