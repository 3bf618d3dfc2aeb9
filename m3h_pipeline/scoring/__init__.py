"""The nightly scores, and whether the champion still does what it did."""
