"""Settings that earlier versions had, which an m3h.toml may still hold.

`m3h init` writes every setting, so a file of an earlier version has all of them. Where the value is
the one that now always holds, the line changes nothing and is passed over; any other is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m3h_core import config as core
from m3h_core.config import RemovedSetting

_DECISION = "docs/decisions/0027-settings.md"
# By section, then by name.
REMOVED: dict[str, dict[str, RemovedSetting]] = {
    "gate": {
        "calibration_labels": RemovedSetting(100, f"it is ten labels in ten bins ({_DECISION})")
    },
    "model": core.REMOVED,
    "monitoring": {
        "fewest": RemovedSetting(50, f"fewer samples show no change that matters ({_DECISION})")
    },
    "tim": {
        "max_models": RemovedSetting(
            0, "hopeless pairs are stopped; bound the tasks (docs/decisions/0037-tim.md)"
        )
    },
}


def drop_removed(document: Mapping[str, Any]) -> dict[str, Any]:
    """What an m3h.toml holds, without settings that were removed and would change nothing.

    Raises ValueError, which names the setting, for a value that no longer can be.

    >>> drop_removed({"monitoring": {"fewest": 50, "drop": 0.1}})
    {'monitoring': {'drop': 0.1}}
    >>> drop_removed({"model": {"residual": True}})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: model.residual was removed: it gained nothing (docs/...): delete the line
    """
    current = dict(document)
    for section, removed in REMOVED.items():
        written = document.get(section)
        if not isinstance(written, Mapping):
            continue
        for name in removed.keys() & written.keys():
            if written[name] != removed[name].value:
                reason = removed[name].reason
                raise ValueError(f"{section}.{name} was removed: {reason}: delete the line")
        current[section] = {name: written[name] for name in written if name not in removed}
    return current
