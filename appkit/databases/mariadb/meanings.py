"""What a column of MariaDB means: what its values are, and what it declares where it has none."""
import re
from datetime import time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from appkit.batches import ARROW, Parts, values_of

_MEANINGS = {"i": "integer", "r": "real", "t": "text", "m": "datetime", "z": "instant"}
# The first that matches says of what kind the values are. Names are those of the server and of SQLAlchemy's types.
_DECLARED = [(re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in (
    (r"bool|tinyint\(1\)(?! unsigned| zerofill)", "f"),
    (r"(tiny|small|medium|big)?int|year|bit", "i"),
    (r"datetime", "m"),
    (r"timestamp", "z"),
    (r"float|double|real", "r"),
    (r"numeric|decimal", "n"),
    (r"date$", "d"),
    (r"time\b", "c"),
    (r".*(blob|binary)|point|(multi)?(linestring|polygon|point)|geom|vector", "b"),
)]
_SCALE = re.compile(r"(?:numeric|decimal)\s*\(\s*\d+\s*,\s*(\d+)\s*\)", re.IGNORECASE)
_CLOCK = re.compile(r"(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,6})?")


def understand(declared: str | None, parts: Parts, rows: int) -> tuple[str, Any]:
    """Give what a column's values are, and the values as that: 'object' with the server's text where one does not fit.

    A TINYINT(1) is a boolean as long as nothing but 0 and 1 is in it.

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
    if meant == "f" and (not parts or kind == "i" and _is_boolean(parts["i"])):
        return "boolean", parts["i"] if parts else pa.nulls(rows, pa.int64())
    if meant == "c" and kind == "t":
        return "object", [_time(text) for text in values_of(parts, rows)]
    if kind in _MEANINGS:
        return _MEANINGS[kind], parts[kind] if parts else pa.nulls(rows, ARROW[kind])
    if kind == "n" and parts:
        return "object", _decimals(values_of(parts, rows), declared)
    return "object", values_of(parts, rows)


def _kind_of(declared: str | None) -> str | None:
    """Give the kind of a declared type's values, 'c' for times of the day; None where nothing is declared."""
    return declared and next((kind for pattern, kind in _DECLARED if pattern.match(declared)), "t")


def _is_boolean(values: Any) -> bool:
    return pc.all(pc.is_in(values, pa.array([0, 1, None], pa.int64()))).as_py()


def _time(text: str | None) -> time | str | None:
    return time.fromisoformat(text) if text and _CLOCK.fullmatch(text) else text  # a TIME may be -838:59:59


def _decimals(values: list[Decimal | None], declared: str | None) -> list[Decimal | int | None]:
    """Give decimals with as many zeros as the declared scale has; a large integer of BIGINT as one."""
    if _kind_of(declared) == "i":
        return [None if value is None else int(value) for value in values]
    match = _SCALE.match(declared or "")
    scale = int(match[1]) if match else 0
    return [value if value is None or -value.as_tuple().exponent >= scale else Decimal(f"{value:.{scale}f}")
            for value in values]
