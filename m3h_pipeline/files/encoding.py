"""Which encoding a text is in that is not UTF-8, and the command that converts it."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.gzip_file import open_unpacked

# Marks at the beginning of a file; the longer ones first, since one begins like another.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Python's name -> iconv's, most likely first.
_CANDIDATES = {
    "latin-1": "LATIN1",
    "cp1252": "WINDOWS-1252",
    "cp850": "CP850",
    "mac_roman": "MACINTOSH",
}
# What stands in a hospital's texts beside ASCII.
_EXPECTED = frozenset(
    "äöüßÄÖÜéèêëàáâãçñóòôõíìîïúùûøåæœÅØÆÉÈÀÁÂÇÑÓÍÚ°µ²³±§½¼×·€£–—‘’“”„…•«»®¡¿ªº\xa0"
)
# So many rows of another encoding are no accident; below, each goes to quarantine.
_FEWEST_ROWS = 10
# Of the characters that are not ASCII, so many must be expected ones in the encoding that is
# guessed.
_PLAUSIBLE = 0.8
_SAMPLE = 1 << 20
_BLOCK = 1 << 20
_LONGEST_SAMPLE = 100_000


@dataclass
class _Seen:
    """Lines of a text by what their bytes beyond ASCII are, and some of those that are not
    UTF-8.
    """

    rows: int = 0
    in_utf8: int = 0
    in_another: int = 0
    sample: bytes = b""


def refuse_another_encoding(file: Path, limit: int | None = _SAMPLE) -> None:
    """Raise an `InputError` where a text is in another encoding than UTF-8 as a whole, or its
    header is.

    ``limit``: bytes to look at (None: all). Single rows with bytes that are no UTF-8 are no reason.
    """
    try:
        beginning = next(_blocks(file), b"")
        seen = _count_lines(file, limit)
    except (OSError, InputError):
        # Whoever reads the file says what is wrong with it.
        return
    if encoding := _find_wide_encoding(beginning):
        raise InputError(f"{file} is in {encoding}, not in UTF-8: {_command(file, encoding)}")
    header = beginning.partition(b"\n")[0]
    is_header = not _is_utf8(header)
    is_whole = seen.in_another >= _FEWEST_ROWS and seen.in_another > seen.in_utf8
    if not is_header and not is_whole:
        return
    encoding, share = _guess(header + seen.sample if is_header else seen.sample)
    if not is_header and share < _PLAUSIBLE:
        return
    where = (
        "its header is"
        if is_header
        else f"{seen.in_another:,} of its first {seen.rows:,} lines are"
    )
    raise InputError(f"{file} is not in UTF-8 ({where} in another encoding, probably {encoding}): "
                     f"{_command(file, encoding)}")  # fmt: skip


def conversion(file: Path) -> str:
    """What to do about a small text that is not UTF-8, as half a sentence."""
    beginning = next(_blocks(file), b"")
    return _command(file, _find_wide_encoding(beginning) or _guess(beginning)[0])


def _command(file: Path, encoding: str) -> str:
    """The command that converts a file, and what to do with the result."""
    name, _, ending = file.name.partition(".")
    new = shlex.quote(str(file.with_name(f"{name}.utf8.{ending}")))
    old = shlex.quote(str(file))
    command = f"iconv -f {encoding} -t UTF-8 {old} > {new}"
    if file.suffix == ".gz":
        command = f"gzip -dc {old} | iconv -f {encoding} -t UTF-8 | gzip > {new}"
    return f"convert it with `{command}`, put the new file in its place and run again"


def _find_wide_encoding(beginning: bytes) -> str | None:
    """An encoding of two or four bytes a character; without a mark, by the zeros between."""
    for mark, encoding in _MARKS:
        if beginning.startswith(mark):
            return encoding
    start = beginning[:2000]
    if len(start) < 4:
        return None
    zeros = [start[side::2].count(0) / len(start[side::2]) for side in (0, 1)]
    if max(zeros) < 0.7 or min(zeros) > 0.3:
        return None
    return "UTF-16LE" if zeros[1] > zeros[0] else "UTF-16BE"


def _count_lines(file: Path, limit: int | None) -> _Seen:
    seen = _Seen()
    rest = b""
    read = 0
    for block in _blocks(file):
        read += len(block)
        *lines, rest = (rest + block).split(b"\n")
        _count(seen, lines)
        if len(rest) > 4 * _BLOCK:
            rest = b""
        if limit is not None and read >= limit:
            return seen
    _count(seen, [rest] if rest else [])
    return seen


def _count(seen: _Seen, lines: list[bytes]) -> None:
    seen.rows += len(lines)
    for line in lines:
        if line.isascii():
            continue
        if _is_utf8(line):
            seen.in_utf8 += 1
            continue
        seen.in_another += 1
        if len(seen.sample) < _LONGEST_SAMPLE:
            seen.sample += line + b"\n"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


def _guess(text: bytes) -> tuple[str, float]:
    """The likeliest encoding by iconv's name, and the share of characters beyond ASCII that it
    explains.

    >>> _guess("Frau Müller, Größe, 38,5 °C".encode("latin-1"))
    ('LATIN1', 1.0)
    >>> _guess("Frau Müller “stabil”".encode("cp1252"))[0]
    'WINDOWS-1252'
    >>> _guess("Größe, Müller".encode("cp850"))[0]
    'CP850'
    """
    scores = []
    for python_name, name in _CANDIDATES.items():
        letters = [
            letter for letter in text.decode(python_name, errors="replace") if ord(letter) > 127
        ]
        share = sum(letter in _EXPECTED for letter in letters) / max(len(letters), 1)
        scores.append((share, name))
    best = max(share for share, _ in scores)
    return next((name, share) for share, name in scores if share == best)


def _blocks(file: Path) -> Iterator[bytes]:
    """A text in blocks, unpacked where it is packed."""
    with open_unpacked(file) as stream:
        while block := stream.read(_BLOCK):
            yield block
