"""Every table's rows as they stood at a revision, kept in a DuckDB file."""
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from appkit.batches import ARROW, Batch, Parts, count_of, join_batches, last_of_rising
from appkit.databases import Table
from appkit.large import LargeValues
from appkit.progress import asked_progress, progress
from appkit.values import KINDS, SEVERAL, UNION, Kept, as_union, shortened, stored

_MEMORY = 512  # MB, unless said otherwise
_FEW, _LITTLE = 1000, 2**20  # rows, bytes: compared as they are, which takes less time than to keep them


class Snapshots:
    """The rows of every table at every revision, in a DuckDB file of a private folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "snapshots.duckdb"
        self.connection = duckdb.connect(str(path))
        path.chmod(0o600)
        # Rows stay in their order: tables whose rows stand as they stood are compared in one pass, without a join. To
        # compress them would take more time than all the rest of keeping and comparing.
        self.connection.execute(f"SET memory_limit = '{_MEMORY}MB'; SET preserve_insertion_order = true; "
                                "SET force_compression = 'uncompressed'")
        self.connection.execute("ATTACH ':memory:' AS few")
        with suppress(duckdb.Error):  # in a notebook DuckDB wants ipywidgets for it, even where it shows nothing
            self.connection.execute("SET enable_progress_bar_print = false; SET enable_progress_bar = true")
        self.percent: float | None = None  # of the rows that are compared in slices
        self.large = LargeValues(folder)
        self._number = 0
        self._relations: set[str] = set()

    def close(self) -> None:
        """Let the files go."""
        self.connection.close()
        self.large.close()

    def keep(self, table: Table, batches: Iterable[Batch]) -> Kept:
        """Keep a table's rows; a few stay as they are, until they are asked for."""
        batches = iter(batches)
        begun = list(islice(batches, 2))
        if len(begun) < 2 and _is_little(begun):
            few = join_batches(begun, len(table.columns))
            values = list(map(count_of, few.columns))
            return Kept(table, rows=few.rows, values=values, few=few, read=lambda: begun)
        kept = Kept(table, read=lambda: chain(begun, batches))
        self.load(kept)
        return kept

    def load(self, kept: Kept) -> None:
        """Keep the rows of a table that are not kept yet."""
        if kept.read is None:
            return
        self._number += 1
        width = len(kept.table.columns)
        name = f"few.s{self._number}" if kept.few else f"s{self._number}"  # a few in memory: it takes less time
        loaded = Kept(kept.table, name, values=[0] * width, kinds=[""] * width,
                      held=[set() for _ in range(width)])
        try:
            self._fill(loaded, kept.read(), kept.rows or None)
        except BaseException:  # interrupted: nothing half of it is taken for the whole later
            with suppress(duckdb.Error):  # none was begun
                self.connection.rollback()
            self.connection.execute(f"DROP TABLE IF EXISTS {loaded.relation}")
            raise
        self._relations.add(loaded.relation)
        loaded.few = kept.few
        vars(kept).update(vars(loaded))

    def _fill(self, kept: Kept, batches: Iterable[Batch], expected: int | None) -> None:
        # One transaction: DuckDB writes rows straight into their place, not to its log first.
        self.connection.begin()
        with progress(f"keeping {kept.table.name}", expected) as tell:
            for batch in chain(batches, [Batch(0, [{} for _ in kept.names])]):
                self._make_room(kept, batch)
                if batch.rows:
                    self._append(kept, batch)
                    tell(batch.rows)
        self.connection.commit()

    @contextmanager
    def comparing(self, before: Kept, after: Kept) -> Iterator[None]:
        """Have the rows of both kept, but for a few, and show how far the comparison in the block is."""
        if before.few is None or after.few is None:
            self.load(before)
            self.load(after)
        self.percent = None

        def ask() -> float:
            return self.connection.query_progress() if self.percent is None else self.percent

        with asked_progress(f"comparing {after.table.name}", before.rows + after.rows, ask):
            yield

    @contextmanager
    def limited(self, megabytes: int) -> Iterator[None]:
        """Give DuckDB so much memory in the block, and afterwards what it has otherwise."""
        if megabytes == _MEMORY:
            yield
            return
        self.connection.execute(f"SET memory_limit = '{megabytes}MB'")
        try:
            yield
        finally:
            self.connection.execute(f"SET memory_limit = '{_MEMORY}MB'")

    def run_beside(self, statements: list[str], together: int) -> int:
        """Run statements, so many side by side, and tell how far they are; give how many rows they wrote in all."""
        def run(statement: str) -> int:
            with self.connection.cursor() as cursor:
                return cursor.execute(statement).fetchone()[0]

        if len(statements) == 1:
            return self.connection.execute(statements[0]).fetchone()[0]  # which DuckDB tells of itself
        found, pool = 0, ThreadPoolExecutor(together)
        self.connection.execute("SET threads = 1")  # for each of them: more would stand in their way
        try:
            for number, rows in enumerate(pool.map(run, statements), 1):
                found += rows
                self.percent = 100 * number / len(statements)
            return found
        finally:
            pool.shutdown(cancel_futures=True)
            self.connection.execute("RESET threads")

    def forget_all_but(self, relations: set[str]) -> None:
        """Drop the rows that no state needs any more."""
        for relation in self._relations - relations:
            self.connection.execute(f"DROP TABLE {relation}")
        self._relations &= relations

    def _append(self, kept: Kept, batch: Batch) -> None:
        arrays, names, expressions = [], [], []
        if len(kept.table.key) == 1 and (not kept.rows or kept.last is not None):
            kept.last = last_of_rising(batch.columns[kept.position(kept.table.key[0])], kept.last)
        for place, parts in enumerate(batch.columns):
            kept.held[place].update(parts)
            kept.values[place] += count_of(parts)
            arrays += [self.large.put(kind, part) for kind, part in parts.items()]
            names += [f"c{place}_{kind}" for kind in parts]
            expressions.append(stored(place, parts, kept.kinds[place]))
        kept.rows += batch.rows
        # DuckDB finds it by this name; one that was registered it would hold until the commit.
        incoming = pa.table(arrays or [pa.nulls(batch.rows)], names=names or ["nothing"])  # noqa: F841
        self.connection.execute(f"INSERT INTO {kept.relation} SELECT {', '.join(expressions)} FROM incoming")

    def _make_room(self, kept: Kept, batch: Batch) -> None:
        """Make the table, or give its columns the room for kinds of values that they had not held so far."""
        before, kept.kinds = kept.kinds, [_widened(old, parts) for old, parts in zip(kept.kinds, batch.columns)]
        if not kept.rows:
            columns = ", ".join(f"c{place} {_type(kind)}" for place, kind in enumerate(kept.kinds))
            self.connection.execute(f"CREATE TABLE {kept.relation} ({columns})")
        elif before != kept.kinds:
            self.connection.commit()  # DuckDB alters no column of rows that are not committed
            for place, (old, new) in enumerate(zip(before, kept.kinds)):
                if old != new:
                    value = as_union(f"c{place}", old) if new == SEVERAL else "NULL"
                    change = f"ALTER c{place} TYPE {_type(new)} USING {value}"
                    self.connection.execute(f"ALTER TABLE {kept.relation} {change}")
            self.connection.begin()

    def read(self, kept: Kept) -> Iterator[Batch]:
        """Give a kept table's rows back, ordered by its key."""
        self.load(kept)
        places = [kept.position(name) for name in kept.table.key] or range(len(kept.names))
        order = ", ".join(f"c{place} NULLS FIRST" for place in places)
        asked = [(place, kind) for place, held in enumerate(kept.kinds) for kind in KINDS if held in (kind, SEVERAL)]
        columns = ", ".join(f"union_extract(c{place}, '{kind}')" if kept.kinds[place] == SEVERAL else f"c{place}"
                            for place, kind in asked)
        cursor = self.connection.cursor()  # held as long as the rows are read: DuckDB 1 does not
        found = cursor.sql(f"SELECT {columns or 'NULL'} FROM {kept.relation} ORDER BY {order}")
        as_arrow = found.to_arrow_reader if hasattr(found, "to_arrow_reader") else found.fetch_arrow_reader
        for arrived in as_arrow(65_536):
            parts: list[Parts] = [{} for _ in kept.names]
            for (place, kind), array in zip(asked, arrived.columns):
                if array.null_count < len(array):
                    parts[place][kind] = array.cast(ARROW[kind])
            yield from self.large.restore_batch(Batch(arrived.num_rows, parts))

    def whole(self, kept: Kept, *, gone: bool) -> list[tuple[tuple | None, str, Any, Any]]:
        """Give every value of a table as a difference: key, column, before, after; all gone, or all new."""
        places = [kept.position(name) for name in kept.table.key]
        rows = (row for batch in self.read(kept) for row in zip(*map(batch.values, range(len(kept.names)))))
        return [(tuple(row[place] for place in places) or None, name, *((value, None) if gone else (None, value)))
                for row in rows for name, value in zip(kept.names, row) if value is not None]

    def sample_keys(self, kept: Kept, limit: int = 3) -> tuple[str, ...]:
        """Give the keys of a table's first rows, as text; none where it has no key."""
        places = [kept.position(name) for name in kept.table.key]
        if not places:
            return ()
        self.load(kept)
        columns = ", ".join(f"c{place}" for place in places)
        rows = self.connection.execute(f"SELECT {columns} FROM {kept.relation} ORDER BY ALL LIMIT {limit}").fetchall()
        return tuple(", ".join(f"{name}={shortened(value)}" for name, value in zip(kept.table.key, row))
                     for row in self.large.restore_rows(rows))


def _is_little(batches: list[Batch]) -> bool:
    rows = sum(batch.rows for batch in batches)
    return rows <= _FEW and sum(part.nbytes for batch in batches for parts in batch.columns
                                for part in parts.values()) <= _LITTLE


def _widened(old: str, parts: Parts) -> str:
    kinds = {old, *parts} - {""}
    return SEVERAL if len(kinds) > 1 else next(iter(kinds), "")


def _type(kind: str) -> str:
    # An integer column stands in until the first value tells the kind.
    return UNION if kind == SEVERAL else KINDS[kind or "i"]
