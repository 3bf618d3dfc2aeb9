"""HAIM-MIMIC-MM's published embedding file to the canonical tables: a sample an image, its vectors
given.

A row of ``cxr_ic_fusion_1103.csv`` (Soenksen et al. 2022; PhysioNet, haim-multimodal 1.0.1) is one
chest image within an ICU stay, predicted at the time of the image. The layout was read from HAIM's
code (github.com/lrsoenksen/HAIM); the file itself is credentialed. What is done about its defects
is in docs/sources/haim.md.
"""

from m3h_pipeline.sources.haim.source import Haim

__all__ = ["Haim"]
