"""A partition is a snapshot: the label (a date) of one extraction of the hospital's data."""

import dagster as dg

snapshots = dg.DynamicPartitionsDefinition(name="snapshot")
