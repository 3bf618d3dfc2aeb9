"""A synthetic hospital in the layout of MIMIC-IV, MIMIC-IV-Note and MIMIC-CXR-JPG. No real patient
is in it.

It is for showing, testing and timing: what a model finds in it is what was put into it, and says
nothing of medicine.

The story, told by the modules in turn
- `diseases` and `story`: nine chronic factors of a patient (metabolic, vascular, cardiac, renal,
  pulmonary, liver, substance, cancer, mood) and six acute ones of a stay (infection, congestion,
  breathing, kidney, bleeding, brain) decide, by chance, who has which of the 40 diagnoses.
  Diagnoses lead to others (diabetes to kidney disease, sepsis to respiratory failure, cirrhosis to
  a low platelet count), so that rare ones share their causes with frequent ones. Together they make
  a stay severe: that brings patients to intensive care (two in three), lengthens the stay and kills
  one in thirteen.
- `vital_signs` of the first 36 hours of intensive care, `lab_results` from the emergency room on,
  `procedures`: lines, tubes and dialysis. `images`: chest films of three stays in five. `notes`:
  radiology reports of seven stays in eight, and discharge summaries. `codes`: the diagnoses as
  billed, in ICD-9 or ICD-10 by the year of the stay.
- No record decides a diagnosis. Each modality knows what the others do not: films the effusion and
  the size of the heart, notes the past (smoking, gout, joints, mood), blood the kidneys, liver and
  marrow, vital signs the acute state.
- Records are known later than they are taken. Discharge summaries name every diagnosis; they are
  written when the stay is over, so a prediction on the first day that is as good as they are has
  seen the future.
- The sick have more of everything: the healthier a patient, the likelier that notes or films are
  missing.
- Race and language have no effect on anything: a difference found there is chance or a fault.
- A few dozen rows are wrong on purpose: `wrong_rows.csv` names each. Hospitals below 150 stays have
  none.
"""

from m3h_pipeline.demo.hospital import write_demo_hospital

__all__ = ["write_demo_hospital"]
