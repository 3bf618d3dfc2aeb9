"""Opponents of the quality benchmark, in an environment of their own: what is exchanged with it as
files, the opponents, and the process that fits them. Nothing here imports m3h_core.
"""
