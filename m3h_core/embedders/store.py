"""Vectors of single items (a note, an image), kept from run to run by the content that they were
computed from.

A cache is a folder of stores. A store belongs to one encoder: its name holds a hash of the weights
and of all that decides a vector, so vectors of different encoders never mix. It consists of shards,
files that are written once, under a temporary name first: a kill loses what was not yet in a shard,
and nothing else. What is read is copied, and the file closed again: memory does not grow with the
store.

Vectors are patients' data: the folder is the owner's alone, and :func:`erase` takes items out of
it.

Legend: n keys, W width of a row.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_KEY = 16
_SHARDS = "*.safetensors"
# The store that knows a file's content by its path, size and time of change; its rows are keys
# themselves.
_FILES = "files"
# What stores of earlier versions hold that was fitted on images: `erase` drops such a store.
_FITTED = "fitted"
# A file changed so recently may change again within the same tick of the clock.
_SETTLED = 2e9
_DAY = 86_400


def content_key(*content: bytes) -> bytes:
    """16 bytes that stand for a content.

    >>> content_key(b"a note") == content_key(b"a ", b"note") != content_key(b"another")
    True
    """
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    return digest.digest()[:_KEY]


class VectorStore:
    """Rows of one width and type by key; with a ``folder`` they are kept there, without they live
    as long as this does.

    ``width`` is W once there is a row. A key that is put twice keeps one of its rows: equal content
    gives equal rows.

    >>> store = VectorStore(None)
    >>> keys = [content_key(text) for text in (b"a", b"b")]
    >>> store.put(keys, np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> rows, found = store.get([keys[1], content_key(b"c")])
    >>> rows.tolist(), found.tolist()
    ([[3.0, 4.0], [0.0, 0.0]], [True, False])
    """

    def __init__(self, folder: Path | None, dtype: str = "float32") -> None:
        self.folder = folder
        self.width = 0
        self.dtype = np.dtype(dtype)
        # Sorted keys [n], and where each row lies: the shard in the upper half, the row in the
        # lower. Replaced as one: threads may look while another puts.
        self._index = np.empty(0, f"S{_KEY}"), np.empty(0, np.int64)
        self._shards: list[Path | np.ndarray] = []
        self._used: set[int] = set()
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            for shard in sorted(folder.glob(_SHARDS)):
                keys, self.width = _shard_keys(shard) or (None, self.width)
                if keys is not None:
                    self._enter(keys, shard)

    def __len__(self) -> int:
        """How many keys are known."""
        return len(self._index[0])

    def copy(self) -> VectorStore:
        """One that knows the same; what is put into it is not put into this one."""
        store = VectorStore(None, self.dtype.str)
        store.folder = self.folder
        store.width = self.width
        store._index = self._index
        store._shards = [*self._shards]
        return store

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """Which keys are known; bool [n]."""
        return self._find(_array(keys)) >= 0

    def get(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Rows [n, W] and which were found, bool [n]; the others are 0."""
        places = self._find(_array(keys))
        rows = np.zeros((len(keys), self.width), self.dtype)
        is_found = places >= 0
        for shard in np.unique(places[is_found] >> 32).tolist():
            rows_of_shard = np.flatnonzero(is_found & (places >> 32 == shard))
            try:
                rows[rows_of_shard] = self._read(shard, places[rows_of_shard] & 0xFFFFFFFF)
            except (OSError, SafetensorError):  # erased or pruned by another process meanwhile
                is_found[rows_of_shard] = False
        return rows, is_found

    def get_all(self, keys: Sequence[bytes]) -> np.ndarray:
        """Rows [n, W] of keys that were put before; RuntimeError where one was erased meanwhile."""
        rows, is_found = self.get(keys)
        if not is_found.all():
            raise RuntimeError(
                f"{self.folder} lost rows while it was in use: start again when nothing erases "
                "from it"
            )
        return rows

    def put(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Keep rows [n, W], as one shard."""
        if not len(keys):
            return
        rows = np.ascontiguousarray(rows, self.dtype)
        self.width = rows.shape[1]
        if self.folder is None:
            self._enter(_array(keys), rows)
        else:
            self._enter(_array(keys), _write_shard(self.folder, _array(keys), rows))

    def _enter(self, keys: np.ndarray, shard: Path | np.ndarray) -> None:
        order = np.argsort(keys, kind="stable")
        places = (len(self._shards) << 32) + order
        self._shards.append(shard)
        sorted_keys, sorted_places = self._index
        at = np.searchsorted(sorted_keys, keys[order])
        self._index = np.insert(sorted_keys, at, keys[order]), np.insert(sorted_places, at, places)

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """The place of each key, -1 where it is not known; int64 [n]."""
        sorted_keys, places = self._index
        if not len(sorted_keys):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
        return np.where(sorted_keys[at] == keys, places[at], -1)

    def _read(self, number: int, rows: np.ndarray) -> np.ndarray:
        shard = self._shards[number]
        if isinstance(shard, np.ndarray):
            return shard[rows]
        if number not in self._used:  # `prune` removes first what was not used for longest
            os.utime(shard)
            self._used.add(number)
        order = np.argsort(rows)
        ascending = rows[order]
        starts = np.flatnonzero(np.r_[True, np.diff(ascending) > 1])
        result = np.empty((len(rows), self.width), self.dtype)
        with safe_open(shard, framework="numpy") as file:
            stored = file.get_slice("rows")
            for low, high in zip(starts, np.r_[starts[1:], len(rows)], strict=True):
                first = int(ascending[low])
                last = int(ascending[high - 1])
                result[order[low:high]] = stored[first : last + 1][ascending[low:high] - first]
        return result


class FileKeys:
    """The content keys of files, known without reading a file again whose path, size and time of
    change are the same.

    ``keys`` reads nothing and knows only files entered before, by :meth:`enter`.
    """

    def __init__(self, cache: Path | None) -> None:
        self._store = VectorStore(cache / _FILES if cache else None, "uint8")

    def keys(self, files: Sequence[str | Path]) -> list[bytes | None]:
        """The content key of each file [n], None where it is not known."""
        rows, is_found = self._store.get([_file_key(file) or b"" for file in files])
        return [
            row.tobytes() if is_known else None
            for row, is_known in zip(rows, is_found, strict=True)
        ]

    def enter(self, contents: Mapping[str | Path, bytes]) -> None:
        """Note the content keys of files that were just read."""
        keys = {
            file_key: key
            for file, key in contents.items()
            if (file_key := _file_key(file)) is not None
        }
        new = [
            file_key
            for file_key, is_stored in zip(keys, self._store.find(list(keys)), strict=True)
            if not is_stored
        ]
        self._store.put(
            new, np.frombuffer(b"".join(keys[key] for key in new), np.uint8).reshape(-1, _KEY)
        )


def _file_key(file: str | Path) -> bytes | None:
    try:
        about = os.stat(file)
    except OSError:
        return None
    if time.time_ns() - about.st_mtime_ns < _SETTLED:
        return None
    return content_key(
        f"{os.path.abspath(file)}\0{about.st_size}\0{about.st_mtime_ns}".encode("utf-8", "replace")
    )


def erase(cache: Path, keys: Collection[bytes]) -> int:
    """Take the items with these content keys out of a cache; returns how many rows there were.

    What an earlier version fitted on images may have seen them: it is dropped, with the vectors
    that it made. Don't run it while an embedding job writes to the same cache.
    """
    wanted = np.unique(_array(list(keys)))
    removed = 0
    for store in _stores(cache):
        if (store / _FITTED).exists():
            shutil.rmtree(store)
            continue
        for shard in sorted(store.glob(_SHARDS)):
            try:
                with safe_open(shard, framework="numpy") as file:
                    stored = file.get_tensor("keys")
                    rows = file.get_tensor("rows")
            except SafetensorError:
                shard.unlink()
                continue
            leave = ~np.isin(_strings(rows if store.name == _FILES else stored), wanted)
            removed += int((~leave).sum())
            if leave.all():
                continue
            shard.unlink()
            if leave.any():
                _write_shard(store, _strings(stored)[leave], rows[leave])
    return removed


def prune(cache: Path, most_bytes: int) -> int:
    """Remove the shards that were not used for longest until the cache fits; returns how many were
    removed.
    """
    now = time.time()
    for store in _stores(cache):
        for partial in store.glob(".*.partial"):
            if now - partial.stat().st_mtime > _DAY:
                partial.unlink(missing_ok=True)
    shards = [(file.stat(), file) for store in _stores(cache) for file in store.glob(_SHARDS)]
    excess = sum(about.st_size for about, _ in shards) - most_bytes
    removed = 0
    for about, file in sorted(shards, key=lambda shard: (shard[0].st_mtime_ns, shard[1])):
        if excess <= 0:
            break
        file.unlink(missing_ok=True)
        excess = excess - about.st_size
        removed = removed + 1
    for store in _stores(cache):
        if removed and not any(store.glob(_SHARDS)):
            shutil.rmtree(store)
    return removed


def _stores(cache: Path) -> Iterator[Path]:
    return (folder for folder in sorted(cache.glob("*")) if folder.is_dir())


def _array(keys: Sequence[bytes]) -> np.ndarray:
    return np.array(keys, f"S{_KEY}") if len(keys) else np.empty(0, f"S{_KEY}")


def _strings(keys: np.ndarray) -> np.ndarray:
    """Keys uint8 [n, 16] as strings [n]; numpy leaves out trailing zeros, on both sides of every
    comparison.
    """
    return np.ascontiguousarray(keys).view(f"S{_KEY}")[:, 0]


def _shard_keys(shard: Path) -> tuple[np.ndarray, int] | None:
    """The keys of a shard and the width of its rows; None where it can't be read."""
    try:
        with safe_open(shard, framework="numpy") as file:
            return _strings(file.get_tensor("keys")), file.get_slice("rows").get_shape()[1]
    except FileNotFoundError:
        return None
    except SafetensorError:  # cut short by a full disk or a power failure
        shard.unlink(missing_ok=True)
        return None


def _write_shard(store: Path, keys: np.ndarray, rows: np.ndarray) -> Path:
    """A new file, named by its keys: the same work written twice is one file."""
    file = store / f"{content_key(keys.tobytes()).hex()}.safetensors"
    # Other machines may write into the same folder, under the same process number.
    partial = store / f".{file.name}.{uuid.uuid4().hex}.partial"
    save_file(
        {"keys": keys.view(np.uint8).reshape(-1, _KEY), "rows": np.ascontiguousarray(rows)}, partial
    )
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, file)
    return file
