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
    found: dict[tuple[str, str], tuple[float, float, str]] = {}
    for statement in statements:
        for who, table in map(_split, statement.waits or ()):
            ends = [lock.until for lock in statement.locks or () if lock.table == table and lock.until is not None]
            if who not in _STOPPED or not ends:
                continue
            began, ended, text = found.get((table, who), (statement.began, 0.0, statement.text))
            found[table, who] = began, max(ended, *ends), text
    waits = []
    for (table, who), (began, ended, text) in found.items():
        readers = found.get((table, "readers"))
        if who == "writers" and readers and readers[1] - readers[0] >= (ended - began) * 0.99:
            continue  # told with the readers
        both = "readers and writers" if who == "readers" else who
        waits.append(Wait(table, both, ended - began, rows.get(table, 0), text))
    yield from sorted(waits, key=lambda wait: (-wait.seconds, wait.table, wait.who))


def find_scans(statements: Iterable[Statement]) -> Iterator[tuple[str, str, int]]:
    """Give the tables that a statement read as a whole while others waited for them: table, statement, rows."""
    waiting: set[str] = set()
    for statement in statements:
        waiting |= {table for who, table in map(_split, statement.waits or ()) if who in _STOPPED}
        for table, read in sorted((statement.scanned or {}).items()):
            if table in waiting and table not in statement.rewritten:
                yield table, statement.text, read


def _split(wait: str) -> tuple[str, str]:
    who, _, table = wait.partition(" of ")
    return who, table
