"""After a clock was set back Dagster's daemon doesn't wait for the time of its latest tick."""

from __future__ import annotations

import time

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._daemon.sensor import get_elapsed

from m3h_pipeline.state.ticks import date_back_ticks

YEAR = 365 * 86_400.0


def add_instigator(instance: dg.DagsterInstance, kind: str, tick: float) -> None:
    """A schedule or sensor, as the daemon left it after a tick at that time."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "all")
    origin = RemoteInstigatorOrigin(repository, kind)
    kinds = {
        "schedule": (
            InstigatorType.SCHEDULE,
            ScheduleInstigatorData("0 2 * * *", tick - 3600, tick + 60),
        ),
        "sensor": (
            InstigatorType.SENSOR,
            SensorInstigatorData(tick, cursor="7", last_tick_start_timestamp=tick),
        ),
    }
    instigator_type, data = kinds[kind]
    state = InstigatorState(origin, instigator_type, InstigatorStatus.RUNNING, data)
    instance.add_instigator_state(state)
    instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=kind,
            instigator_type=instigator_type,
            status=TickStatus.SKIPPED,
            timestamp=tick,
            selector_id=state.selector_id,
        )
    )


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def get_states(instance: dg.DagsterInstance) -> dict[str, InstigatorState]:
    return {state.instigator_name: state for state in instance.all_instigator_state()}


def get_latest_tick(instance: dg.DagsterInstance, state: InstigatorState) -> float:
    (tick,) = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    return tick.timestamp


def test_ticks_of_the_future_are_dated_now(instance):
    for kind in ("schedule", "sensor"):
        add_instigator(instance, kind, time.time() + YEAR)
    assert get_elapsed(get_states(instance)["sensor"]) < -YEAR / 2
    assert date_back_ticks(instance) == ["schedule", "sensor"]
    states = get_states(instance)
    assert 0 <= get_elapsed(states["sensor"]) < 60
    assert states["sensor"].instigator_data.cursor == "7"
    data = states["schedule"].instigator_data
    assert max(data.start_timestamp, data.last_iteration_timestamp) <= time.time()
    assert all(get_latest_tick(instance, state) <= time.time() for state in states.values())
    assert date_back_ticks(instance) == []


def test_ticks_of_the_past_stay_as_they_are(instance):
    before = time.time() - 60
    for kind in ("schedule", "sensor"):
        add_instigator(instance, kind, before - 60)
    assert date_back_ticks(instance) == []
    states = get_states(instance)
    assert states["schedule"].instigator_data.last_iteration_timestamp == before
    assert states["sensor"].instigator_data.last_tick_timestamp == before - 60
