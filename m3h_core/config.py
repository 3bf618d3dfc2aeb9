"""The configuration of a model and its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    import torch

Normalization = Literal["stable", "paper", "learned"]
SelfBias = Literal["scaled", "paper"]
Weighting = Literal["equal", "uncertainty"]
Precision = Literal["float32", "float64", "bfloat16"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "normalization": get_args(Normalization),
    "self_bias": get_args(SelfBias),
    "weighting": get_args(Weighting),
    "precision": get_args(Precision),
}
_SHARES = ("dropout", "modality_dropout", "averaging")
_AT_LEAST_1 = (
    "epochs",
    "patience",
    "batch_size",
    "width",
    "members",
    "cluster_refresh",
    "cluster_components",
)
_NOT_NEGATIVE = ("weight_decay", "alpha", "cluster_start", "cluster_weight")


class RemovedSetting(NamedTuple):
    """A setting that earlier versions had: the value that now always holds, and why it went."""

    value: Any
    reason: str


_DECISION = "docs/decisions/0027-settings.md"
# Fields that an earlier version had, by name.
REMOVED: dict[str, RemovedSetting] = {
    "residual": RemovedSetting(False, f"it gained nothing ({_DECISION})"),
    "input_dropout": RemovedSetting(0.0, f"it gained nothing beside the ridge ({_DECISION})"),
}
# TorchJD's methods on the tasks' gradients.
_REMOVED_WEIGHTINGS = ("upgrad", "dualproj", "mgda", "pcgrad", "imtl_g", "aligned_mtl", "config")


def check_choice(name: str, value: str) -> None:
    """Raise ValueError for a spelling that is no choice of that field.

    >>> check_choice("weighting", "equals")
    Traceback (most recent call last):
        ...
    ValueError: weighting 'equals' is not one of equal, uncertainty
    """
    if value in _CHOICES[name]:
        return
    was_removed = name == "weighting" and value in _REMOVED_WEIGHTINGS
    reason = f"; it was removed: see {_DECISION}" if was_removed else ""
    raise ValueError(f"{name} {value!r} is not one of {', '.join(_CHOICES[name])}{reason}")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that shapes a model and its training; equal configurations and data give equal
    numbers on a CPU.

    What each field means stands below it; m3h.toml's section [model] and docs/settings.md take
    their text from there. Raises ValueError for a value that can't be.

    >>> FitConfig(seed=3).learning_rate == FitConfig().learning_rate
    True
    >>> FitConfig(dropout=1.0)
    Traceback (most recent call last):
        ...
    ValueError: dropout must lie in [0, 1), not 1.0
    """

    seed: int = 0
    """Of all that is drawn at random."""
    epochs: int = 60
    """The most epochs, 1 or more: passes over the training split or, where it is larger, over
    16,384 of its rows that are drawn anew.
    """
    patience: int = 8
    """Epochs without a better validation loss after which training stops, 1 or more."""
    batch_size: int = 128
    """Rows of a batch, 1 or more; a cohort of fewer than 16 batches is read in smaller ones."""
    learning_rate: float = 2e-3
    """The size of AdamW's steps, above 0."""
    weight_decay: float = 5.0
    """AdamW's decoupled decay of the weights, 0 or more."""
    averaging: float = 0.8
    """The share that the moving average of the weights keeps at each epoch, in [0, 1); the model is
    this average.
    """
    balance: float = 0.5
    """How a task with few labels counts, from 1 (every task alike, as in the paper) to 0 (every
    label alike).
    """
    weighting: Weighting = "equal"
    """How the tasks' losses are weighed as they are learned. equal: their sum. uncertainty: each by
    a variance that is learned too, so that a loss that stays high counts less.
    """
    hidden: tuple[int, ...] = (512,)
    """Units of each layer of the shared trunk. Empty: the paper's form, in which each task's map
    reads the fused embeddings themselves.
    """
    steps: int = 0
    """Time steps of the modality `series`, which a recurrent trunk reads one after the other; its
    state has half of `hidden` units. 0: no such trunk.
    """
    width: int = 16
    """Numbers in a task's embedding, 1 or more, between which attention mixes."""
    members: int = 4
    """Networks whose mean is the model, 1 or more; they share their first layer."""
    dropout: float = 0.3
    """The share of the trunk's units that are left out at each step, in [0, 1)."""
    modality_dropout: float = 0.1
    """How often a modality counts as missing in training, in [0, 1)."""
    linear_path: bool = True
    """Add to each head a ridge regression on the inputs, fitted in closed form before the
    network.
    """
    borrowing: bool = True
    """Let a task with at most half the labels of others read the outputs of these."""
    attention: bool = True
    """Let tasks attend to each other. Without it they share the trunk alone."""
    alpha: float = 1.0
    """The weight, 0 or more, of what tasks see in each other beside what each sees in itself; at 0
    attention is the same for every patient.
    """
    normalization: Normalization = "learned"
    """What attention's scores are divided by. learned: a temperature that is learned, as each
    task's bias for itself then is too; nothing caps what a task takes from another. stable: their
    largest magnitude. paper: their largest value, which may be negative.
    """
    self_bias: SelfBias = "scaled"
    """A task's bias for itself in attention. scaled: 1 + the logarithm of the number of tasks, so
    that a task keeps its weight however many there are. paper: 1. Where it is learned, it starts
    there.
    """
    cluster_start: int = 5
    """The epoch at which clusters start, counted from 0."""
    cluster_refresh: int = 3
    """Epochs after which the targets of clusters are renewed, 1 or more."""
    cluster_weight: float = 0.1
    """The weight of the clusters' loss beside the other tasks', 0 or more."""
    cluster_components: int = 16
    """Principal components of the inputs that a clustering task reconstructs, 1 or more."""
    max_clusters: int = 8
    """The most clusters that are tried, 2 or more, where a task doesn't say how many."""
    device: str = "auto"
    """Where training runs, as PyTorch names it. auto: a GPU where there is one."""
    precision: Precision = "float32"
    """The type of the weights; bfloat16 is a type of the products only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in _CHOICES:
            check_choice(name, getattr(self, name))
        for name in _SHARES:
            self._need(name, 0 <= getattr(self, name) < 1, "lie in [0, 1)")
        for name in _AT_LEAST_1:
            self._need(name, getattr(self, name) >= 1, "be at least 1")
        for name in _NOT_NEGATIVE:
            self._need(name, 0 <= getattr(self, name) < math.inf, "be a number of at least 0")
        self._need("learning_rate", 0 < self.learning_rate < math.inf, "be a number above 0")
        self._need("balance", 0 <= self.balance <= 1, "lie in [0, 1]")
        self._need("max_clusters", self.max_clusters >= 2, "be at least 2")
        is_state = len(self.hidden) == 1 and self.hidden[0] % 2 == 0
        self._need("hidden", not self.steps or is_state, "be one even size beside steps")
        self._need("hidden", all(size >= 1 for size in self.hidden), "hold sizes of at least 1")

    def _need(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must {rule}, not {getattr(self, name)}")

    @property
    def torch_device(self) -> torch.device:
        """Where training runs; "auto" is a GPU where there is one."""
        import torch  # Dagster's processes read m3h.toml, and so this file, without it.

        default = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(default if self.device == "auto" else self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights; bfloat16 is a type of the products only."""
        import torch

        return torch.float64 if self.precision == "float64" else torch.float32

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, read back by :meth:`from_dict`."""
        return asdict(self) | {"hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FitConfig:
        """Read what :meth:`to_dict` wrote, in this version or an earlier one.

        What shaped the training alone and was removed is left out: the model predicts as it did.
        Raises ValueError for a network of a form that was removed.

        >>> FitConfig.from_dict(FitConfig(width=8).to_dict()) == FitConfig(width=8)
        True
        >>> FitConfig.from_dict({"width": 8, "residual": True})
        Traceback (most recent call last):
            ...
        ValueError: residual = True was removed: it gained nothing (docs/decisions/0027-settings.md)
        """
        if record.get("residual"):
            raise ValueError(f"residual = True was removed: {REMOVED['residual'].reason}")
        current = {name: value for name, value in record.items() if name not in REMOVED}
        if current.get("weighting") in _REMOVED_WEIGHTINGS:
            del current["weighting"]
        return cls(**current)


# A recurrent trunk has no linear path, since no single step says much by itself, and so nothing to
# borrow; its weights, used at every step, need a light decay. The choices: decision 39.
_RECURRENT: dict[str, Any] = {
    "hidden": (384,),
    "members": 1,
    "dropout": 0.5,
    "weight_decay": 0.05,
    "batch_size": 64,
    "linear_path": False,
    "borrowing": False,
    "attention": False,
}


def recurrent_config(config: FitConfig, steps: int) -> FitConfig:
    """The configuration of a network that reads the series in so many steps, beside one of
    ``config``, with which it shares how it learns: seed, epochs, learning rate, balance, device.

    >>> recurrent_config(FitConfig(seed=3), steps=12).seed
    3
    """
    return replace(config, steps=steps, **_RECURRENT)
