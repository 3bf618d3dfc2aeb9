"""The sections of ``m3h.toml``: each setting, its default, its bounds and what it means."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

from m3h_core.embedders import embedder_class
from m3h_pipeline.state.snapshots import as_date

# The demo hospital lies in the past once and for all, so that its results can be compared.
DEMO_SNAPSHOT = "2026-01-01"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(_Section):
    """Where the hospital's data comes from."""

    name: Literal["demo", "mimic-iv", "meds", "haim", "tables"] = Field(
        "demo", description="What kind of source it is; one out-folder holds one source."
    )
    path: str = Field("", description="The folder that holds the data; the demo has none.")
    codes: str = Field(
        "",
        description=(
            "Of a MEDS folder: a file that says what its codes mean. Empty: as MIMIC-IV-MEDS "
            "spells them."
        ),
    )
    labels: str = Field(
        "",
        description='Of a MEDS folder: a folder of MEDS labels, which needs cohort.prediction = "given".',
    )
    size: Literal["full", "tiny"] = Field(
        "full", description="Of the demo: 1,500 stays, or 150 and six tasks."
    )
    snapshot: str = Field(
        "",
        description=(
            "The date that the next run is labelled with, as 2026-01-31. Empty: the day of the "
            f"run (the demo: {DEMO_SNAPSHOT}), which is then written here, so that a run that was "
            "stopped goes on under the same date."
        ),
    )

    @field_validator("snapshot", mode="before")
    @classmethod
    def _is_date(cls, snapshot: object) -> object:
        # TOML has dates of its own, written without quotes.
        if isinstance(snapshot, dt.date) and not isinstance(snapshot, dt.datetime):
            return snapshot.isoformat()
        if snapshot and as_date(str(snapshot)) is None:
            raise ValueError(
                f"{str(snapshot)!r} is not a date; write it as 2026-01-31, or leave it empty for "
                "today's"
            )
        return snapshot


class CohortConfig(_Section):
    """Who is predicted, when, and how much memory and disk the work in DuckDB may take."""

    prediction: Literal["admission", "icu", "image", "nightly", "given"] = Field(
        "admission",
        description=(
            "When a stay is predicted: prediction_hours after the admission to the hospital or to "
            "intensive care, at each image, at nightly_at of each day in hospital, or when the "
            "data says."
        ),
    )
    prediction_hours: float = Field(
        24.0, gt=0, description="Hours after the admission that the prediction is made."
    )
    nightly_at: str = Field("00:00", description="The local hour of nightly predictions.")
    timezone: str = Field(
        "UTC",
        description=(
            "The time zone of the source's times, such as Europe/Berlin. Of tables: cohort.yaml "
            "says it."
        ),
    )
    holdout_months: int = Field(
        0,
        ge=0,
        description=(
            "Above 0: the test split is who was admitted in that many last months. 0: a hash of "
            "the patient's id decides."
        ),
    )
    memory_limit: str = Field(
        "4GB", description="The memory that DuckDB may take; what does not fit goes to disk."
    )
    spill: str = Field(
        "",
        description=(
            "A folder on a large disk for what does not fit into memory_limit. Empty: in the "
            "out-folder."
        ),
    )


class EmbeddingConfig(_Section):
    """The encoders, which turn each modality into vectors."""

    timeseries: Literal["statistics", "learned"] = Field(
        "statistics",
        description="Statistics of each signal, or a network that is trained on the events.",
    )
    language: str = Field(
        "minilm",
        description=(
            "The encoder of notes: minilm (installed), a folder that holds a transformers "
            "checkpoint, or a name on the model hub."
        ),
    )
    language_revision: str = Field(
        "", description="The revision of a checkpoint on the model hub. Empty: its newest."
    )
    vision: str = Field(
        "mobilenetv3_small_100", description="The encoder of images, by its name in timm."
    )
    vision_weights: str = Field(
        "",
        description='A file of weights for it, or "pretrained" for those of the model hub. Empty: adapted to the '
        "training split's own images.",
    )
    image_size: int = Field(
        0, ge=0, le=1024, description="Pixels a side of an image; 0: the encoder's own choice."
    )
    cache_gb: float = Field(
        50,
        ge=0,
        description=(
            "Bounds cache/embeddings, where the vectors of notes and images are kept from night "
            "to night; 0: none is kept."
        ),
    )
    encoders: dict[str, str] = Field(
        {},
        description=(
            "For a modality, the name of a class in m3h_core/embedders that takes the place of "
            "its usual encoder."
        ),
    )

    @field_validator("encoders")
    @classmethod
    def _known(cls, encoders: dict[str, str]) -> dict[str, str]:
        for modality, name in encoders.items():
            embedder_class(modality, name)
        return encoders


