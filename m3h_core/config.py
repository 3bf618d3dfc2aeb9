"""The configuration of a model and its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

Normalization = Literal["stable", "paper"]
SelfBias = Literal["paper", "scaled"]
Weighting = Literal[
    "equal",
    "uncertainty",
    "upgrad",
    "dualproj",
    "mgda",
    "pcgrad",
    "imtl_g",
    "aligned_mtl",
    "config",
]


def check_choices(normalization: str, self_bias: str) -> None:
    """Raise ValueError for a spelling that is no choice."""
    if normalization not in get_args(Normalization):
        raise ValueError(
            f"normalization {normalization!r} is not one of {', '.join(get_args(Normalization))}"
        )
    if self_bias not in get_args(SelfBias):
        raise ValueError(f"self_bias {self_bias!r} is not one of {', '.join(get_args(SelfBias))}")


def check_weighting(weighting: str) -> None:
    """Raise ValueError for a spelling that is no choice.

    >>> check_weighting("equals")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: weighting 'equals' is not one of equal, uncertainty, ...
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting {weighting!r} is not one of {', '.join(get_args(Weighting))}")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that shapes a model and its training; equal configurations and data give equal
    numbers on a CPU.

    The network: ``hidden`` are the widths of the trunk (empty: the paper's form, task maps straight
    from the fused embeddings); ``width`` that of a task's embedding; ``members`` networks, which
    share their first layer, are averaged; ``linear_path`` adds to each head a ridge regression on
    the inputs, fitted before the network in closed form (see ensemble/ridge.py); ``borrowing`` lets
    a task with few labels read the outputs of tasks with many (see ensemble/borrowing.py);
    ``attention=False`` cuts the tasks apart after the trunk; ``residual`` adds a task's own value
    to what it attends to (ours).

    Training: ``averaging`` is the share that the moving average of the weights keeps at each epoch;
    ``balance`` says how a task with few labels is weighted, from 1 (the sum of the tasks' mean
    losses, as in the paper: every task counts alike) to 0 (every label counts alike); ``weighting``
    how the tasks' losses are weighed as they are learned (see training/weighting.py: "equal",
    "uncertainty", or one of the methods that combine the tasks' gradients, which train models one
    by one); ``patience`` is the number of epochs without a better validation loss after which
    training stops; ``batch_size`` is that of a large cohort (one of fewer than 16 batches is read
    in smaller ones). Clusters start at epoch ``cluster_start`` and their targets are renewed every
    ``cluster_refresh`` epochs.

    >>> FitConfig(seed=3).learning_rate == FitConfig().learning_rate
    True
    >>> FitConfig(dropout=1.0)
    Traceback (most recent call last):
        ...
    ValueError: dropout must lie in [0, 1), not 1.0
    """

    seed: int = 0
    epochs: int = 60
    patience: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 5.0
    averaging: float = 0.8
    balance: float = 0.5
    weighting: Weighting = "equal"
    hidden: tuple[int, ...] = (512,)
    width: int = 16
    members: int = 4
    dropout: float = 0.3
    input_dropout: float = 0.0
    modality_dropout: float = 0.1
    linear_path: bool = True
    borrowing: bool = True
    attention: bool = True
    alpha: float = 1.0
    normalization: Normalization = "stable"
    self_bias: SelfBias = "scaled"
    residual: bool = False
    cluster_start: int = 5
    cluster_refresh: int = 3
    cluster_weight: float = 0.1
    cluster_components: int = 16
    max_clusters: int = 8
    device: str = "auto"
    precision: Literal["float32", "float64", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_choices(self.normalization, self.self_bias)
        check_weighting(self.weighting)
        for name in ("dropout", "input_dropout", "modality_dropout", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        for name in (
            "epochs",
            "patience",
            "batch_size",
            "width",
            "members",
            "cluster_refresh",
            "cluster_components",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.precision not in ("float32", "float64", "bfloat16"):
            raise ValueError(
                f"precision {self.precision!r} is not one of float32, float64, bfloat16"
            )

    @property
    def torch_device(self) -> torch.device:
        """Where training runs; "auto" is a GPU where there is one."""
        default = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(default if self.device == "auto" else self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights; bfloat16 is a type of the products only."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, read back by :meth:`from_dict`."""
        return asdict(self) | {"hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FitConfig:
        """Read what :meth:`to_dict` wrote.

        >>> FitConfig.from_dict(FitConfig(width=8).to_dict()) == FitConfig(width=8)
        True
        """
        return cls(**record)
