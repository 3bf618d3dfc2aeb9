"""Calibration: probabilities that mean what they say, and sets and intervals that hold the truth as
often as stated.

Probabilities are mapped by Platt scaling or a temperature where that is shown to pay; sets and
intervals are split-conformal: whatever the model, their coverage holds for samples that are
exchangeable with those of the calibration split, on average over such splits. (Several stays of one
patient make it approximate.) All that the coverage rests on is counted on the calibration split
alone, which neither training nor any choice has read; or, of a cross-fitted cohort, on predictions
by models that did not see the subject (cross-conformal prediction, Vovk 2015), which also holds
approximately. Sets and intervals start from the predictions
as they were, not from the mapped ones, because the map has seen the labels that the coverage is
counted on.
"""

from m3h_core.calibration.calibrator import Calibrator, TaskCalibration
from m3h_core.calibration.coverage import ObservedCoverage
from m3h_core.calibration.folds import FoldCalibrators

__all__ = ["Calibrator", "FoldCalibrators", "ObservedCoverage", "TaskCalibration"]
