"""Sets of codes, such as drugs and earlier diagnoses: how often, how long ago, with which value.

Legend: E records, N samples, K nodes that have columns of their own, V codes with values, R rare
nodes, C components, F width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m3h_core.embedders.base import Embedder, Progress, Scaler
from m3h_core.embedders.events import Events, EventSequences, count_samples, sample_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from scipy.sparse import csr_matrix

SEPARATOR = "/"
# Hours in which the recency of a record falls to one half.
_HALF = 24.0
# Counts above this quantile of those that have the code say nothing more.
_MOST = 99


class CodesEmbedder(Embedder):
    """Records of codes (`Events`, whose values may be missing) of each sample, as one vector.

    A code is a path from general to specific, such as ``drug/insulin/insulin glargine``; a record
    counts for every node of its path. A node that at least ``min_share`` of the fitted samples, and
    ``min_rows``, have gives its recency, 1 / (1 + days since the last record), and how many records
    there are, on a logarithmic scale: both between 0 and 1, and 0 where there is none. Of more than
    ``max_nodes`` those that most samples have are kept; one whose samples all have the same
    narrower node is left out. Rarer nodes that at least ``min_rows`` samples have give so many
    ``components`` of a singular value decomposition of their counts. A code with values in as many
    samples as a node needs gives its last one. A sample is present if it has any record.

    >>> codes = ["drug/insulin/glargine", "drug/insulin/aspart", "service/medicine"]
    >>> items = EventSequences([0, 1, 1], codes, [-24.0, 0.0, 0.0], [np.nan] * 3, n=3)
    >>> embedder = CodesEmbedder(min_rows=1).fit(items)
    >>> embedder.feature_names[:2]
    ['drug/insulin: recency', 'drug/insulin: count']
    >>> vectors, present = embedder.transform(items)
    >>> vectors[:, 0].tolist(), present.tolist()
    ([0.5, 1.0, 0.0], [True, True, False])
    """

    modality = "tabular"
    _scaler: Scaler

    def __init__(
        self,
        min_rows: int = 5,
        min_share: float = 0.01,
        max_nodes: int = 500,
        components: int = 32,
    ) -> None:
        super().__init__()
        self.min_rows = min_rows
        self.min_share = min_share
        self.max_nodes = max_nodes
        self.components = components
        # Nodes with columns [K], and the count [K] at which that column is 1.
        self.nodes: list[str] = []
        self._most = np.ones(0)
        # Codes with values [V].
        self.valued: list[str] = []
        # Rare nodes [R] and their components [C, R].
        self.rare: list[str] = []
        self._components = np.zeros((0, 0))

    @property
    def feature_names(self) -> list[str]:
        """What each of the F columns stands for."""
        self._check_fitted()
        names = self._names()
        return [names[i] for i in self._scaler.keep]

    def fit(self, items: Events, on_progress: Progress | None = None) -> Self:
        """Learn which codes there are, and what is common of them."""
        names, counts = _count_all(items)
        samples = np.diff(counts.tocsc().indptr)
        least = max(self.min_rows, self.min_share * items.n)
        is_usual = samples >= max(least, 1)
        order = np.lexsort([np.array(names, dtype=object), -samples])
        usual = [i for i in order if is_usual[i]]
        repeated = _find_repeated(names, samples)
        kept = [i for i in usual if names[i] not in repeated][: self.max_nodes]
        self.nodes = [names[i] for i in kept]
        self._most = np.array([_find_most(counts, i) for i in kept])
        rare = [i for i in range(len(names)) if samples[i] >= self.min_rows and not is_usual[i]]
        self.rare = [names[i] for i in rare]
        self._components = self._decompose(_on_scale(counts[:, rare]))
        self.valued = _list_valued(items, least)
        raw, _ = self._raw(items)
        flags = np.arange(2 * len(self.nodes))
        self._scaler = Scaler.fit(raw, indicator=flags, min_rows=self.min_rows)
        self.width = len(self._scaler.keep)
        self.report = {
            "codes with columns": len(self.nodes),
            "codes with values": len(self.valued),
            "rare codes": len(self.rare),
            "components of rare codes": len(self._components),
        }
        return self

    def transform(
        self, items: Events, on_progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed N samples; see `Embedder.transform`."""
        self._check_fitted()
        raw, present = self._raw(items)
        vectors = self._scaler.transform(raw)
        vectors[~present] = 0
        return vectors, present

    def _names(self) -> list[str]:
        """Name of each raw column."""
        pairs = product(self.nodes, ("recency", "count"))
        kinds = [f"{node}: {kind}" for node, kind in pairs]
        values = [f"{code}: value" for code in self.valued]
        components = [f"rare codes: component {i + 1}" for i in range(len(self._components))]
        return [*kinds, *values, *components] or ["nothing"]

    def _raw(self, items: Events) -> tuple[np.ndarray, np.ndarray]:
        """Raw columns [N, 2K + V + C], and which samples have any record [N]."""
        raw = np.zeros((items.n, len(self._names())), dtype=np.float32)
        present = np.zeros(items.n, dtype=bool)
        n_kept = len(self.nodes)
        # Columns of recency and of count take turns, then come values and components.
        recencies = slice(0, 2 * n_kept, 2)
        counts = slice(1, 2 * n_kept, 2)
        values = slice(2 * n_kept, 2 * n_kept + len(self.valued))
        components = slice(values.stop, None)
        for rows in sample_blocks(items.n):
            events = items.take(rows).load()
            if not len(events.sample):
                raw[rows, values] = np.nan
                continue
            present[rows[events.sample]] = True
            usual = _place(events, self.nodes)
            recency = np.zeros((len(rows), n_kept))
            for node, sample, hours in usual:
                np.maximum.at(recency, (sample, node), 1 / (1 - hours / _HALF))
            usual_counts = _count(usual, len(rows), n_kept).toarray()
            raw[rows, recencies] = recency
            raw[rows, counts] = np.log1p(usual_counts) / np.log1p(self._most)
            raw[rows, values] = _find_last(events, self.valued)
            if len(self._components):
                rare = _count(_place(events, self.rare), len(rows), len(self.rare))
                raw[rows, components] = _on_scale(rare) @ self._components.T
        return raw, present

    def _decompose(self, counts: csr_matrix) -> np.ndarray:
        """The leading components [C, R] of the counts of rare nodes [N, R]."""
        n_components = min(self.components, *(size - 1 for size in counts.shape))
        if n_components < 1:
            return np.zeros((0, 0))
        from sklearn.decomposition import TruncatedSVD

        return TruncatedSVD(n_components, random_state=0).fit(counts).components_

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        options = ("min_rows", "min_share", "max_nodes", "components")
        about = {
            "options": {name: getattr(self, name) for name in options},
            "nodes": self.nodes,
            "valued": self.valued,
            "rare": self.rare,
            "report": self.report,
        }
        arrays = {"most": self._most, "components": self._components}
        return about, arrays | self._scaler.arrays()

    @classmethod
    def _restore(cls, about: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> Self:
        embedder = cls(**about["options"])
        embedder.nodes = about["nodes"]
        embedder.valued = about["valued"]
        embedder.rare = about["rare"]
        embedder.report = about["report"]
        embedder._most = arrays["most"]
        embedder._components = arrays["components"]
        embedder._scaler = Scaler.from_arrays(arrays)
        return embedder


# Nodes of the paths -------------------------------------------------------------------------------


def _list_nodes(codes: Collection[str]) -> list[str]:
    """All nodes of the paths of these codes, sorted.

    >>> _list_nodes(["a/b/c", "a/d"])
    ['a', 'a/b', 'a/b/c', 'a/d']
    """
    nodes: set[str] = set()
    for code in codes:
        nodes.update(_list_prefixes(code))
    return sorted(nodes)


def _list_prefixes(code: str) -> list[str]:
    parts = code.split(SEPARATOR)
    return [SEPARATOR.join(parts[: i + 1]) for i in range(len(parts))]


def _find_repeated(names: Sequence[str], samples: np.ndarray) -> set[str]:
    """Nodes whose samples all have the same narrower node: the two say the same."""
    n_samples = dict(zip(names, samples.tolist(), strict=True))
    repeated = set()
    for name in names:
        parent, _, _ = name.rpartition(SEPARATOR)
        if parent and n_samples[parent] == n_samples[name]:
            repeated.add(parent)
    return repeated


# Records of a block of samples --------------------------------------------------------------------


def _codes_of(events: EventSequences) -> tuple[list[str], np.ndarray]:
    """The codes, and each record's position among them [E]."""
    if events.codes is not None:
        return list(events.codes), events.code
    codes, place = np.unique(events.code.astype(str), return_inverse=True)
    return codes.tolist(), place


def _place(
    events: EventSequences, names: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Node, sample and hours of the records that count for these nodes, one level at a time."""
    codes, place = _codes_of(events)
    paths = [_list_prefixes(code) for code in codes]
    position = {name: i for i, name in enumerate(names)}
    # The node of each code at each level; -1 where its path ends before, or it is none of these.
    at_level = np.full((max(map(len, paths), default=0), len(codes)), -1)
    for column, path in enumerate(paths):
        at_level[: len(path), column] = [position.get(name, -1) for name in path]
    levels = []
    for of_code in at_level:
        node = of_code[place]
        is_placed = node >= 0
        levels.append((node[is_placed], events.sample[is_placed], events.hours[is_placed]))
    return levels


def _count(
    levels: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], n_samples: int, n_nodes: int
) -> csr_matrix:
    """How many records each sample has of each node [n_samples, n_nodes]."""
    from scipy.sparse import coo_matrix

    node = np.concatenate([node for node, _, _ in levels] or [np.zeros(0, dtype=np.int64)])
    sample = np.concatenate([sample for _, sample, _ in levels] or [np.zeros(0, dtype=np.int64)])
    ones = np.ones(len(node))
    return coo_matrix((ones, (sample, node)), shape=(n_samples, n_nodes)).tocsr()


def _count_all(items: Events) -> tuple[list[str], csr_matrix]:
    """All nodes, and how many records each sample has of each [N, nodes]."""
    from scipy.sparse import vstack

    # Read twice, a block at a time: memory grows with what is counted, not with the records.
    codes: set[str] = set()
    for rows in sample_blocks(items.n):
        codes.update(_list_used(items.take(rows).load()))
    names = _list_nodes(codes)
    counts = [
        _count(_place(items.take(rows).load(), names), len(rows), len(names))
        for rows in sample_blocks(items.n)
    ]
    return names, vstack(counts).tocsr()


def _list_used(events: EventSequences) -> list[str]:
    codes, place = _codes_of(events)
    return [codes[i] for i in np.unique(place)]


def _find_most(counts: csr_matrix, node: int) -> float:
    """The count of a node that few of the samples which have it exceed."""
    return max(float(np.floor(np.percentile(counts[:, [node]].data, _MOST))), 1.0)


def _on_scale(counts: csr_matrix) -> csr_matrix:
    """Counts on a logarithmic scale."""
    return counts.log1p()  # ty: ignore[missing-attribute]


def _list_valued(items: Events, least: float) -> list[str]:
    """The codes with a value in at least so many samples."""
    return sorted(code for code, count in count_samples(items).items() if count >= least)


def _find_last(events: EventSequences, codes: Sequence[str]) -> np.ndarray:
    """The last value of each code [n, V]; NaN where there is none."""
    last = np.full((events.n, len(codes)), np.nan)
    column = events.signals(codes)
    order = np.lexsort([events.value, events.hours])
    order = order[(column[order] >= 0) & np.isfinite(events.value[order])]
    # Of records of the same place numpy keeps what is assigned last.
    last[events.sample[order], column[order]] = events.value[order]
    return last
