"""Hospital admissions as stays, and records as theirs: what is done alike wherever patients,
admissions, diagnoses and records have the columns of MIMIC-IV.

A source first makes the SQL tables ``raw_patients``, ``raw_admissions`` and ``raw_diagnoses`` and
those of its records, with MIMIC-IV's columns as text; then it uses these parts in order: `samples`
makes stays and samples, `records` gives each record its stay, `events` and `notes` say what is read
of a record, `labels` makes the labels of the stays.
"""
