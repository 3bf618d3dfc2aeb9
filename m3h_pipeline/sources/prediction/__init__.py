"""When predictions are made: the moments at which each stay becomes a sample, the same for every
source.

- ``admission``: so many hours after the hospital admission.
- ``icu``: so many hours after the first ICU admission of the stay.
- ``image``: at each image of the stay, as HAIM does (Soenksen et al. 2022); it and all that came
  before goes in.
- ``nightly``: at one local hour of every day on which the patient is in, for a model that runs each
  night.
- ``given``: at the moments that the data itself names.

Who is still in is predicted up to the latest admission or discharge that is known: what comes later
was not recorded yet, and the stay becomes a sample in a later night.

A sample's id is the stay's where a stay has one prediction. Else a suffix follows that never
changes as the stay goes on: the image's id, the local date, or the moment itself.
"""

from m3h_pipeline.sources.prediction.modes import (
    ENDED,
    MODES,
    NONE,
    NOT_YET,
    check_clock,
    need_mode,
)

__all__ = ["ENDED", "MODES", "NONE", "NOT_YET", "check_clock", "need_mode"]
