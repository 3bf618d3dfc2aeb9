"""``<out>/m3h.toml``: one file, read by the command line and by Dagster alike."""

from __future__ import annotations

import datetime as dt
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from m3h_core.embedders import embedder_class
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings, Source, open_source
from m3h_pipeline.sources.prediction import need_mode

FILE = "m3h.toml"
# The demo hospital lies in the past once and for all, so that its results can be compared.
DEMO_SNAPSHOT = "2026-01-01"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(_Section):
    """Where the hospital's data comes from.

    Of a MEDS folder, ``codes`` is a file that says what its codes mean (empty: as MIMIC-IV-MEDS spells them), and
    ``labels`` a folder of MEDS labels, which needs cohort.prediction = "given".
    """

    name: Literal["demo", "mimic-iv", "meds", "haim", "tables"] = "demo"
    path: str = ""
    codes: str = ""
    labels: str = ""
    size: Literal["full", "tiny"] = "full"
    snapshot: str = DEMO_SNAPSHOT


class CohortConfig(_Section):
    """Who is predicted, when, and how much memory and disk the work in DuckDB may take.

    ``prediction``: "admission" and "icu" (``prediction_hours`` after it), "image" (at each), "nightly" (at the local
    hour ``nightly_at`` of each day in hospital) or "given" (the data says). ``holdout_months``: above 0, the test
    split is who was admitted in that many last months; else it is decided by a hash of the patient's id. ``spill``: a
    folder on a large disk for what does not fit into ``memory_limit``; empty: within the out-folder.
    """

    prediction: Literal["admission", "icu", "image", "nightly", "given"] = "admission"
    prediction_hours: float = Field(24.0, gt=0)
    nightly_at: str = "00:00"
    timezone: str = "UTC"
    holdout_months: int = Field(0, ge=0)
    memory_limit: str = "4GB"
    spill: str = ""


class EmbeddingConfig(_Section):
    """The encoders; a checkpoint is a local path or a name on a model hub.

    ``encoders``: for a modality, the name of a class in m3h_core/embedders that takes the place of the usual one.
    ``cache_gb`` bounds ``<out>/cache/embeddings``, where the vectors of notes and images are kept from night to night;
    0 keeps none.
    """

    timeseries: Literal["statistics", "learned"] = "statistics"
    language: str = "minilm"
    language_revision: str = ""
    vision: str = "mobilenetv3_small_100"
    vision_weights: str = ""
    image_size: int = Field(0, ge=0, le=1024, description="pixels a side; 0: the encoder's own choice")
    cache_gb: float = Field(50, ge=0)
    encoders: dict[str, str] = {}

    @field_validator("encoders")
    @classmethod
    def _known(cls, encoders: dict[str, str]) -> dict[str, str]:
        for modality, name in encoders.items():
            embedder_class(modality, name)
        return encoders


class TrainingConfig(_Section):
    """Training of every arm; ``coverage``: how often a set or an interval of the joint model is to hold the truth."""

    seed: int = 0
    epochs: int = Field(60, ge=1)
    tree_rounds: int = Field(200, ge=1)
    bootstrap: int = Field(500, ge=100)
    coverage: float = Field(0.9, gt=0, lt=1)


class TimConfig(_Section):
    """Task interaction: of which tasks (0: all, else those with most labels), by which method, at what cost.

    ``network`` is what the matrix is measured with: "light", a small network of which every pair can be trained, or
    "model", the trained model's own, whose single-task and joint models are then used as they are. ``max_models``
    bounds the models that are trained for the matrix (0: no bound). ``leave_out`` is how many tasks are left out of the
    joint model in turn, with the same network, so that it is compared with the pairs like with like. ``groups`` is the
    most models that the tasks are tried in (below 2: not tried), with the model's own network: it is a decision.
    """

    method: Literal["pairwise", "shapley", "affinity", "projection", "attention"] = "pairwise"
    network: Literal["light", "model"] = "light"
    tasks: int = Field(0, ge=0)
    seeds: int = Field(2, ge=1)
    max_models: int = Field(0, ge=0)
    fdr: float = Field(0.05, gt=0, lt=1)
    groups: int = Field(2, ge=0)
    leave_out: int = Field(2, ge=0)


class ModalitiesConfig(_Section):
    """``retrain``: what each modality adds is also told by the joint model trained anew on each subset of them.

    With four modalities that is 14 more trainings of the joint model a night.
    """

    retrain: bool = False


class RayConfig(_Section):
    """``address``: of the cluster's job server ("http://head:8265")."""

    address: str = ""


