"""Reading a CSV file: whatever its bytes are, each of its rows is there."""

import gzip

import duckdb
import pytest

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.raw_tables import RawReader, RawTable, open_table

# Longer than what is unpacked at a time, so that characters are cut in two between the blocks.
ROWS = ("1," + "ä€𝄞" * 20 + "\n").encode() * 20_000


@pytest.fixture(params=[".csv.gz", ".csv"])
def load(request, tmp_path):
    def load(content: bytes):
        file = tmp_path / f"table{request.param}"
        file.write_bytes(gzip.compress(content, 1) if request.param == ".csv.gz" else content)
        with duckdb.connect() as connection:
            rows = RawReader(connection, tmp_path).load(open_table(tmp_path, file, ["a", "b"]), "found", ["a", "b"])
            counts = "SELECT count(*), count(broken), max(length(b)), max(source_row) FROM found"
            found = connection.execute(counts).fetchone()
        assert found is not None
        assert rows == found[0] == found[3]
        return found[:3]

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


@pytest.mark.parametrize("spoil", [lambda whole: whole[:-2000], lambda whole: whole[:-8] + b"12345678"])
def test_a_damaged_gzip_file_is_refused(tmp_path, spoil):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(spoil(gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(50_000)))))
    table = RawTable(file, file.name, ("a", "b"))
    with duckdb.connect() as connection, pytest.raises(InputError, match="copy it again"):
        RawReader(connection, tmp_path).load(table, "found", ["a", "b"])
