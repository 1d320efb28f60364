"""What a column of PostgreSQL means: what its values are, and what it declares where it has none."""
import re
from contextlib import suppress
from datetime import time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from appkit.batches import ARROW, Parts, values_of

_MEANINGS = {"i": "integer", "f": "boolean", "r": "real", "t": "text", "m": "datetime", "z": "instant"}
# The first that matches says of what kind the values are. Names are those of PostgreSQL and of SQLAlchemy's types.
_DECLARED = [(re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in (
    (r".*\[\]", "t"),
    (r"bool(ean)?\b", "f"),
    (r"(small|big)?(int(eger|\d)?|serial)$|oid$", "i"),
    (r"timestamp.* with time zone|timestamptz", "z"),
    (r"timestamp|datetime", "m"),
    (r"(real|float\d?|double precision|double)\b", "r"),
    (r"numeric|decimal", "n"),
    (r"date$", "d"),
    (r"bytea|.*blob", "b"),
    (r"time\b", "c"),
)]
_SCALE = re.compile(r"(?:numeric|decimal)\s*\(\s*(\d+)\s*,\s*(-?\d+)\s*\)", re.IGNORECASE)


def understand(declared: str | None, parts: Parts, rows: int) -> tuple[str, Any]:
    """Give what a column's values are, and the values as that: 'object' with the server's text where one does not fit.

    Parameters
    ----------
    parts
        The values by kind; `rows` of them.

    Returns
    -------
    integer, boolean, real, text, datetime or instant, with an Arrow array; object for anything else, with a list of
    Python's own objects: dates, times, decimals and bytes
    """
    meant = _kind_of(declared)
    kind = next(iter(parts)) if len(parts) == 1 else meant if not parts else None
    if meant == "c" and kind in ("t", "c"):
        return "object", [value and _time(value) for value in values_of(parts, rows)]
    if kind in _MEANINGS:
        return _MEANINGS[kind], parts[kind] if parts else pa.nulls(rows, ARROW[kind])
    if kind == "n" and parts:
        return "object", _decimals(parts["n"], declared)
    if kind == "d" and parts:
        return "object", _objects(parts["d"])
    return "object", values_of(parts, rows)


def _kind_of(declared: str | None) -> str | None:
    """Give the kind of a declared type's values, 'c' for times of the day; None where nothing is declared."""
    return declared and next((kind for pattern, kind in _DECLARED if pattern.match(declared)), "t")


def _time(text: str) -> time | str:
    # Python has no 24:00:00, and some of its versions take it for midnight.
    return text if text.startswith("24") else time.fromisoformat(text)


def _decimals(texts: Any, declared: str | None) -> list[Decimal | None]:
    """Give decimals, with as many zeros as the declared scale has."""
    match = _SCALE.match(declared or "")
    precision, scale = map(int, match.groups()) if match else (0, 0)
    if 0 < scale <= precision <= 38:
        with suppress(pa.ArrowInvalid):  # NaN; or more digits, in a query that computes
            return _objects(texts.cast(pa.decimal128(precision, scale)))
    return [None if text is None else _padded(Decimal(text), scale) for text in texts.to_pylist()]


def _padded(value: Decimal, scale: int) -> Decimal:
    if not value.is_finite() or -value.as_tuple().exponent >= scale:
        return value
    return Decimal(f"{value:.{scale}f}")


def _objects(values: Any) -> list:
    # By numpy: Arrow's own to_pylist takes up to ten times as long.
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return [value for chunk in chunks for value in chunk.to_numpy(zero_copy_only=False).tolist()]
