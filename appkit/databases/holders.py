"""Who holds a lock that a migration waits for: another program, or something in this very process."""
import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session


_DRIVERS = ("psycopg", "psycopg2", "pymysql", "MySQLdb")


class Blocker(NamedTuple):
    """A session of the database that is in the way."""

    pid: int
    application: str
    state: str
    query: str
    since: Any
    seconds: float | None
    table: str


def describe(blockers: list[Blocker], pid_of: Callable[[Any], int | None]) -> str:
    """Say who is in the way, and how each lets go."""
    if not blockers:
        return "Who holds it is gone by now, or may not be seen. Try again."
    seen: dict[int, Blocker] = {}
    for blocker in blockers:
        seen.setdefault(blocker.pid, blocker)
    return " ".join(_told(blocker, pid_of) for blocker in list(seen.values())[:3])


def _told(blocker: Blocker, pid_of: Callable[[Any], int | None]) -> str:
    since = f", since {blocker.since:%Y-%m-%d %H:%M:%S}" if blocker.since else ""
    long = f" ({blocker.seconds:.0f} s)" if blocker.seconds is not None else ""
    name = f" {blocker.application!r}" if blocker.application else ""
    query = " ".join(blocker.query.split())[:160]
    told = (f"In the way on {blocker.table}: pid {blocker.pid}{name}, {blocker.state or 'running'}{since}{long}, its "
            f"last query: {query}.")
    here = next(_found_here(blocker.pid, pid_of), None)
    return f"{told} {here or 'Let it end its transaction, or end it.'}"


def _found_here(pid: int, pid_of: Callable[[Any], int | None]) -> Iterator[str]:
    """Name the connections of this process that have a server's session, and how each is let go."""
    objects = gc.get_objects()
    # By their type: what has died behind a weak proxy has no class any more.
    for session in (each for each in objects if issubclass(type(each), Session)):
        try:
            if session.in_transaction() and _pid(session.connection(), pid_of) == pid:
                yield "It is this process: an open Session. Call db.session.rollback() (or commit, or close it)."
        except SQLAlchemyError:
            continue  # bound to nothing, or to something that is gone
    for connection in (each for each in objects if issubclass(type(each), Connection)):
        if _pid(connection, pid_of) == pid:
            yield ("It is this process: a Connection that was not closed, or rows that were not read to their end. "
                   "Close it, or read inside `with engine.connect() as connection:`.")
    if any(pid_of(each) == pid for each in objects
           if type(each).__name__ == "Connection" and type(each).__module__.partition(".")[0] in _DRIVERS):
        yield "It is this process: a connection of the driver's own. Close it."


def _pid(connection: Connection, pid_of: Callable[[Any], int | None]) -> int | None:
    if connection.closed or connection.invalidated:
        return None
    return pid_of(connection.connection.driver_connection)
