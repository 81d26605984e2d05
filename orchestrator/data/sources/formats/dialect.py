"""How a CSV is written: what the job says, and what the first file's beginning shows where it says ``auto``."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

import pyarrow.csv as arrow_csv

from orchestrator.data.sources.formats.cutter import RowRules
from orchestrator.errors import DataError
from orchestrator.section import Section
from orchestrator.spec.data import CsvSource

_SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_BYTES = 2**18
_SAMPLE_ROWS = 1000
_UTF8_BOM, _UTF16_BOMS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_PLAIN = r"[+-]?\d+"
_NUMBERS: dict[tuple[str, str], re.Pattern[str]] = {
    (".", ","): re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?"),
    (",", "."): re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?"),
    (",", ""): re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?"),
}
"""(decimal, thousands) -> what every number written so matches."""


class Dialect(Section):
    """How a CSV is written; see the fields of ``CsvSource``."""

    separator: str
    quote: str
    encoding: str
    decimal: str = "."
    thousands: str = ""
    missing: tuple[str, ...] = ()
    text: tuple[str, ...] = ()

    @property
    def row_rules(self) -> RowRules:
        """What ends a row."""
        return RowRules(b"\r\n", self.separator.encode(), self.quote.encode())

    @property
    def null_values(self) -> list[str]:
        """What means "no value" in columns of numbers."""
        return [*_NULL_VALUES, *self.missing]

    def decoded(self, text: bytes, where: str) -> bytes:
        """The same text in UTF-8, without a byte-order mark. Raises DataError where it isn't in the dialect's encoding."""
        if self.encoding == "utf-8":
            return text.removeprefix(_UTF8_BOM)
        try:
            return text.decode(self.encoding).encode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: byte {error.start} is not {self.encoding} ({error.reason}); give the source its encoding"
            ) from None


_NULL_VALUES = tuple(arrow_csv.ConvertOptions().null_values)


def find_dialect(section: CsvSource, path: str, start: bytes) -> tuple[Dialect, tuple[str, ...]]:
    """How the file that begins so is written, and sentences for the plan on what the section left to be found.

    Raises:
        DataError: it is UTF-16.
    """
    refuse_utf16(start, path)
    encoding = _encoding(start) if section.encoding == "auto" else section.encoding
    text = start[:_SAMPLE_BYTES].decode(encoding, errors="replace").removeprefix("\ufeff")
    separator = _separator(text, section.quote) if section.separator == "auto" else section.separator
    rows = _sample_rows(text, separator, section.quote)
    decimal, thousands, doubts = _numbers(section, rows)
    dialect = Dialect(
        separator=separator,
        quote=section.quote,
        encoding=encoding,
        decimal=decimal,
        thousands=thousands,
        missing=section.missing,
        text=section.text,
    )
    name = path.rsplit("/", 1)[-1]
    return dialect, (*_found(section, dialect, name), *(f"{name}: {doubt}" for doubt in doubts))


def refuse_utf16(start: bytes, path: str) -> None:
    """Raises DataError where a text begins as UTF-16 does: rows can't be found in it byte by byte."""
    if start.startswith(_UTF16_BOMS) or b"\x00" in start[:4]:
        raise DataError(
            f"{path}: is UTF-16, which is not read; write it as UTF-8, e.g. iconv -f UTF-16 -t UTF-8 OLD > NEW"
        )


def _encoding(start: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(start)  # the beginning may end within a letter
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _separator(text: str, quote: str) -> str:
    """The candidate that gives all rows of the beginning the same number of columns, and the most of them."""
    best, most = ",", 1
    for separator in _SEPARATORS:
        widths = {len(row) for row in _sample_rows(text, separator, quote)[:50]}
        if len(widths) == 1 and (width := widths.pop()) > most:
            best, most = separator, width
    if most > 1:
        return best
    header = text.split("\n", 1)[0]
    counts = {separator: header.count(separator) for separator in _SEPARATORS}
    return max(_SEPARATORS, key=lambda separator: counts[separator])


def _sample_rows(text: str, separator: str, quote: str) -> list[list[str]]:
    """The first rows, header included; one that is cut by the sample's end is left out."""
    whole = text[: text.rfind("\n") + 1] or text
    return list(islice(rows_of_text(whole, separator, quote), _SAMPLE_ROWS + 1))


def rows_of_text(text: str, separator: str, quote: str) -> Iterator[list[str]]:
    """The fields of each row that isn't empty, up to the first with a field of more than 128 KB."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )
    with suppress(csv.Error):
        yield from (row for row in reader if row)


def _numbers(section: CsvSource, rows: Sequence[list[str]]) -> tuple[str, str, list[str]]:
    """Decimal mark, thousands separator, and what could be either."""
    given = (section.decimal, section.thousands)
    settled = ("." if given[0] == "auto" else given[0], "" if given[1] == "auto" else given[1])
    if "auto" not in given or len(rows) < 2:
        return *settled, []
    doubts, sure = [], set()
    for position, name in enumerate(rows[0]):
        cells = [row[position].strip() for row in rows[1:] if len(row) > position]
        if not any("," in cell for cell in cells):
            continue
        written = [
            pair for pair in _ways(cells) if all(g in ("auto", w) for g, w in zip(given, pair, strict=True))
        ]
        if len(written) == 1:
            sure.add(written[0])
        elif written:
            example = next(cell for cell in cells if "," in cell)
            doubts.append(
                f"column {name!r} is text, but looks like numbers such as {example}; to read them as such, give the"
                ' source thousands: "," or decimal: ","'
            )
    if len(sure) == 1:
        return *sure.pop(), []
    return *settled, doubts


def _ways(cells: Sequence[str]) -> list[tuple[str, str]]:
    """The ways to read all cells as numbers: (decimal, thousands)."""
    values = [cell for cell in cells if cell not in _NULL_VALUES]
    ways = [way for way, pattern in _NUMBERS.items() if all(pattern.fullmatch(value) for value in values)]
    # Without a dot there is nothing that says thousands.
    return [way for way in ways if way != (",", ".") or (",", "") not in ways]


def _found(section: CsvSource, dialect: Dialect, name: str) -> Iterator[str]:
    defaults = {"separator": ",", "encoding": "utf-8", "decimal": ".", "thousands": ""}
    found = [
        f"{field} {getattr(dialect, field)!r}"
        for field, usual in defaults.items()
        if getattr(section, field) == "auto" and getattr(dialect, field) != usual
    ]
    if found:
        yield f"{name} is read with {', '.join(found)}, as its beginning shows; data.train can say otherwise"
