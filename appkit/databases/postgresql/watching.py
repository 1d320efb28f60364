"""What a statement does to a private copy on PostgreSQL: locks, rewrites, full scans, and who waits for it."""
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, NamedTuple

from sqlalchemy import Connection

from appkit.databases import Hears, Lock, Statement
from appkit.databases.hearing import Heard, hear_drivers
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.servers import connect_alike, module_of, place_behind

DDL_COMMITS = False  # whether a statement that changes the schema is committed with it
WATCHED: dict[str, Any] = {}
_DOORS = (("psycopg", "connect"), ("psycopg:Connection", "connect"), ("psycopg2", "connect"))
# What is of the server, and not of the copy.
_BEYOND = re.compile(
    r"\s*((CREATE|ALTER|DROP)\s+(ROLE|USER(?!\s+MAPPING)|GROUP|DATABASE|TABLESPACE|SUBSCRIPTION|SYSTEM)"
    r"|(DROP|REASSIGN)\s+OWNED|(GRANT|REVOKE)\b(?!.*\bON\b))\b", re.IGNORECASE | re.DOTALL)
# Its roles, memberships, databases, tablespaces and settings: who changes them locks these, in a DO block too.
_SHARED = "1260, 1261, 1262, 1213, 2964"
_PATIENCE = "10s"  # on a copy only another connection of the same migration can be in the way
_EVERY = 0.002  # seconds between two looks at a statement that runs outside of a transaction
_IDLE, _FAILED = 0, 3  # of a transaction, as libpq tells it
_NAMES = "CASE WHEN n.nspname = current_schema() THEN '' ELSE n.nspname END, c.relname, c.relkind::text"
_RELATIONS = f"""
SELECT c.oid::int8, {_NAMES}, coalesce(pg_relation_filenode(c.oid), 0)::int8, pg_stat_get_tuples_returned(c.oid),
       pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'm', 'i', 'I') AND n.nspname !~ '^pg_toast'"""
# One round trip: what this transaction holds, how it stands now, and where the write-ahead log stands; one row of these
# is the transaction's own. What it has made itself, and the statement does not name, is left out: nobody waits for it,
# and a revision may make hundreds. Prepared, because planning it takes longer than doing it.
_PREPARE = f"""
PREPARE appkit_held (oid[], oid[]) AS
SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8, {{flush}}max(l.virtualtransaction), l.relation::int8,
       array_agg(l.mode),
       (SELECT ARRAY[{_NAMES}] FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = l.relation),
       coalesce(pg_relation_filenode(l.relation), 0)::int8,
       pg_stat_get_xact_tuples_returned(l.relation), pg_stat_get_xact_tuples_inserted(l.relation),
       pg_stat_get_xact_tuples_updated(l.relation) + pg_stat_get_xact_tuples_deleted(l.relation)
FROM pg_catalog.pg_locks l
WHERE l.pid = pg_backend_pid() AND (l.locktype = 'virtualxid' OR l.locktype = 'relation' AND l.granted
      AND CASE WHEN l.relation >= 16384 THEN l.relation NOT IN (SELECT unnest($1)) OR l.relation = ANY ($2)
               ELSE l.relation IN ({_SHARED}) AND l.mode = 'RowExclusiveLock' END)
GROUP BY l.relation"""
_HELD = "EXECUTE appkit_held ('{own}', '{named}')"
_FORGETS = re.compile(r"\b(DEALLOCATE|DISCARD)\b", re.IGNORECASE)
# Transactions of a connection are counted: one that was not heard of has run past SQLAlchemy.
_COUNT = "SELECT {flush}virtualtransaction FROM pg_catalog.pg_locks WHERE pid = pg_backend_pid() LIMIT 1"
# The counts of a transaction go on with those of earlier ones, until these are handed in: so they are, at its end.
_FLUSH = "pg_stat_force_next_flush()::text, "  # from PostgreSQL 15 on
_SAMPLED = """
SELECT relation::int8, mode FROM pg_catalog.pg_locks
WHERE pid = {pid} AND locktype = 'relation' AND granted AND relation >= 16384 AND database <> 0"""
_WRITERS = {"RowExclusiveLock", "AccessExclusiveLock"}  # no row is written without one of them
_HARMLESS = {"AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"}  # nobody waits
_STOPS_READERS = {"AccessExclusiveLock"}
_TABLES = "rpm"
_READS = re.compile(r"\s*(SHOW|SET|BEGIN|START)\b[^;]*;?\s*", re.IGNORECASE)
_SELECTS = re.compile(r"\s*SELECT\b", re.IGNORECASE)
_ENDS = re.compile(r"\s*(COMMIT|END|ROLLBACK|ABORT)(\s+(WORK|TRANSACTION))?\s*;?\s*", re.IGNORECASE)


