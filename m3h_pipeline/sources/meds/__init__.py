"""A folder in the Medical Event Data Standard to the canonical tables, by way of the tables that
MIMIC-IV has.

The rows of ``data/**/*.parquet`` become, by the roles that a mapping gives their codes
(``data_contracts/meds.yaml``), SQL tables with the columns of MIMIC-IV; from there on
`m3h_pipeline.sources.admissions` does what it does for MIMIC-IV. So the same records give the same
inputs by either way.

MEDS says when something happened, not when it was known. Where the data has a column
``available_time``, that counts; else a record counts as known at its own ``time``
(docs/sources/meds.md says what that means).
"""

from m3h_pipeline.sources.meds.source import Meds

__all__ = ["Meds"]
