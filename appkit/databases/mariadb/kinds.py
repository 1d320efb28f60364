"""Which kind the values of a type are, and how a server is asked for them so that none is changed or refused.

Texts are what every client gives unchanged. So decimals, dates and times are asked for as texts and understood here:
zero dates, the 31st of February, and times beyond a day are values too.
"""
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from appkit.batches import ARROW, Parts

_LARGEST = 2**63 - 1
_WORD = re.compile(r"\w+")
_LENGTH = re.compile(r"\w+\s*\((\d+)")
_SIZES = {"char": 4, "varchar": 4, "binary": 1, "varbinary": 1}  # bytes, per unit of length
_LONG = ("text", "blob", "json", "point", "linestring", "polygon", "geometry", "multi", "vector")  # in a type's name


class Asked(NamedTuple):
    """How the values of a type are asked for, as what they arrive, and which kind they are."""

    expression: str  # {} for the column
    arrives: str  # i, r, t or b
    kind: str


_CHAR = "CAST({} AS CHAR)"
_TYPES = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "year"), Asked("{}", "i", "i")),
    "bit": Asked("CAST({} AS UNSIGNED)", "i", "i"),
    # Written as texts, floats have six digits; as doubles they have all.
    "float": Asked("({} * 1e0)", "r", "r"),
    "double": Asked("({} * 1e0)", "r", "r"),
    "decimal": Asked(_CHAR, "t", "n"),
    "date": Asked(_CHAR, "t", "d"),
    "datetime": Asked(_CHAR, "t", "m"),
    "timestamp": Asked(_CHAR, "t", "z"),
    **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext"), Asked("{}", "t", "t")),
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), Asked("{}", "b", "b")),
    **dict.fromkeys(("point", "linestring", "polygon", "geometry", "multipoint", "multilinestring", "multipolygon",
                     "geometrycollection", "geomcollection", "vector"), Asked("CAST({} AS BINARY)", "b", "b")),
}


def asked_for(type_: str) -> Asked:
    """Give how the values of a column's type are asked for; those of unknown ones, of sets and uuids, as texts."""
    return _TYPES.get(_WORD.match(type_)[0].lower(), Asked(_CHAR, "t", "t"))


def most_bytes(type_: str) -> int | None:
    """Give how long a value of a type can be; None where the type itself hardly limits it."""
    name = _WORD.match(type_)[0].lower()
    if any(part in name for part in _LONG):
        return None
    length = _LENGTH.match(type_)
    if name in _SIZES and length:
        return _SIZES[name] * int(length[1])
    return 1024 if name in ("enum", "set") else 72


def from_texts(arrives: str, values: Sequence[Any]) -> pa.Array:
    """Make an array of what a server wrote as texts."""
    if arrives == "r":
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if arrives == "i":
        numbers = [None if value is None else int(value) for value in values]
        large = any(number is not None and number > _LARGEST for number in numbers)
        return pa.array(numbers, pa.uint64() if large else pa.int64())
    if arrives == "b":
        return pa.array([value.encode() if isinstance(value, str) else value for value in values], pa.binary())
    return pa.array(values, pa.string())


def parts_of_kind(kind: str, array: pa.Array) -> Parts:
    """Split an array by kind, what does not fit the kind it should be of apart; nothing where there is no value."""
    if array.null_count == len(array):
        return {}
    return _PARTS.get(kind, _plain)(kind, array)


def _plain(kind: str, array: pa.Array) -> Parts:
    return {kind: array.cast(ARROW[kind])}


def _integers(kind: str, array: pa.Array) -> Parts:
    if array.type != pa.uint64() or pc.max(array).as_py() <= _LARGEST:
        return {kind: array.cast(pa.int64())}
    fits = pc.less_equal(array, pa.scalar(_LARGEST, pa.uint64()))
    none = pa.scalar(None, pa.uint64())
    parts = {kind: pc.if_else(fits, array, none).cast(pa.int64()),
             "n": pc.if_else(fits, none, array).cast(pa.string())}
    return {each: part for each, part in parts.items() if part.null_count < len(part)}


def _decimals(kind: str, array: pa.Array) -> Parts:
    """Write decimals without needless zeros, in front (ZEROFILL) and behind."""
    array = array.cast(pa.string())
    fraction = pc.match_substring(array, ".")
    if pc.any(fraction).as_py():
        array = pc.if_else(fraction, pc.utf8_rtrim(pc.utf8_rtrim(array, "0"), "."), array)
    if pc.any(pc.match_substring_regex(array, r"^-?0\d|^-0$")).as_py():
        array = pc.replace_substring_regex(array, r"^(-?)0+(\d)", r"\1\2")
        array = pc.if_else(pc.equal(array, "-0"), "0", array)
    return {kind: array}


def _moments(kind: str, array: pa.Array) -> Parts:
    array = array.cast(pa.string())
    # Arrow takes the year 0, which Python has not.
    if not pc.any(pc.starts_with(array, "0000")).as_py():
        try:
            return {kind: _parsed(array, ARROW[kind])}
        except pa.ArrowInvalid:
            pass
    known = [text is not None and _is_moment(text, kind) for text in array.to_pylist()]
    none = pa.scalar(None, pa.string())
    parts = {kind: _parsed(pc.if_else(known, array, none), ARROW[kind]), "t": pc.if_else(known, none, array)}
    return {each: part for each, part in parts.items() if part.null_count < len(part)}


def _parsed(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if type_ == pa.date32():
        return array.cast(type_)
    return array.cast(pa.timestamp("us")).cast(type_)  # the session's zone is UTC


def _is_moment(text: str, kind: str) -> bool:
    try:
        (date if kind == "d" else datetime).fromisoformat(text)
    except ValueError:
        return False
    return True


_PARTS: dict[str, Callable[[str, pa.Array], Parts]] = {
    "i": _integers, "n": _decimals, "d": _moments, "m": _moments, "z": _moments}
