"""Who waited for a revision, and for how long: locks in, by table and by whom."""
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from appkit.databases import Statement

_STOPPED = ("readers", "writers")


class Wait(NamedTuple):
    """Users of a table who stood in wait while a migration held a lock on it."""

    table: str
    who: str  # 'readers and writers', or 'writers'
    seconds: float  # from the statement that took the lock to the end of its transaction
    rows: int  # in the table, before
    statement: str  # that took the lock

    def estimate(self, rows: int) -> float:
        """Give the seconds at another number of rows, along a straight line through nothing."""
        return self.seconds * rows / self.rows if self.rows else self.seconds


def find_waits(statements: Iterable[Statement], rows: dict[str, int]) -> Iterator[Wait]:
    """Give for each table who waited, the longest first; `rows` are the tables' before, by name."""
    found = {(table, who): max(spans, key=_length) for (table, who), spans in _spans(statements).items()
             if who in _STOPPED and spans}
    waits = []
    for (table, who), span in found.items():
        readers = found.get((table, "readers"))
        if who == "writers" and readers and _length(readers) >= _length(span) * 0.99:
            continue  # told with the readers
        both = "readers and writers" if who == "readers" else who
        waits.append(Wait(table, both, _length(span), rows.get(table, 0), span.text))
    yield from sorted(waits, key=lambda wait: (-wait.seconds, wait.table, wait.who))


def find_scans(statements: list[Statement]) -> Iterator[tuple[str, str, int]]:
    """Give the tables that a statement read as a whole while others waited for them: table, statement, rows."""
    found = _spans(statements)
    for statement in statements:
        began, ended = statement.began, statement.began + statement.seconds
        for table, read in sorted((statement.scanned or {}).items()):
            waiting = any(span.began <= ended and span.ended >= began
                          for who in _STOPPED for span in found.get((table, who), ()))
            if waiting and table not in statement.rewritten:
                yield table, statement.text, read


class _Span(NamedTuple):
    """A time in which somebody waited, and the statement that began it."""

    began: float
    ended: float
    text: str


def _length(span: _Span) -> float:
    return span.ended - span.began


def _spans(statements: Iterable[Statement]) -> dict[tuple[str, str], list[_Span]]:
    """Give when each table's readers, and its writers, waited: between two transactions they get their turn."""
    found: dict[tuple[str, str], list[_Span]] = {}
    for statement in statements:
        for who, table in map(_split, statement.waits or ()):
            found.setdefault((table, who), []).extend(
                _Span(lock.since, lock.until, statement.text) for lock in statement.locks or ()
                if lock.table == table and lock.until is not None)
    return found


def _split(wait: str) -> tuple[str, str]:
    who, _, table = wait.partition(" of ")
    return who, table
