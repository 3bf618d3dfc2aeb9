"""Forgetting a patient: out of every snapshot, cache and quarantine."""
