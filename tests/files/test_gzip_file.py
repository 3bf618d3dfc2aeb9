"""A file that may be packed: what it unpacks to, and what is said of one that is damaged."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.gzip_file import open_unpacked

TEXT = random.Random(0).randbytes(300_000)


def read(file: Path) -> tuple[bytes, str]:
    """What a file unpacks to, and the SHA-256 of what was read of it."""
    digest = hashlib.sha256()
    with open_unpacked(file, digest.update) as stream:
        content = b"".join(iter(lambda: stream.read1(1 << 16), b""))
    assert stream.closed
    return content, digest.hexdigest()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", TEXT),
        ("t.csv.gz", gzip.compress(TEXT)),
        ("t.csv.gz", gzip.compress(TEXT[:1000]) + gzip.compress(b"") + gzip.compress(TEXT[1000:])),
        ("t.csv.gz", gzip.compress(TEXT) + bytes(70_000)),
    ],
    ids=["plain", "one member", "several members", "filled up with zeros"],
)
def test_all_of_a_file_is_unpacked_and_seen_as_it_lies(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    assert read(file) == (TEXT, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT)[:-2000], "ends too early"),
        (gzip.compress(TEXT)[:-8], "ends too early"),
        (gzip.compress(TEXT)[:-8] + bytes(8), "is damaged"),
        (gzip.compress(TEXT)[:5000] + bytes(5000) + gzip.compress(TEXT)[10_000:], "is damaged"),
        (gzip.compress(TEXT) + 10 * b"and more", "is damaged"),
        (TEXT, "is damaged"),
    ],
    ids=["cut off", "no trailer", "check sum", "overwritten", "something behind it", "not packed"],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    file = tmp_path / "t.csv.gz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"t\.csv\.gz {message}.*copy it again"):
        read(file)