class TrainingConfig(_Section):
    """Training of every arm: joint, single-task and trees."""

    seed: int = Field(0, description="Of all that is drawn at random.")
    epochs: int = Field(
        60, ge=1, description="The most passes over the training split; a network may stop earlier."
    )
    tree_rounds: int = Field(
        200, ge=1, description="The most trees that a model of boosted trees may have."
    )
    bootstrap: int = Field(
        500, ge=100, description="Resamples of the test split that an interval is made of."
    )
    coverage: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="How often a set or an interval of the joint model is to hold the truth.",
    )


class TimConfig(_Section):
    """Task interaction: which task helps which, measured how and at what cost."""

    method: Literal["pairwise", "shapley", "affinity", "projection", "attention"] = Field(
        "pairwise",
        description=(
            "pairwise and shapley train models anew; the others are hints of the joint model's "
            "own, cheap and no evidence."
        ),
    )
    network: Literal["light", "model"] = Field(
        "light",
        description=(
            "What the matrix is measured with: a small network of which every pair can be "
            "trained, or the trained model's own, whose single-task and joint models are then "
            "used as they are."
        ),
    )
    tasks: int = Field(0, ge=0, description="How many tasks, those with most labels first; 0: all.")
    seeds: int = Field(2, ge=1, description="How often each model is trained, from another start.")
    max_models: int = Field(
        0, ge=0, description="The most models that are trained for the matrix; 0: no bound."
    )
    fdr: float = Field(
        0.05, gt=0, lt=1, description="The false discovery rate of the effects that survive."
    )
    groups: int = Field(
        2,
        ge=0,
        description=(
            "The most models that the tasks are tried in, with the model's own network; below 2: "
            "not tried."
        ),
    )
    leave_out: int = Field(
        2,
        ge=0,
        description=(
            "How many tasks are left out of the joint model in turn, with the network of the "
            "pairs, so that the two can be compared."
        ),
    )


class ModalitiesConfig(_Section):
    """What each modality adds."""

    retrain: bool = Field(
        False,
        description=(
            "Also train the joint model anew on each subset of the modalities: with four of them, "
            "14 more trainings a night."
        ),
    )


class RayConfig(_Section):
    """Of [launcher] kind = "ray"."""

    address: str = Field("", description="Of the cluster's job server, such as http://head:8265.")


class KubernetesConfig(_Section):
    """Of [launcher] kind = "k8s": what a job's pod is made of.

    The cluster is the one that the kubeconfig names, or the one that this pod is in.
    """

    image: str = Field("", description="The image that a job runs in.")
    namespace: str = Field("default", description="The namespace of the jobs.")
    claim: str = Field("", description="The PersistentVolumeClaim that holds launcher.storage.")
    secrets: list[str] = Field(
        [], description="Names of Secrets whose keys become the job's environment."
    )
    pod: dict[str, Any] = Field(
        {},
        description="More of the pod's spec, as Kubernetes writes it (nodeSelector, tolerations, ...).",
    )


class SlurmConfig(_Section):
    """Of [launcher] kind = "slurm"."""

    options: list[str] = Field(
        [], description='More options of srun, such as "--partition=gpu", "--time=04:00:00".'
    )


class LauncherConfig(_Section):
    """Where embedding, training and task interaction run, and what each job may take there."""

    kind: Literal["local", "ray", "k8s", "slurm"] = Field(
        "local",
        description="This machine, or an engine, which also needs an MLflow server by MLFLOW_TRACKING_URI.",
    )
    storage: str = Field(
        "",
        description=(
            "Beyond this machine: the shared folder that holds the out-folder, which every "
            "machine sees under this very path."
        ),
    )
    python: str = Field(
        "", description='The interpreter there. Empty: "python"; with Slurm, this one.'
    )
    gpus: int = Field(0, ge=0, description="GPUs that a job asks of Ray, Kubernetes or Slurm.")
    cpus: int = Field(4, ge=1, description="Cores that a job asks of them.")
    memory_gb: int = Field(16, ge=1, description="Gigabytes of memory that a job asks of them.")
    workers: int = Field(
        0,
        ge=0,
        description=(
            "The most processes that train models side by side on a CPU, trees included; 0: by "
            "its cores."
        ),
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes that train the joint model together, a GPU each where there are GPUs.",
    )
    threads: int = Field(
        0,
        ge=0,
        description=(
            "Threads of each job's process; 0: what OMP_NUM_THREADS says, else one a core. Their "
            "number can change the last digits of a result."
        ),
    )
    ray: RayConfig = RayConfig()
    k8s: KubernetesConfig = KubernetesConfig()
    slurm: SlurmConfig = SlurmConfig()


