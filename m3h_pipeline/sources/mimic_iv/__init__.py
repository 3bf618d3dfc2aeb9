"""MIMIC-IV (2.2 and 3.x), with MIMIC-IV-Note and MIMIC-CXR-JPG where they are present, to the
canonical tables.

A stay is a hospital admission (``hadm_id``). Each table may be csv.gz, csv or Parquet. All work is
done in DuckDB, out of core, on text columns: what can't be parsed becomes null and is named in
``parse_errors``, for the contract to quarantine; what is right but not wanted is counted in the
lineage as out of scope, with the reason.

When a record became known (``available_time``)
- vital signs, labs, notes: ``storetime``, where it is there and not before the record's own time;
  else that time.
- procedures: a record is saved again whenever it changes, so the ``storetime`` of one that lasts
  lies at its end. That it began was known when it began: ``starttime`` for those saved at or after
  their end, if that is later than the start; ``storetime`` for the others (points in time, and
  those saved while they ran).
- discharge summaries: not before the discharge, since their ``charttime`` is a bare date.
- images: when they were taken.
"""

from m3h_pipeline.sources.mimic_iv.source import MimicIV

__all__ = ["MimicIV"]
