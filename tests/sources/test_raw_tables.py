"""Reading a CSV file: whatever its bytes are, each of its rows is there."""

import gzip
import random
import signal
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.gzip_file import BLOCK_SIZE
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.raw_tables import RawReader, RawTable, open_table
from m3h_pipeline.state.database import open_database

# Longer than what is unpacked at a time, so that characters are cut in two between the blocks.
ROWS = ("1," + "ä€𝄞" * 20 + "\n").encode() * 20_000


@pytest.fixture(params=[".csv.gz", ".csv"])
def load(request, tmp_path):
    def load(content: bytes):
        file = tmp_path / f"table{request.param}"
        file.write_bytes(gzip.compress(content, 1) if request.param == ".csv.gz" else content)
        with duckdb.connect() as connection:
            rows = RawReader(connection, tmp_path).load(
                open_table(tmp_path, file, ["a", "b"]), "loaded", ["a", "b"]
            )
            counts = "SELECT count(*), count(broken), max(length(b)), max(source_row) FROM loaded"
            counted = connection.execute(counts).fetchone()
        assert counted is not None
        assert rows == counted[0] == counted[3]
        return counted[:3]

    return load


@pytest.mark.parametrize(
    ("content", "rows", "broken"),
    [
        (b"\xef\xbb\xbfa,b\n1,2\n" + ROWS, 20_001, 0),
        (b"a,b\n" + ROWS, 20_000, 0),
        (b"a,b\n" + ROWS + b"2,\xff\xfe\n" + ROWS, 40_001, 1),
        (b"a,b\n" + ROWS + b"3,\xc3", 20_001, 1),
        (b"a,b\n" + ROWS + b"3,4,5\n" + ROWS, 40_001, 1),
        (b"a,b\n" + ROWS + b'3,"4\n', 20_001, 1),
        (b"a,b\n" + ROWS + b"3,4", 20_001, 0),
        (b"a,b\n" + ROWS + b"3,4\n\n", 20_001, 0),
        ((b"a,b\n" + ROWS).replace(b"\n", b"\r\n"), 20_000, 0),
        ((b"a,b\n" + ROWS).replace(b"\n", b"\r\n") + b"3,4", 20_001, 0),
        (b"a,b\n" + ROWS + b'3,"4\r\n"\n', 20_001, 0),
    ],
    ids=[
        "byte-order mark",
        "long characters",
        "no UTF-8",
        "cut within a character",
        "too many fields",
        "open quote",
        "no line end",
        "empty line",
        "Windows' line ends",
        "Windows' line ends but one",
        "line end within a field",
    ],
)
def test_every_row_is_there(load, content, rows, broken):
    assert load(content) == (rows, broken, 60)


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv"])
@pytest.mark.parametrize("last", [b"", b"4,\xff\xfe\n", b"4,5,6\n"])
def test_rows_are_counted_in_groups(tmp_path, suffix, last):
    """Also of a file of which a row can't be split or decoded: it is a group of its own."""
    file = tmp_path / f"table{suffix}"
    content = b"a,b\n" + b"1,x\n2,y\n" * 1000 + b"3,\n" + last
    file.write_bytes(gzip.compress(content) if suffix == ".csv.gz" else content)
    table = open_table(tmp_path, file, ["a", "b"])
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE names AS SELECT '1' AS key, 'one' AS name")
        reader = RawReader(connection, tmp_path)
        groups = {"a": "a", "name": "name"}
        joined = "LEFT JOIN names ON key = a"
        n_rows = reader.count(table, "counted", ["a", "b"], groups, joined)
        counted = connection.execute(
            "SELECT a, name, rows FROM counted WHERE broken IS NULL ORDER BY a"
        ).fetchall()
        (n_broken,) = connection.execute(
            "SELECT coalesce(sum(rows), 0) FROM counted WHERE broken IS NOT NULL"
        ).fetchall()[0]
    assert counted == [("1", "one", 1000), ("2", None, 1000), ("3", None, 1)]
    assert n_broken == (1 if last else 0)
    assert n_rows == 2001 + n_broken


@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[:-2000], lambda whole: whole[:-8] + b"12345678"]
)
def test_a_damaged_gzip_file_is_refused(tmp_path, spoil):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(
        spoil(gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(50_000))))
    )
    table = RawTable(file, file.name, ("a", "b"))
    with duckdb.connect() as connection, pytest.raises(InputError, match="copy it again"):
        RawReader(connection, tmp_path).load(table, "loaded", ["a", "b"])


