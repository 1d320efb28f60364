"""What PostgreSQL writes, and what it writes for moments that Python's calendar has no room for.

Dates and timestamps outside the years 1 to 9999, and infinities, are texts as the server writes them under DateStyle
ISO, those with a zone in UTC: neither Python nor DuckDB has room for them.
"""
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from appkit.batches import ARROW, Parts, parts_of

REAL, NUMERIC = 700, 1700
# The kinds of types by oid; any other is text. Source: pg_type.dat, where oids never change.
KINDS = {16: "f", 17: "b", 20: "i", 21: "i", 23: "i", 26: "i", REAL: "r", 701: "r", 1082: "d", 1114: "m", 1184: "z",
         NUMERIC: "n"}
_DAY = 86_400_000_000  # microseconds
_PG_EPOCH = 10_957  # days, its 2000-01-01 from Arrow's 1970-01-01
_MOMENT = re.compile(r"(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?"
                     r"(?:([+-])(\d\d)(?::(\d\d)(?::(\d\d))?)?)?( BC)?")


def parse(values: Sequence[bytes | str | None], oid: int) -> Parts:
    """Give values of a type by kind, from the texts that the server wrote under DateStyle ISO, bytea_output hex."""
    if all(value is None for value in values):
        return {}
    try:
        texts = pa.array(values, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:  # a server that knows no encoding takes any bytes
        return parts_of([value and value.decode("utf-8", "surrogateescape") for value in values])
    kind = KINDS.get(oid, "t")
    if kind in "dmz":
        return _parse_moments(kind, texts)
    if kind == "n":
        texts = trimmed(texts)
    elif kind == "f":
        texts = pc.equal(texts, "t")
    elif kind == "b":
        texts = pa.array([value and bytes.fromhex(value[2:]) for value in texts.to_pylist()], pa.binary())
    elif oid == REAL:
        texts = texts.cast(pa.float32())  # 0.1 as it is in four bytes, which is another number than in eight
    return {kind: texts.cast(ARROW[kind])}


def trimmed(texts: Any) -> Any:
    """Leave out the needless zeros of numerics."""
    return pc.if_else(pc.match_substring(texts, "."), pc.ascii_rtrim(pc.ascii_rtrim(texts, "0"), "."), texts)


def moments(kind: str, numbers: Any) -> Parts:
    """Give dates or timestamps by kind, from the server's days or microseconds, moved to Arrow's epoch.

    Infinity is its largest integer, -infinity its smallest: where moving leaves the integers, it wraps around, and so
    never gets among the years 1 to 9999.
    """
    low, high = _RANGES[kind == "d"]
    inside = pc.and_(pc.greater_equal(numbers, low), pc.less_equal(numbers, high))
    plain = numbers
    if pc.all(inside).as_py() is False:
        plain = pc.if_else(inside, numbers, None)
    parts = {} if plain.null_count == len(plain) else {kind: plain.view(ARROW[kind])}
    if plain is not numbers:
        odd = pc.if_else(inside, None, numbers).to_pylist()
        parts["t"] = pa.array([None if each is None else _written(kind, each) for each in odd], pa.string())
    return parts


_RANGES = ((-719_162 * _DAY, 2_932_897 * _DAY - 1), (-719_162, 2_932_896))  # the years 1 to 9999, by whether days


def _written(kind: str, number: int) -> str:
    """Write a moment as the server does."""
    bits, moved = (32, _PG_EPOCH) if kind == "d" else (64, _PG_EPOCH * _DAY)
    theirs = _wrapped(number - moved, bits)
    if theirs in (2 ** (bits - 1) - 1, -2 ** (bits - 1)):
        return "infinity" if theirs > 0 else "-infinity"
    days, rest = (theirs + moved, 0) if kind == "d" else divmod(theirs + moved, _DAY)
    year, month, day = str(np.datetime64(days, "D")).rsplit("-", 2)
    written = f"{abs(int(year) - (int(year) < 1)):04}-{month}-{day}"  # without a year 0: it is 1 BC
    if kind != "d":
        seconds, micros = divmod(rest, 1_000_000)
        written += f" {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        written += f".{micros:06}".rstrip("0") if micros else ""
        written += "+00" if kind == "z" else ""
    return written + (" BC" if int(year) < 1 else "")


def _wrapped(number: int, bits: int) -> int:
    return (number + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def _parse_moments(kind: str, texts: pa.Array) -> Parts:
    bits, type_ = (32, pa.int32()) if kind == "d" else (64, pa.int64())
    try:
        return moments(kind, texts.cast(ARROW[kind]).view(type_))
    except pa.ArrowInvalid:  # outside of the years 1 to 9999, or in a zone with seconds, as they were of old
        numbers = [None if text is None else _wrapped(_number(kind, text), bits) for text in texts.to_pylist()]
        return moments(kind, pa.array(numbers, type_))


def _number(kind: str, text: str) -> int:
    """Give days or microseconds since 1970 from what the server wrote."""
    if text.endswith("infinity"):
        bits, moved = (32, _PG_EPOCH) if kind == "d" else (64, _PG_EPOCH * _DAY)
        return (2 ** (bits - 1) - 1 if text == "infinity" else -2 ** (bits - 1)) + moved
    year, month, day, hour, minute, second, fraction, sign, *zone, before = _MOMENT.fullmatch(text).groups()
    year = 1 - int(year) if before else int(year)
    # A calendar of 400 years, as numpy reads no year of more digits.
    cycles, year = divmod(year, 400)
    days = (date(year + 400, int(month), int(day)) - date(1970, 1, 1)).days + (cycles - 1) * 146_097
    if kind == "d":
        return days
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second)
    hours, minutes, more = (int(each or 0) for each in zone)
    seconds -= (hours * 3600 + minutes * 60 + more) * (-1 if sign == "-" else 1)
    return days * _DAY + seconds * 1_000_000 + int((fraction or "").ljust(6, "0"))