class ValidationConfig(_Section):
    """What people decided about checks of the data."""

    accepted: list[Annotated[str, Field(pattern=r"^\S+ \w+ \S.*$")]] = Field(
        [],
        description="What is right although a check stops or warns, as the check wrote it: a change against the last "
        'snapshot ("2026-02-01 events distribution"), or a finding, for all snapshots ("events units glucose").',
    )
    freshness: Literal["auto", "on", "off"] = Field(
        "auto",
        description=(
            "Whether old data fails a check; auto: where the source says that its dates are real "
            "and of today."
        ),
    )


class GateConfig(_Section):
    """What a candidate must hold before a person is asked."""

    margin: float = Field(
        0.02,
        ge=0,
        lt=1,
        description=(
            "What a task's primary metric may lose against the champion, the anchor and the "
            "night's other arms."
        ),
    )
    mean_margin: float = Field(
        0.005,
        ge=0,
        lt=1,
        description=(
            "What the mean of all tasks may be lower in the estimate, where it is shown to be "
            "lower at all."
        ),
    )
    subgroup_margin: float = Field(
        0.05, ge=0, lt=1, description="What a task may lose against the champion in a subgroup."
    )
    trivial_margin: float = Field(
        0.02,
        ge=0,
        description="How far below a constant's score a task may be in the estimate, where its 95% "
        "interval lies below it.",
    )
    calibration_error: float = Field(
        0.05,
        gt=0,
        lt=1,
        description=(
            "The expected calibration error that is let pass, and what intervals may lack of "
            "training.coverage."
        ),
    )
    calibration_labels: int = Field(
        100,
        ge=10,
        description=(
            "The test labels from which on a task's calibration is judged, ten in each of ten bins."
        ),
    )
    level: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="The chance that one rule rejects an equally good candidate, all tasks together.",
    )
    bootstrap: int = Field(
        2000, ge=500, description="Resamples of the test split that a check is made of."
    )
    strict: bool = Field(
        False,
        description=(
            "Each task must be shown to keep its margin, which needs a large test split; else "
            "their mean must, and no task may be shown not to."
        ),
    )


class ReviewConfig(_Section):
    """Who decides on a candidate that passed the gate."""

    auto_promote: bool = Field(False, description="It becomes the champion without a person.")


class NightlyConfig(_Section):
    """When the nightly run starts, which `m3h ui` does."""

    cron: str = Field(
        "0 2 * * *",
        pattern=r"^\S+( +\S+){4}$",
        description="A cron line: minute, hour, day, month, day of the week.",
    )
    timezone: str = Field("", description="The time zone of cron. Empty: cohort.timezone.")
    late_after_hours: float = Field(
        26.0,
        ge=0.02,
        description="Hours since the last candidate after which Dagster shows it as overdue.",
    )

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError(
                    f"{name!r} is not a time zone; write it as UTC or Europe/Berlin"
                ) from None
        return name


class NotifyConfig(_Section):
    """Who is told of a failed night."""

    command: str = Field("", description="A command that reads the message on its standard input.")
    webhook: str = Field(
        "",
        pattern=r"^(https?://.*)?$",
        description=(
            'A web address that gets it as JSON, {"text": ...}, which Slack, Mattermost and Teams '
            "understand."
        ),
    )


class RetentionConfig(_Section):
    """How long snapshots are kept; the newest, and those of versions in use or in review, always
    are.
    """

    snapshots: int = Field(0, ge=0, description="How many are kept; 0: no bound.")
    days: int = Field(0, ge=0, description="How many days before the newest are kept; 0: no bound.")


class MonitoringConfig(_Section):
    """What counts as a change since the champion's training."""

    distance: float = Field(
        0.15,
        gt=0,
        lt=1,
        description=(
            "The share of the samples that would have to change place for a distribution, or a "
            "share of missing values, to be as before."
        ),
    )
    drop: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="What a score, or the share of labels within their sets and intervals, may lose.",
    )
    fdr: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="The false discovery rate over the features or tasks that are tested.",
    )
    fewest: int = Field(50, ge=10, description="The fewest samples that are compared.")


class Config(_Section):
    """All of ``m3h.toml``."""

    source: SourceConfig = SourceConfig()
    cohort: CohortConfig = CohortConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    training: TrainingConfig = TrainingConfig()
    tim: TimConfig = TimConfig()
    modalities: ModalitiesConfig = ModalitiesConfig()
    launcher: LauncherConfig = LauncherConfig()
    validation: ValidationConfig = ValidationConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    retention: RetentionConfig = RetentionConfig()
    gate: GateConfig = GateConfig()
    review: ReviewConfig = ReviewConfig()
    nightly: NightlyConfig = NightlyConfig()
    notify: NotifyConfig = NotifyConfig()
