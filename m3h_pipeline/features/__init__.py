"""From validated tables to what a model sees: the cut at the prediction time, and items for the
embedders.
"""
