"""What a column that SQLite stores means: what it declares, where every value fits that, else what is stored in it."""
import re
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from appkit.batches import Parts, values_of

# The first that matches says what a declared type means. What none matches (no type at all, UUID, POINT) means
# nothing here: such columns are read by what is stored in them.
_MEANINGS = [(re.compile(pattern), meaning) for pattern, meaning in (
    (r"BOOL", "boolean"),
    (r"DATETIME|TIMESTAMP", "datetime"),
    (r"DATE$", "date"),
    (r"TIME$", "time"),
    (r"JSON", "text"),
    (r"((TINY|SMALL|MEDIUM|BIG|UNSIGNED BIG) ?)?INT(EGER|\d*)( UNSIGNED)?$", "integer"),
    (r".*(CHAR|CLOB|TEXT)|ENUM$", "text"),
    (r".*(BLOB|BINARY)", "bytes"),
    (r"REAL|FLOAT|DOUBLE", "real"),
    (r"NUMERIC|DECIMAL", "decimal"),
)]
_STORED = {"i": "integer", "r": "real", "t": "text"}
_EMPTY = {"integer": pa.int64(), "boolean": pa.int64(), "real": pa.float64(), "text": pa.string(),
          "datetime": pa.timestamp("us")}
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_DATETIME_LENGTHS = pa.array([16, 19, 21, 22, 23, 24, 25, 26], pa.int32())  # of those that _DAY and _CLOCK make


def understand(declared: str | None, parts: Parts, rows: int) -> tuple[str, Any]:
    """Give what a column's values are, and the values as that: 'object' and as they are stored where one does not fit.

    Parameters
    ----------
    parts
        The values by kind; `rows` of them.

    Returns
    -------
    integer, boolean, real, text or datetime, with an Arrow array; object for anything else, with a list of Python's own
    objects: dates, times, decimals and bytes too
    """
    meaning = meaning_of(declared)
    kind = next(iter(parts)) if len(parts) == 1 else None
    if not parts and meaning in _EMPTY:
        return meaning, pa.nulls(rows, _EMPTY[meaning])
    if meaning == "datetime" and kind == "t" and (found := _datetimes(parts["t"])) is not None:
        return "datetime", found
    if meaning in _PARSERS:
        values = values_of(parts, rows)
        parsed = _parse(values, _PARSERS[meaning])
        if parsed is not None and meaning == "datetime":
            return "datetime", pa.array(parsed, pa.timestamp("us"))
        return "object", values if parsed is None else parsed
    if meaning == "boolean" and kind == "i":
        known = pc.all(pc.is_in(parts["i"], pa.array([0, 1, None], pa.int64()))).as_py()
        return "boolean" if known else "integer", parts["i"]
    if kind in _STORED and meaning in (_STORED[kind], None):
        return _STORED[kind], parts[kind]
    return "object", values_of(parts, rows)


def meaning_of(declared: str | None) -> str | None:
    """Give what a declared type means; None where it means nothing here."""
    name = re.sub(r"\s*\(.*", "", declared or "", flags=re.DOTALL).strip().upper()
    return next((meaning for pattern, meaning in _MEANINGS if pattern.match(name)), None)


def _datetimes(texts: Any) -> Any:
    """Parse texts as _DAY and _CLOCK have them; None where one is another."""
    if not pc.all(pc.is_in(pc.binary_length(texts), _DATETIME_LENGTHS)).as_py():
        return None
    try:
        return texts.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return None


def _parse(values: list, parse: Callable[[Any], Any]) -> list | None:
    try:
        return [None if value is None else parse(value) for value in values]
    except (ValueError, TypeError, ArithmeticError):
        return None


def _iso(kind: type, pattern: str) -> Callable[[Any], Any]:
    matches, parse = re.compile(pattern).fullmatch, kind.fromisoformat

    def parsed(value: Any) -> Any:
        if type(value) is kind:  # an engine whose own converters (detect_types) have parsed it already
            return value
        # fromisoformat alone takes more: '2026-01-01' for a datetime, '2026-W01' for a date, zones, digits beyond.
        if not matches(value):
            raise ValueError(value)
        return parse(value)
    return parsed


def _decimal(value: Any) -> Decimal:
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value))  # the shortest that is stored as this very number
    raise TypeError(value)


_PARSERS = {
    "datetime": _iso(datetime, rf"{_DAY}[ T]{_CLOCK}"),
    "date": _iso(date, _DAY),
    "time": _iso(time, _CLOCK),
    "decimal": _decimal,
}
