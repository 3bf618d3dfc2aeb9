"""What HAIM's files hold, and the tasks that it predicts."""

from __future__ import annotations

from m3h_core.data.tasks import TaskSpec

FILE = "cxr_ic_fusion_1103"
# Row n (from 0) of this file, which HAIM's code writes, is the patient, admission and ICU stay of
# haim_id n.
KEYS = "haim_mimiciv_key_ids"

# Prefix -> columns. n_rad_ (768) is not read: the pathologies' labels come from those reports.
WIDTHS = {
    "de_": 6,
    "vd_": 1024,
    "vp_": 18,
    "vmd_": 1024,
    "vmp_": 18,
    "ts_ce_": 99,
    "ts_le_": 242,
    "ts_pe_": 110,
    "n_ecg_": 768,
    "n_ech_": 768,
}
MODALITIES = {
    "tabular": ("de_",),
    "timeseries": ("ts_ce_", "ts_le_", "ts_pe_"),
    "language": ("n_ecg_", "n_ech_"),
    "vision": ("vd_", "vp_", "vmd_", "vmp_"),
}
# Where a lone image's time-weighted mean is 0/0, it is the image's own.
OWN_IMAGE = {"vmd_": "vd_", "vmp_": "vp_"}
# The ten of CheXpert's fourteen that HAIM predicts.
PATHOLOGIES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pneumonia",
    "Pneumothorax",
)
FACTS = (
    "haim_id",
    "img_id",
    "img_charttime",
    "img_deltacharttime",
    "img_length_of_stay",
    "death_status",
    *(name.lower() for name in PATHOLOGIES),
)


def list_columns(prefix: str) -> list[str]:
    """The columns of a vector."""
    return [f"{prefix}{i}" for i in range(WIDTHS[prefix])]


def name_task(pathology: str) -> str:
    """The name of a pathology's task.

    >>> name_task("Lung Lesion")
    'lung_lesion'
    """
    return pathology.lower().replace(" ", "_")


def _make_pathology_task(pathology: str) -> TaskSpec:
    definition = (
        f"{pathology}: mentioned as present (1) or absent (0) in the image's report, by CheXpert"
    )
    return TaskSpec(name_task(pathology), "binary", department="radiology", definition=definition)


TASKS = (
    *map(_make_pathology_task, PATHOLOGIES),
    TaskSpec(
        "discharged_within_48h",
        "binary",
        department="hospital",
        definition="Discharged alive within 48 hours of the image",
    ),
    TaskSpec(
        "died_within_48h",
        "binary",
        department="hospital",
        definition="Died within 48 hours of the image",
    ),
)
