"""What the benchmark of quality is made of: two sources of patients, the arms, the cache of their
predictions, the statistics, the tables.
"""
