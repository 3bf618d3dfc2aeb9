"""Signals that nobody listed: every numeric item that enough training stays have.

A source counts its items in a first pass (`items.ItemCounts`), `choose` says which of them become
signals and why the others don't, `names` gives each a code that stays the same from night to night,
and `denied` knows what must never enter. Which are chosen depends on what was known of training
stays at their prediction alone.
"""
