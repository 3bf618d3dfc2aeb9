"""A clock that was set back: the schedule and the sensors don't wait until it is where it was.

Dagster starts nothing before the time of the latest tick. After a clock that was ahead by a year
was set right there would be no night, and no review carried out, for a year.
"""

from __future__ import annotations

import time
from typing import Any

import dagster as dg


def date_back_ticks(instance: dg.DagsterInstance) -> list[str]:
    """Date ticks that lie in the future to now, for Dagster's daemon to go on from; returns whose
    they were.
    """
    now = time.time()
    changed = []
    for state in instance.all_instigator_state():
        origin = state.instigator_origin_id
        ticks = instance.get_ticks(origin, state.selector_id, after=now)
        for tick in ticks:
            instance.update_tick(tick._replace(tick_data=tick.tick_data._replace(timestamp=now)))
        data = _date_back(state.instigator_data, now)
        if data != state.instigator_data:
            instance.update_instigator_state(state.with_data(data))
        if ticks or data != state.instigator_data:
            changed.append(state.instigator_name)
    return sorted(changed)


def _date_back(data: Any, now: float) -> Any:
    """What Dagster keeps of a schedule or a sensor, with no time after now; None stays None."""
    if data is None:
        return None
    times = {name: value for name, value in data._asdict().items() if name.endswith("_timestamp")}
    return data._replace(**{name: now for name, value in times.items() if value and value > now})
