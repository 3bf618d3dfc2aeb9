"""What a data steward would look at before trusting a table: units, stand-ins for "missing",
outliers, names, times.

The contract says what a row must be; these rules ask whether the rows together make sense. They
read a table once, as a fine histogram a code, and name codes, counts and medians, no patient's
values. What stops the run is two units under one code; all else warns. What is right is accepted by
a line in m3h.toml.
"""