class KubernetesConfig(_Section):
    """What a job's pod is made of; the cluster is the one that the kubeconfig, or the pod we are in, names.

    ``claim``: the PersistentVolumeClaim that holds ``storage``; ``secrets``: names of Secrets whose keys become the
    job's environment; ``pod``: more of a pod's spec, as Kubernetes writes it (nodeSelector, tolerations, ...).
    """

    image: str = ""
    namespace: str = "default"
    claim: str = ""
    secrets: list[str] = []
    pod: dict[str, Any] = {}


class SlurmConfig(_Section):
    """``options``: more options of srun ("--partition=gpu", "--time=04:00:00")."""

    options: list[str] = []


class LauncherConfig(_Section):
    """Where training, task interaction and embedding jobs run, and what each may take there.

    Beyond this machine a job needs ``storage``, the shared folder that holds the out-folder and that every machine sees
    under this very path, and an MLflow server by ``MLFLOW_TRACKING_URI``. ``python`` is the interpreter there (empty:
    "python"; with Slurm this one). ``gpus``, ``cpus`` and ``memory_gb`` are asked of Ray, Kubernetes and Slurm;
    ``workers`` bounds the processes that train models side by side on a CPU, trees included (0: by its cores);
    ``processes`` train the joint model together, a GPU each where there are GPUs. ``threads`` of each job's process
    (0: what OMP_NUM_THREADS says, else a thread a core); their number can change the last digits of a result.
    """

    kind: Literal["local", "ray", "k8s", "slurm"] = "local"
    storage: str = ""
    python: str = ""
    gpus: int = Field(0, ge=0)
    cpus: int = Field(4, ge=1)
    memory_gb: int = Field(16, ge=1)
    workers: int = Field(0, ge=0)
    processes: int = Field(1, ge=1)
    threads: int = Field(0, ge=0)
    ray: RayConfig = RayConfig()
    k8s: KubernetesConfig = KubernetesConfig()
    slurm: SlurmConfig = SlurmConfig()


class ValidationConfig(_Section):
    """What people decided about checks.

    ``accepted``: what is right although a check stops or warns, as the check wrote it: a change against the last
    snapshot ("2026-02-01 events distribution"), or a finding, for all snapshots ("events units glucose").
    ``freshness``: "auto" judges it where the source says that its dates are real and of today.
    """

    accepted: list[Annotated[str, Field(pattern=r"^\S+ \w+ \S.*$")]] = []
    freshness: Literal["auto", "on", "off"] = "auto"


class GateConfig(_Section):
    """What a candidate must hold before a person is asked; see m3h_pipeline/gate.py.

    ``margin``: what a task's primary metric may lose against the champion; ``subgroup_margin``: the same in a subgroup;
    ``calibration_error``: the expected calibration error that is let pass, and what intervals may lack of ``coverage``
    as the ``[training]`` section sets it;
    ``level``: the chance that an equally good candidate is rejected by one check, all tasks together. ``strict``: each
    task must be shown to keep its margin, which needs a large test split; otherwise their mean must, and no task may be
    shown not to.
    """

    margin: float = Field(0.02, ge=0, lt=1)
    subgroup_margin: float = Field(0.05, ge=0, lt=1)
    calibration_error: float = Field(0.05, gt=0, lt=1)
    level: float = Field(0.05, gt=0, lt=0.5)
    bootstrap: int = Field(2000, ge=500)
    strict: bool = False


class ReviewConfig(_Section):
    """``auto_promote``: a candidate that passed the gate becomes the champion without a person."""

    auto_promote: bool = False


class NightlyConfig(_Section):
    """When the nightly run starts: a cron line in a time zone (empty: that of the cohort).

    ``late_after_hours``: since the last candidate, until the asset counts as overdue in Dagster.
    """

    cron: str = Field("0 2 * * *", pattern=r"^\S+( +\S+){4}$")
    timezone: str = ""
    late_after_hours: float = Field(26.0, ge=0.02)

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError(f"{name!r} is not a time zone; write it as UTC or Europe/Berlin") from None
        return name


class NotifyConfig(_Section):
    """Who is told of a failed night: a command that reads the message on its standard input, a web address, or both.

    The address gets the message as JSON, {"text": ...}, which Slack, Mattermost and Teams understand.
    """

    command: str = ""
    webhook: str = Field("", pattern=r"^(https?://.*)?$")


class RetentionConfig(_Section):
    """How many snapshots are kept; 0: no bound. See m3h_pipeline/snapshots.py for those that always are."""

    snapshots: int = Field(0, ge=0)
    days: int = Field(0, ge=0)