class _Relation(NamedTuple):
    """A table or an index, as it stands."""

    schema: str
    bare: str
    kind: str
    filenode: int

    @property
    def name(self) -> str:
        """The name as the catalogue gives it: with the schema where that is not the default one."""
        return f"{self.schema}.{self.bare}" if self.schema else self.bare

    @property
    def quoted(self) -> str:
        """The name for a statement."""
        return ".".join(quote(part) for part in (self.schema, self.bare) if part)


class Observer:
    """What PostgreSQL tells of one connection's statements, asked in its own transaction, and by a second connection.

    A lock is looked up by the oid of its table, so that a table dropped or renamed is told by the name that the app
    knows. Who waits is not measured: a second connection asks for the lock that a reader, or a writer, would need, and
    is refused at once (NOWAIT) where one would wait.
    """

    def __init__(self, driver: Any, hears: Hears) -> None:
        self._driver, self._hears = driver, hears
        self._probe = connect_alike(driver)
        self._flush = _FLUSH if driver.info.server_version >= 150000 else "NULL, "
        if hasattr(driver, "prepare_threshold"):  # psycopg forgets all that is prepared, if it has prepared anything
            driver.prepare_threshold = None
        patience = f"CASE setting WHEN '0' THEN '{_PATIENCE}' ELSE setting || 'ms' END"
        self._pid, _, counts = _ask(driver, f"SELECT pg_backend_pid(), set_config(name, {patience}, false), "
                                            "current_setting('track_counts') FROM pg_catalog.pg_settings "
                                            "WHERE name = 'lock_timeout'")[0]
        self._counting = self._flush == _FLUSH and counts == "on"
        self._prepare()
        driver.commit()
        self._last: int | None = None  # the transaction in which it was asked last, as the server counts them
        self._ends = 0  # how many have ended since, as heard
        self._begun = self._autocommits = False
        self._start()

    def _prepare(self) -> None:
        _ask(self._driver, _PREPARE.format(flush=self._flush))

    def _start(self) -> None:
        """Begin with the transaction that comes."""
        self._committed: dict[int, _Relation] = {}  # by oid, as all others see them
        self._now: dict[int, _Relation] = {}  # as the transaction sees them
        self._asked: set[int] = set()
        self._own: dict[int, str] = {}  # what nobody else sees, as a text would name it, by oid
        self._wal: int | None = None
        self._modes: dict[int, set[str]] = {}
        self._counts: dict[int, tuple[int, int, int]] = {}  # rows read, inserted, updated or deleted, by table
        self._locks: list[Lock] = []

    def _look(self) -> dict[int, _Relation]:
        rows = _ask(self._probe, _RELATIONS)
        self._read, self._written = ({row[0]: row[place] for row in rows} for place in (-2, -1))
        return {oid: _Relation(*row) for oid, *row, _, _ in rows}

    def _learn(self, oids: set[int]) -> None:
        """Find out how relations that the transaction has locked stand for others: until its end they stay so."""
        if oids <= self._asked:
            return
        found = {oid: _Relation(*row) for oid, *row, _, _ in
                 _ask(self._probe, f"{_RELATIONS} AND c.oid = ANY (%s::oid[])", _array(oids - self._asked))}
        self._committed |= found
        self._now |= found
        self._asked |= oids

    def before(self, _connection: Connection, _cursor: Any, text: str) -> str:
        """Note how things stand before a statement; give the statement to run."""
        if _BEYOND.match(text):
            self._hears.refuse_statement(text)
        self._sampler, self._alone = None, self._is_alone()
        if self._alone and not _READS.fullmatch(text):
            self._hand_in()
            self._committed = self._look()  # what was read until here is not this statement's
            self._wal = self._read_wal()
            self._sampler = _Sampler(self._probe, self._pid)
        elif self._wal is None:
            self._wal = self._read_wal()
        self._begun |= not self._alone
        return text

    def _is_alone(self) -> bool:
        return self._driver.autocommit and self._driver.info.transaction_status == _IDLE

    def pass_by(self) -> None:
        """Hear of a statement that is not looked at: the version table's."""
        if self._is_alone():
            self._ends += 1
        else:
            self._begun = True

    def after(self, _connection: Connection, _cursor: Any, statement: Statement) -> None:
        """Add to a statement what was seen of it."""
        status, statement.alone = self._driver.info.transaction_status, self._alone
        if _FORGETS.search(statement.text) and status != _FAILED:
            self._prepare()
        if self._sampler:
            self._after_sampling(statement, status)
        elif status == _IDLE and self._alone:  # SHOW or SET
            self._ends += 1
        elif status == _IDLE:  # it has ended the transaction itself
            if not _ENDS.fullmatch(statement.text):
                self._hears.miss()
            self.settle(committed=True)
        elif status != _FAILED:
            self._after(statement)

    # ---- past SQLAlchemy

    def take(self) -> None:
        """Hear that somebody takes the connection: what is to be heard of it begins here."""
        self._last, self._autocommits = None, self._driver.autocommit
        self._hand_in()

    def give_back(self) -> None:
        """Hear that the connection is given back: look for what was done past SQLAlchemy."""
        if not self._driver.closed and self._driver.info.transaction_status != _FAILED:
            self._hand_in()

    def look_past(self, statement: Statement) -> None:
        """Look for what was done past SQLAlchemy before a commit: it is told as a statement's."""
        self._autocommits = self._driver.autocommit
        if not self._driver.closed and self._driver.info.transaction_status not in (_IDLE, _FAILED):
            self._after(statement)

    def _check(self, number: int) -> None:
        """Compare the number of the transaction at hand with those that were heard of."""
        if self._driver.autocommit and not self._autocommits:
            self._ends += 1  # Alembic has asked for the isolation level, to go back to it
        self._autocommits = self._driver.autocommit
        if self._last is not None and number - self._last > self._ends:
            self._hears.miss()
        self._last, self._ends = number, 0

    def _note_end(self) -> None:
        self._ends += self._begun
        self._begun = False

    def _hand_in(self) -> None:
        """Have the connection hand in what it has counted."""
        resting = self._driver.info.transaction_status == _IDLE
        if resting:
            self._note_end()
        self._check(_number(_ask(self._driver, _COUNT.format(flush=self._flush))[0][1]))
        if resting:
            self._driver.rollback()
            self._ends = 1

    # ---- within a transaction

    def _after(self, statement: Statement) -> None:
        statement.locks, statement.waits, statement.scanned = [], set(), {}
        self._begun = True
        text = statement.text.lower()
        named = _array(oid for oid, name in self._own.items() if name in text)
        rows = _ask(self._driver, _HELD.format(own=_array(self._own), named=named))
        wal, _, number, *_ = rows[0]
        self._check(_number(number))
        rows = [row for _, _, _, *row in rows if row[0] is not None]
        if any(oid < 16384 for oid, *_ in rows):
            self._hears.refuse_statement(statement.text)
        self._learn({oid for oid, *_ in rows})
        for oid, modes, names, filenode, read, inserted, changed in rows:
            self._see(statement, oid, set(modes), _Relation(*names, filenode) if names else None,
                      (read or 0, inserted or 0, changed or 0))
        statement.wal, self._wal = None if self._wal is None else wal - self._wal, wal
        self._locks += statement.locks

    def _see(self, statement: Statement, oid: int, modes: set[str], relation: _Relation | None,
             counts: tuple[int, int, int]) -> None:
        before = self._now.get(oid)
        if relation is None:
            self._now.pop(oid, None)
        else:
            self._now[oid] = relation
            if oid not in self._committed:
                self._own[oid] = relation.bare.replace('"', '""').lower()
        known = before if oid in self._committed else relation or before
        if known is None:
            return
        if before and relation and before.filenode != relation.filenode:
            statement.rewritten.add(self._told(oid, known))
        if known.kind in _TABLES:
            self._see_counts(statement, oid, known, counts, modes)
            self._see_locks(statement, oid, known, modes)

    def _see_counts(self, statement: Statement, oid: int, known: _Relation, counts: tuple[int, int, int],
                    modes: set[str]) -> None:
        read, inserted, changed = (now - then for now, then in zip(counts, self._counts.get(oid, (0, 0, 0))))
        self._counts[oid] = counts
        if read > 0:
            statement.scanned[self._told(oid, known)] = read
        taken = modes - self._modes.get(oid, set())
        if inserted or changed or taken & _WRITERS:
            for name in {known.name, self._told(oid, known)}:  # under a new name it is looked for, too
                self._hears.tell(name)
        if changed and oid in self._committed:
            statement.waits.add(f"writers of the same rows of {self._told(oid, known)}")

    def _see_locks(self, statement: Statement, oid: int, known: _Relation, modes: set[str]) -> None:
        taken = modes - self._modes.get(oid, set())
        self._modes[oid] = modes
        name = self._told(oid, known)
        if oid in self._committed:  # nobody else sees a table that this transaction has made
            statement.locks += [Lock(name, mode, statement.began) for mode in sorted(taken)]
            if taken - _HARMLESS:
                statement.waits |= {f"{who} of {name}" for who in self._who_waits(self._committed[oid])}

    def _told(self, oid: int, known: _Relation) -> str:
        """Give the name that the app knows: the one that was committed."""
        return self._committed.get(oid, known).name

    def _who_waits(self, relation: _Relation) -> Iterator[str]:
        if relation.kind == "m":
            return
        for who, mode in (("readers", "ACCESS SHARE"), ("writers", "ROW EXCLUSIVE")):
            if not self._lock_at_once(f"LOCK TABLE {relation.quoted} IN {mode} MODE NOWAIT"):
                yield who

    def _lock_at_once(self, statement: str) -> bool:
        try:
            _ask(self._probe, f"{statement}; SELECT")  # two at once are a transaction, which ends with them
        except module_of(self._probe).OperationalError:  # lock_not_available
            return False
        return True

    # ---- outside of one

    def _after_sampling(self, statement: Statement, status: int) -> None:
        """Take what was sampled, and what two looks at everything tell."""
        sampled = self._sampler.stop()
        if status != _IDLE:  # what has begun a transaction is not counted before its end
            self._hears.miss()
        self._last = None  # a statement may be several transactions
        self._hand_in()
        before, read, written = self._committed, self._read, self._written
        after = self._look()
        statement.wal = self._read_wal() - self._wal
        statement.locks = [Lock(before[oid].name, mode, since, until, alone=True) for (oid, mode), (since, until) in
                           sorted(sampled.items()) if oid in before and before[oid].kind in _TABLES]
        statement.waits = {told for lock in statement.locks for told in _waiting(lock)}
        statement.scanned = {each.name: self._read[oid] - read.get(oid, 0) for oid, each in before.items()
                             if each.kind in _TABLES and self._read.get(oid, 0) > read.get(oid, 0)}
        statement.rewritten |= {each.name for oid, each in before.items()
                                if oid in after and after[oid].filenode != each.filenode}
        statement.wrote |= not _SELECTS.match(statement.text)
        for oid in before.keys() | after.keys():
            stood, stands = before.get(oid), after.get(oid)
            if stood != stands or written.get(oid) != self._written.get(oid) or not self._counting:
                for each in filter(None, (stood, stands)):
                    if each.kind in _TABLES:
                        self._hears.tell(each.name)

    def _read_wal(self) -> int:
        """Give where the write-ahead log of the server stands: what others write meanwhile is counted, too."""
        return _ask(self._probe, "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8")[0][0]

    # ---- its end

    def fail(self) -> None:
        """Hear that a statement has failed."""
        self._wal = self._last = None  # what it wrote, and why it failed being asked, is not the next one's doing
        if self._sampler:
            self._sampler.stop()

    def settle(self, *, committed: bool) -> None:
        """Hear that a transaction has ended."""
        now = time.perf_counter()
        for lock in self._locks:
            lock.until = now
        self._note_end()
        self._start()

    def close(self) -> None:
        """Let go of what observing took."""
        self._probe.close()