def test_a_block_of_zeros_is_part_of_a_gzip_file(tmp_path):
    """The last byte of the size of a small text is 0, and may stand alone in the last block."""
    values = random.Random(1)
    text = b"a,b\n" + b"".join(
        b"%d,%d\n" % (values.getrandbits(30), values.getrandbits(30)) for _ in range(6500)
    )
    packed = gzip.compress(text)
    name = b"n" * (BLOCK_SIZE - (len(packed) - 1) % BLOCK_SIZE - 1)
    packed = packed[:3] + b"\x08" + packed[4:10] + name + b"\0" + packed[10:]
    assert len(packed) % BLOCK_SIZE == 1
    assert gzip.decompress(packed) == text
    (tmp_path / "table.csv.gz").write_bytes(packed)
    with duckdb.connect() as connection:
        table = open_table(tmp_path, tmp_path / "table.csv.gz", ["a"])
        assert RawReader(connection, tmp_path).load(table, "loaded", ["a"]) == 6500


@pytest.mark.parametrize("rows", [b"7,1,2\n8,3,4\n", b"7,1,2\n8,3\n"])
def test_columns_with_odd_names(tmp_path, rows):
    (tmp_path / "table.csv").write_bytes(b',"x""y",a\n' + rows)
    table = open_table(tmp_path, tmp_path / "table.csv", ["a"])
    with duckdb.connect() as connection:
        assert RawReader(connection, tmp_path).load(table, "loaded", table.columns) == 2
        assert connection.execute("FROM loaded").fetchall()[0] == ("7", "1", "2", 1, None)


# Ending early -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[b"", b"1,2,3\n"], ids=["whole", "to be repaired"])
def long_table(request, tmp_path_factory):
    """Takes some 20 s to read; to be repaired, far longer."""
    file = tmp_path_factory.mktemp("long") / "table.csv.gz"
    rows = gzip.compress(b"1,some text\n" * 1_000_000, 1)
    file.write_bytes(gzip.compress(b"a,b\n" + request.param) + 100 * rows)
    return RawTable(file, file.name, ("a", "b"))


_READ = """
import sys, duckdb
from pathlib import Path
from m3h_pipeline.sources.raw_tables import RawReader, open_table
file = Path(sys.argv[1])
with duckdb.connect() as connection:
    print("reading", flush=True)
    RawReader(connection, file.parent).load(open_table(file.parent, file, ["a"]), "loaded", ["a"])
"""


@pytest.mark.slow(3)
@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_control_c_ends_reading(long_table, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", _READ, long_table.file], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) not in (0, None)
    finally:
        process.kill()


@pytest.mark.slow(4)
@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0])
def test_reading_in_another_thread_can_be_ended(long_table, tmp_path, seconds):
    with duckdb.connect() as connection:
        reader = RawReader(connection, tmp_path)
        ends = []

        def read():
            try:
                reader.load(long_table, "loaded", ["a"])
            except duckdb.InterruptException:
                ends.append("interrupted")

        reading = threading.Thread(target=read)
        reading.start()
        time.sleep(seconds)
        for _ in range(100):
            reader.interrupt()
            reading.join(0.1)
            if not reading.is_alive():
                break
        assert ends == ["interrupted"]


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_mistake_ends_what_is_loaded_beside(long_table, tmp_path, seconds):
    with open_database(tmp_path / ".spill") as connection:
        threads = connection.execute("SELECT current_setting('threads')").fetchone()
        work = Extraction(
            connection,
            RawReader(connection, tmp_path),
            {"long": long_table},
            Settings(),
            {"long": ["a", "b"]},
        )

        def fail():
            with work.loading({"long": {}}):
                time.sleep(seconds)
                raise InputError("a mistake of mine")

        started = time.monotonic()
        with pytest.raises(InputError, match="of mine"):
            fail()
        assert time.monotonic() - started < 10
        assert connection.execute("SELECT current_setting('threads')").fetchone() == threads


def test_what_failed_says_why_and_not_what_it_ended(tmp_path, monkeypatch):
    def fail():
        with open_database(tmp_path / ".spill") as connection:
            reader = RawReader(connection, tmp_path)
            tables = {"a": RawTable(tmp_path / "a.csv", "a.csv", ("a",))}

            def load(*_):
                reader.interrupt()
                raise duckdb.OutOfMemoryException

            monkeypatch.setattr(reader, "load", load)
            with Extraction(connection, reader, tables, Settings(), {"a": ["a"]}).loading(
                {"a": {}}
            ):
                time.sleep(0.2)
                reader._fetch_number("SELECT 1")

    with pytest.raises(InputError, match="does not fit"):
        fail()
