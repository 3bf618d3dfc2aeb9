"""Sections about where jobs run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from m3h_pipeline.config.section import Section


class RayConfig(Section):
    """Of [launcher] kind = "ray"."""

    address: str = ""
    """Of the cluster's job server, such as http://head:8265."""


class KubernetesConfig(Section):
    """Of [launcher] kind = "k8s": what a job's pod is made of.

    The cluster is the one that the kubeconfig names, or the one that this pod is in.
    """

    image: str = ""
    """The image that a job runs in."""
    namespace: str = "default"
    """The namespace of the jobs."""
    claim: str = ""
    """The PersistentVolumeClaim that holds launcher.storage."""
    secrets: list[str] = Field([])
    """Names of Secrets whose keys become the job's environment."""
    pod: dict[str, Any] = Field({})
    """More of the pod's spec, as Kubernetes writes it (nodeSelector, tolerations, ...)."""


class SlurmConfig(Section):
    """Of [launcher] kind = "slurm"."""

    options: list[str] = Field([])
    """More options of srun, such as "--partition=gpu", "--time=04:00:00"."""


class LauncherConfig(Section):
    """Where embedding, training and task interaction run, and what each job may take there."""

    kind: Literal["local", "ray", "k8s", "slurm"] = "local"
    """This machine, or an engine, which also needs an MLflow server by MLFLOW_TRACKING_URI."""
    storage: str = ""
    """Beyond this machine: the shared folder that holds the out-folder, which every machine sees
    under this very path.
    """
    python: str = ""
    """The interpreter there. Empty: "python"; with Slurm, this one."""
    gpus: int = Field(0, ge=0)
    """GPUs that a job asks of Ray, Kubernetes or Slurm."""
    cpus: int = Field(4, ge=1)
    """Cores that a job asks of them."""
    memory_gb: int = Field(16, ge=1)
    """Gigabytes of memory that a job asks of them."""
    workers: int = Field(0, ge=0)
    """The most processes that train models side by side on a CPU, trees included; 0: by its cores.
    """
    processes: int = Field(1, ge=1)
    """Processes that train the joint model together, a GPU each where there are GPUs."""
    threads: int = Field(0, ge=0)
    """Threads of each job's process; 0: what OMP_NUM_THREADS says, else one a core. Their number
    can change the last digits of a result.
    """
    ray: RayConfig = RayConfig()
    k8s: KubernetesConfig = KubernetesConfig()
    slurm: SlurmConfig = SlurmConfig()
