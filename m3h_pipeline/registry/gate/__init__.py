"""The gate: what a candidate must hold before a person is asked whether it may become the champion.

Pure functions of predictions for patients that the model did not see: of a cross-fitted cohort all
out-of-fold predictions, so that the recipe is judged, else those of the test split. Who asks, and
what follows, is elsewhere (defs/registry, registry/verdicts.py). Judged are the tasks that can be
claimed. The candidate and what it is compared with (the champion, the anchor, the night's other
arms) are scored on the same samples and the same resamples of patients;
`m3h_pipeline.registry.gate.rules` holds the rules, docs/decisions/0011-gate.md and
0021-gate-power.md the reasons and the figures.

Shapes: N samples, T tasks, R resamples.
"""

from m3h_pipeline.registry.gate.advice import format_advice
from m3h_pipeline.registry.gate.judging import CHECKS, judge
from m3h_pipeline.registry.gate.scoring import Predictions
from m3h_pipeline.registry.gate.verdict import ARMS, ReferenceModel

__all__ = ["ARMS", "CHECKS", "Predictions", "ReferenceModel", "format_advice", "judge"]
