"""Every table's rows as they stood at a revision, kept in a DuckDB file."""
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from appkit.databases import Table
from appkit.values import KINDS, SEVERAL, UNION, Kept, as_union, by_kind, shortened, stored


class Snapshots:
    """The rows of every table at every revision, in a DuckDB file of a private folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "snapshots.duckdb"
        self.connection = duckdb.connect(str(path))
        path.chmod(0o600)
        self.connection.execute("SET memory_limit = '1GB'; SET preserve_insertion_order = false")
        self._number = 0
        self._relations: set[str] = set()

    def close(self) -> None:
        """Let the file go."""
        self.connection.close()

    def keep(self, table: Table, batches: Iterable[list[tuple]]) -> Kept:
        """Keep a table's rows, given in batches of columns of values."""
        self._number += 1
        self._relations.add(f"s{self._number}")
        width = len(table.columns)
        kept = Kept(table, f"s{self._number}", values=[0] * width, kinds=[""] * width)
        # An integer column stands in until the first value tells the kind.
        columns = ", ".join(f"c{place} BIGINT" for place in range(width))
        self.connection.execute(f"CREATE TABLE {kept.relation} ({columns})")
        for batch in batches:
            self._append(kept, batch)
        return kept

    def forget_all_but(self, relations: set[str]) -> None:
        """Drop the rows that no state needs any more."""
        for relation in self._relations - relations:
            self.connection.execute(f"DROP TABLE {relation}")
        self._relations &= relations

    def _append(self, kept: Kept, batch: list[tuple]) -> None:
        arrays, names, expressions = [], [], []
        for place, values in enumerate(batch):
            parts = by_kind(values)
            self._widen(kept, place, parts)
            kept.values[place] += sum(len(part) - part.null_count for part in parts.values())
            for kind, part in parts.items():
                arrays.append(part)
                names.append(f"c{place}_{kind}")
            expressions.append(stored(place, parts, kept.kinds[place]))
        kept.rows += len(batch[0])
        incoming = pa.table(arrays or [pa.nulls(len(batch[0]))], names=names or ["nothing"])
        self.connection.register("incoming", incoming)
        self.connection.execute(f"INSERT INTO {kept.relation} SELECT {', '.join(expressions)} FROM incoming")
        self.connection.unregister("incoming")

    def _widen(self, kept: Kept, place: int, parts: dict[str, pa.Array]) -> None:
        """Give a column the room for kinds of values that it had not held so far."""
        old = kept.kinds[place]
        if old == SEVERAL or not parts or set(parts) == {old}:
            return
        new = next(iter(parts)) if not old and len(parts) == 1 else SEVERAL
        if new == SEVERAL:
            change = f"{UNION} USING {as_union(f'c{place}', old)}"
        else:
            change = f"{KINDS[new]} USING NULL"
        self.connection.execute(f"ALTER TABLE {kept.relation} ALTER c{place} TYPE {change}")
        kept.kinds[place] = new

    def read(self, kept: Kept) -> Iterator[list[tuple]]:
        """Give a kept table's rows back, in batches of columns of values, ordered by its key."""
        places = [kept.position(name) for name in kept.table.key] or range(len(kept.names))
        columns = ", ".join(f"c{place}" for place in range(len(kept.names)))
        order = ", ".join(f"c{place} NULLS FIRST" for place in places)
        cursor = self.connection.cursor()
        cursor.execute(f"SELECT {columns} FROM {kept.relation} ORDER BY {order}")
        while rows := cursor.fetchmany(20_000):
            yield list(zip(*rows))

    def whole(self, kept: Kept, *, gone: bool) -> list[tuple[tuple | None, str, Any, Any]]:
        """Give every value of a table as a difference: key, column, before, after; all gone, or all new."""
        places = [kept.position(name) for name in kept.table.key]
        rows = (row for batch in self.read(kept) for row in zip(*batch))
        return [(tuple(row[place] for place in places) or None, name, *((value, None) if gone else (None, value)))
                for row in rows for name, value in zip(kept.names, row) if value is not None]

    def sample_keys(self, kept: Kept, limit: int = 3) -> tuple[str, ...]:
        """Give the keys of a table's first rows, as text; none where it has no key."""
        places = [kept.position(name) for name in kept.table.key]
        if not places:
            return ()
        columns = ", ".join(f"c{place}" for place in places)
        rows = self.connection.execute(f"SELECT {columns} FROM {kept.relation} ORDER BY ALL LIMIT {limit}").fetchall()
        return tuple(", ".join(f"{name}={shortened(value)}" for name, value in zip(kept.table.key, row))
                     for row in rows)
