"""What the benchmark of quality is made of: the data set, the arms, the cache of their predictions,
the statistics.
"""