class MonitoringConfig(_Section):
    """What counts as a change since the champion's training; see m3h_pipeline/monitoring.py.

    ``distance``: the share of the samples that would have to change place for a distribution, or a share of missing
    values, to be as before. ``drop``: what a score, or the share of labels within their sets and intervals, may lose.
    ``fdr``: the false discovery rate, over the features or tasks that are tested. ``fewest``: of how many samples.
    """

    distance: float = Field(0.15, gt=0, lt=1)
    drop: float = Field(0.05, ge=0, lt=1)
    fdr: float = Field(0.05, gt=0, lt=1)
    fewest: int = Field(50, ge=10)


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


def load(out: Path) -> Config:
    """Read the configuration of an out-folder.

    Raises `InputError` where there is none, or where a key is unknown or a value impossible.
    """
    file = out / FILE
    try:
        with file.open("rb") as stream:
            return Config.model_validate(tomllib.load(stream))
    except FileNotFoundError:
        raise InputError(f"{file} is not there: `m3h run --out {out}` writes it") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{file}: there is no setting {where}: delete the line, or mend its name") from None
        raise InputError(f"{file}: {where}: {first['msg']}") from None


def save(config: Config, out: Path) -> None:
    """Write the configuration, under a temporary name first."""
    partial = out / f".{FILE}.partial"
    header = "# Written by `m3h run`; read by the command line and by Dagster. Edit it freely.\n"
    partial.write_text(header + tomli_w.dumps(config.model_dump()))
    partial.replace(out / FILE)


def for_run(out: Path, source: str | None, path: Path | None, size: str | None, snapshot: str | None) -> Config:
    """The configuration of an out-folder with the command line's choices applied, not yet written.

    One out-folder holds one source: another name, path or size is refused.
    """
    known = load(out) if (out / FILE).exists() else None
    if snapshot is not None:
        _check_date(snapshot)
    if known is None:
        name = source or "demo"
        if name != "demo" and path is None:
            raise InputError(f"--source {name} needs --path, the folder that holds the data")
        today = DEMO_SNAPSHOT if name == "demo" else dt.date.today().isoformat()
        # The tiny demo is for trying and testing: as little of everything as still runs every part.
        small = Config(training=TrainingConfig(epochs=10, tree_rounds=20, bootstrap=100), tim=TimConfig(tasks=4))
        return _validated(
            small if size == "tiny" else Config(),
            {
                "name": name,
                "path": str(path.resolve()) if path else "",
                "size": size or "full",
                "snapshot": snapshot or today,
            },
        )
    asked = {"name": source, "path": str(path.resolve()) if path else None, "size": size}
    for field, value in asked.items():
        held = getattr(known.source, field)
        if value is not None and value != held:
            raise InputError(
                f"{out} holds the source with {field} = {held!r}, not {value!r}: "
                "one out-folder holds one source; choose another folder with --out"
            )
    if snapshot is None:
        return known
    return known.model_copy(update={"source": known.source.model_copy(update={"snapshot": snapshot})})


def _validated(config: Config, source: dict[str, str]) -> Config:
    try:
        return config.model_copy(update={"source": SourceConfig.model_validate(source)})
    except ValidationError as error:
        raise InputError(f"--source {source['name']}: {error.errors()[0]['msg']}") from None


def _check_date(snapshot: str) -> None:
    try:
        dt.date.fromisoformat(snapshot)
    except ValueError:
        raise InputError(f"--snapshot {snapshot!r} is not a date; write it as 2026-01-31") from None


def mlflow_uri(out: Path) -> str:
    """MLflow's tracking store of an out-folder; ``MLFLOW_TRACKING_URI`` takes its place."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow' / 'mlflow.db').resolve()}"


def source(config: Config, out: Path) -> Source:
    """The configured source; the demo hospital is written into the out-folder itself."""
    path = out / "demo-hospital" if config.source.name == "demo" else Path(config.source.path)
    codes, labels = (Path(place) if place else None for place in (config.source.codes, config.source.labels))
    return open_source(config.source.name, path, config.source.size, codes=codes, labels=labels)


def settings(config: Config, source: Source) -> Settings:
    """How the source is to be read; raises `InputError` where it can't be read so."""
    cohort = config.cohort
    need_mode(source.name, cohort.prediction, source.prediction_modes)
    return Settings(
        prediction=cohort.prediction,
        prediction_hours=cohort.prediction_hours,
        nightly_at=cohort.nightly_at,
        timezone=cohort.timezone,
        holdout_months=cohort.holdout_months,
        tasks=source.tasks,
        memory_limit=cohort.memory_limit,
        spill=spill(config),
    )


def spill(config: Config) -> Path | None:
    """The folder that DuckDB may spill into, None for the one that it writes to."""
    return Path(config.cohort.spill).expanduser().absolute() if config.cohort.spill else None
