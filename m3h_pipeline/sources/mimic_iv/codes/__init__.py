"""Sets of codes of MIMIC-IV's stays: what was known of the patient before, and what is ordered,
given, taken and where.

When a code was known (``available_time``)
- earlier stays: at their discharge; their coded diagnoses and procedures a week after it, since
  they are coded when the patient has gone
- orders of drugs: when they begin, as they have no time of their own; drugs given: ``storetime``
- services and units: when the patient came to them
- cultures: that one was taken, when it was taken; what grew and what it resists, ``storetime``
- the emergency department: how the patient came, at the arrival; triage, which has no time of its
  own, an hour after it; vital signs and drugs at their own time. Its diagnoses are coded at the end
  and not read.
- measurements between stays (``omr``): at the end of their day
"""

from m3h_pipeline.sources.mimic_iv.codes.extraction import write_codes

__all__ = ["write_codes"]
