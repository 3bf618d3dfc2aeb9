"""A partition is a snapshot: the label (a date) of one extraction of the hospital's data."""

import dagster as dg

from m3h_pipeline.state.snapshots import as_date

NAME = "snapshot"
snapshots = dg.DynamicPartitionsDefinition(name=NAME)


def add_partition(instance: dg.DagsterInstance, label: str) -> None:
    """Let a snapshot be chosen in Dagster, and no longer what a person added there that is no
    date.
    """
    instance.add_dynamic_partitions(NAME, [label])
    for key in instance.get_dynamic_partitions(NAME):
        if as_date(key) is None:
            instance.delete_dynamic_partition(NAME, key)
