"""Some rows of a table as Arrow arrays, every value by its kind: readers give them, frames and snapshots take them.

The kinds: i integers, r reals, t texts, b bytes, x texts that are no UTF-8, as bytes; f booleans, n exact decimals as
texts without needless zeros, d dates, m timestamps, z timestamps with a zone, as instants; o any others, as Python
objects.
"""
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

ARROW = {"i": pa.int64(), "r": pa.float64(), "t": pa.string(), "b": pa.binary(), "x": pa.binary(),
         "f": pa.bool_(), "n": pa.string(), "d": pa.date32(), "m": pa.timestamp("us"), "z": pa.timestamp("us", "UTC")}
_KIND_OF = {int: "i", float: "r", str: "t", bytes: "b", bool: "i"}

# A column's values by kind, NULL where a value is of another: Arrow arrays, but for o, which is a list.
Parts = dict[str, Any]


class Batch(NamedTuple):
    """Some rows, column by column."""

    rows: int
    columns: list[Parts]

    def values(self, place: int) -> list[Any]:
        """Give a column's values as Python has them."""
        return values_of(self.columns[place], self.rows)


def parts_of(values: Sequence[Any]) -> Parts:
    """Split a column's values by kind; text that is no UTF-8 is expected with its bytes as surrogates (PEP 383)."""
    kinds = {_KIND_OF.get(found, "o") for found in set(map(type, values)) - {type(None)}}
    if "o" in kinds:
        return {"o": list(values)}
    if len(kinds) == 1:
        kind = kinds.pop()
        try:
            return {kind: pa.array(values, ARROW[kind])}
        except UnicodeEncodeError:
            pass
    tagged = [_tagged(value) for value in values]
    return {kind: pa.array([value if tag == kind else None for tag, value in tagged], ARROW[kind])
            for kind in ARROW if any(tag == kind for tag, _ in tagged)}


def _tagged(value: Any) -> tuple[str, Any]:
    kind = "" if value is None else _KIND_OF[type(value)]
    if kind == "t":
        try:
            value.encode()
        except UnicodeEncodeError:
            return "x", value.encode("utf-8", "surrogateescape")
    return kind, value


def count_of(parts: Parts) -> int:
    """Count a column's values that are not NULL."""
    return sum(len(part) - part.null_count for part in parts.values())


def values_of(parts: Parts, rows: int) -> list[Any]:
    """Give a column's values as Python has them; texts that are no UTF-8 as bytes."""
    lists = [_values(kind, part) for kind, part in parts.items()]
    if len(lists) < 2:
        return lists[0] if lists else [None] * rows
    return [next((value for value in row if value is not None), None) for row in zip(*lists)]


def _values(kind: str, part: Any) -> list[Any]:
    values = part if kind == "o" else part.to_pylist()
    return [None if value is None else Decimal(value) for value in values] if kind == "n" else values


def join_batches(batches: Sequence[Batch], width: int) -> Batch:
    """Put batches of one table one after the other."""
    return Batch(sum(batch.rows for batch in batches), [_join(batches, place) for place in range(width)])


def _join(batches: Sequence[Batch], place: int) -> Parts:
    kinds = {kind for batch in batches for kind in batch.columns[place]}
    if "o" in kinds:
        return {"o": [value for batch in batches for value in batch.values(place)]}
    return {kind: pa.chunked_array([batch.columns[place].get(kind, pa.nulls(batch.rows, type_)) for batch in batches])
            for kind, type_ in ARROW.items() if kind in kinds}


def last_of_rising(parts: Parts, last: int | None) -> int | None:
    """Give the last of a column's integers, if each is larger than the one before, the first than `last`; else None."""
    if set(parts) != {"i"} or parts["i"].null_count:
        return None
    values = parts["i"].to_numpy()
    rising = (values[1:] > values[:-1]).all() and (last is None or values[0] > last)
    return int(values[-1]) if rising else None


def cut(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Leave out the first rows."""
    for batch in batches:
        left, rows = min(rows, batch.rows), max(0, rows - batch.rows)
        if left < batch.rows:
            yield batch if not left else Batch(batch.rows - left, [
                {kind: part[left:] for kind, part in parts.items()} for parts in batch.columns])