class _Sampler:
    """Looks at the locks of a statement that runs outside of a transaction, as long as it runs."""

    def __init__(self, probe: Any, pid: int) -> None:
        self._probe, self._pid = probe, pid
        self._seen: dict[tuple[int, str], tuple[float, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            rows = _ask(self._probe, _SAMPLED.format(pid=self._pid))
            now = time.perf_counter()
            for oid, mode in rows:
                self._seen[oid, mode] = (self._seen.get((oid, mode), (now, now))[0], now)

    def stop(self) -> dict[tuple[int, str], tuple[float, float]]:
        """Give the locks seen, by table's oid and mode: from when until when."""
        self._over.set()
        self._thread.join()
        return self._seen


def _waiting(lock: Lock) -> Iterator[str]:
    """Say who waits for a lock that was seen from outside, by what PostgreSQL documents of its mode."""
    if lock.mode in _STOPS_READERS:
        yield f"readers of {lock.table}"
    if lock.mode not in _HARMLESS:
        yield f"writers of {lock.table}"


def hear_connections(heard: Heard) -> AbstractContextManager[None]:
    """Call a function for every connection that psycopg or psycopg2 opens to a place; it may refuse."""
    return hear_drivers(_DOORS, heard, place_behind)


def _number(virtual: str) -> int:
    """Give which of a connection's transactions one is: '3/41' is the 41st."""
    return int(virtual.rpartition("/")[2])


def _array(numbers: Iterable[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def _ask(driver: Any, statement: str, *parameters: str) -> list[tuple]:
    """Run a statement of ours on a driver's connection; give its rows as tuples, whatever the app's own factories."""
    rows = module_of(driver)
    factory = ({"row_factory": import_module("psycopg.rows").tuple_row} if rows.__name__ == "psycopg"
               else {"cursor_factory": import_module("psycopg2.extensions").cursor})
    with driver.cursor(**factory) as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []
