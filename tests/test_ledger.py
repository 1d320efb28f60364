"""The ledger against the truth: random histories on random rows, counted a second time in plain Python.

The truth is made by the real `flask_migrate.upgrade` on another copy of the file, and read with sqlite3. Which column
continues which is known from how the history was made. Nothing of appkit takes part in it.
"""
import logging
import shutil
import sqlite3
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flask_migrate
import pytest
from apps import IGNORED, make_app, write_revision
from flask import Flask
from histories import History, Revision, quoted
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import appkit

pytestmark = pytest.mark.filterwarnings(IGNORED)

CHAINS, LENGTH, CASES = 90, 16, 1000  # one chain in ten ends early, at a revision that fails

Value = tuple[str, Any] | None  # typeof and value, text as its bytes; None is NULL


class Seen(NamedTuple):
    """A table as sqlite3 reads it."""

    columns: dict[str, str]  # declared type by name
    key: list[str]
    uniques: list[list[str]]
    rows: list[dict[str, Value]]


# ---- what is there

def look(path: Path) -> dict[str, Seen]:
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return {name: look_at(connection, name) for name, in names.fetchall() if name != "alembic_version"}


def look_at(connection: sqlite3.Connection, table: str) -> Seen:
    connection.text_factory = str
    infos = connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
    indexes = connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall()
    uniques = [[row[2] for row in connection.execute(f"PRAGMA index_info({quoted(index[1])})")]
               for index in indexes if index[2] and index[3] == "c"]
    names = [info[1] for info in infos]
    wanted = ", ".join(f"typeof({quoted(name)}), {quoted(name)}" for name in names)
    connection.text_factory = bytes
    rows = connection.execute(f"SELECT {wanted} FROM {quoted(table)}").fetchall()
    return Seen({info[1]: info[2].upper() for info in infos},
                [info[1] for info in sorted(infos, key=lambda info: info[5]) if info[5]], uniques,
                [{name: (kind.decode(), value) if value is not None else None
                  for name, kind, value in zip(names, row[::2], row[1::2])} for row in rows])


# ---- which values are the same

def same(old: Value, new: Value, *, retyped: bool) -> bool:
    """Whether a value, neither being NULL, is the one it was: by kind and value; where the type changed, by value."""
    (kind, value), (kind_now, value_now) = old, new
    numbers = ("integer", "real")
    if kind == kind_now or retyped and (kind in numbers) == (kind_now in numbers):
        return value == value_now
    if not retyped:
        return False
    if kind_now in numbers:  # it must be just what the text said
        return value.decode("latin-1") in forms(value_now)
    return gives_back(value_now, value)


def forms(number: int | float) -> set[str]:
    return {repr(number), repr(number).removesuffix(".0")}


def gives_back(text: bytes, number: int | float) -> bool:
    if isinstance(number, int):
        return text.decode("latin-1") in (str(number), f"{number}.0")
    try:
        return float(text.decode("ascii")) == number
    except ValueError:
        return False


# ---- the truth

class Truth:
    """What became of one table, by the definitions in the docstrings of Rehearsal, TableLedger and ColumnLedger."""

    def __init__(self, before: Seen, after: Seen, lineage: dict[str, str], added: set[str]) -> None:
        self.before, self.after = before, after
        self.pairs = {now: was for now, was in lineage.items() if was in before.columns and now in after.columns}
        self.carried: list[tuple[str, str]] = []
        self.key = self.find_key()
        self.joined = list(self.join()) if self.key else None
        self.find_carried(added)

    def whole(self) -> bool:
        """Whether there were rows, and all of them are there with all that they held."""
        (before, _, kept, *_), columns = self.count()
        return 0 < before == kept and not any(lost for _, _, _, _, lost, _ in columns)

    def retyped(self, was: str, now: str) -> bool:
        return self.before.columns[was] != self.after.columns[now]

    def same(self, was: str, now: str, old: dict, new: dict) -> bool:
        if old[was] is None or new[now] is None:
            return old[was] is new[now]
        return same(old[was], new[now], retyped=self.retyped(was, now))

    def find_key(self) -> list[tuple[str, str]]:
        """The first of the keys, before and after, that tells the rows apart on both sides."""
        now = {was: name for name, was in self.pairs.items()}
        candidates = [[(was, now.get(was)) for was in key] for key in (self.before.key, *self.before.uniques)]
        candidates += [[(self.pairs.get(name), name) for name in key] for key in (self.after.key, *self.after.uniques)]
        for key in candidates:
            if key and all(was and name for was, name in key) and self.tells_apart(key):
                return key
        return self.renamed_key()

    def tells_apart(self, key: list[tuple[str, str]]) -> bool:
        for side, seen in enumerate((self.before, self.after)):
            found = [tuple(row[pair[side]] for pair in key) for row in seen.rows]
            if any(None in values for values in found) or len(set(found)) < len(found):
                return False
        return True

    def renamed_key(self) -> list[tuple[str, str]]:
        """A key of one column that went, and one that came with the same values."""
        if len(self.before.key) != 1 or len(self.after.key) != 1:
            return []
        was, now = self.before.key[0], self.after.key[0]
        if was in self.pairs.values() or now in self.pairs or not self.tells_apart([(was, now)]):
            return []
        shared = sum(self.same(was, now, old, new) for old in self.before.rows for new in self.after.rows)
        if not shared or shared < min(len(self.before.rows), len(self.after.rows)):
            return []
        self.pairs[now] = was
        return [(was, now)]

    def join(self) -> Iterator[tuple[dict | None, dict | None]]:
        rest = list(self.after.rows)
        for old in self.before.rows:
            new = next((new for new in rest if all(self.same(was, now, old, new) for was, now in self.key)), None)
            if new is not None:
                rest = [row for row in rest if row is not new]
            yield old, new
        yield from ((None, new) for new in rest)

    def find_carried(self, added: set[str]) -> None:
        """The columns that are gone, every value of which stands in a column that this history added."""
        fresh = [name for name in self.after.columns if name not in self.pairs]
        older = [name for name in self.after.columns if name in added and name not in fresh]
        for was in [name for name in self.before.columns if name not in self.pairs.values()]:
            for now in fresh + older:
                if self.held(self.before, was) and self.carries(was, now):
                    if now in fresh:
                        fresh.remove(now)
                        self.pairs[now] = was
                    else:
                        self.carried.append((now, was))
                    break

    def carries(self, was: str, now: str) -> bool:
        """Whether a column holds, row by row, every value of another; without a key, whether all rows fit together."""
        if not self.key:
            return self.held(self.after, now) > 0 and self.match({**self.pairs, now: was})[0] == len(self.before.rows)
        held = [(old, new) for old, new in self.joined if old and new and old[was] is not None]
        return bool(held) and all(new[now] is not None and self.same(was, now, old, new) for old, new in held)

    def match(self, pairs: dict[str, str]) -> tuple[int, list[dict]]:
        """Pair off rows that agree in some columns: how many of those before found one, and those after left over."""
        rest, found = list(self.after.rows), 0
        for old in self.before.rows:
            new = next((new for new in rest if all(self.same(was, now, old, new) for now, was in pairs.items())), None)
            rest = [row for row in rest if row is not new]
            found += new is not None
        return found, rest

    def count(self) -> tuple[tuple, Counter]:
        """Give the table's numbers, and those of its columns: (column, was, kept, changed, lost, filled)."""
        return self.count_keyed() if self.key else self.count_loose()

    def count_keyed(self) -> tuple[tuple, Counter]:
        rows: Counter[str] = Counter()
        columns = {pair: Counter() for pair in self.pairs.items()}
        for old, new in self.joined:
            fates = {(now, was): self.fate(old and old[was], new and new[now], self.retyped(was, now))
                     for now, was in self.pairs.items()}
            for pair, fate in fates.items():
                columns[pair][fate] += 1
            differs = any(fate in ("changed", "lost", "filled") for fate in fates.values())
            rows["added" if not old else "lost" if not new else "changed" if differs else "kept"] += 1
        return self.told(rows, columns)

    def fate(self, old: Value, new: Value, retyped: bool) -> str:
        if old is None or new is None:
            return "lost" if old is not None else "filled" if new is not None else "null"
        return "kept" if same(old, new, retyped=retyped) else "changed"

    def count_loose(self) -> tuple[tuple, Counter]:
        """Rows that nothing tells apart: as many of each as there were."""
        rows: Counter[str] = Counter()
        columns = {pair: Counter() for pair in self.pairs.items()}
        rest = list(self.after.rows) if self.pairs else []
        alone = [] if self.pairs else self.after.rows
        for old in self.before.rows:
            new = next((new for new in rest if all(self.same(was, now, old, new) for now, was in self.pairs.items())),
                       None)
            rest = [row for row in rest if row is not new]
            fate = "kept" if new is not None else "lost"
            rows[fate] += 1
            for (now, was), counts in columns.items():
                counts[fate] += old[was] is not None
        rows["added"] += len(rest) + len(alone)
        for (now, _), counts in columns.items():
            counts["filled"] += sum(row[now] is not None for row in rest)
        return self.told(rows, columns)

    def told(self, rows: Counter, columns: dict[tuple, Counter]) -> tuple[tuple, Counter]:
        told = [(*pair, counts["kept"], counts["changed"], counts["lost"], counts["filled"])
                for pair, counts in columns.items()]
        told += [(now, was, self.held(self.before, was), 0, 0, 0) for now, was in self.carried]
        told += [(now, "", 0, 0, 0, self.held(self.after, now)) for now in self.after.columns if now not in self.pairs]
        followed = {*self.pairs.values(), *(was for _, was in self.carried)}
        told += [(was, was, 0, 0, self.held(self.before, was), 0) for was in self.before.columns if was not in followed]
        fates = (rows[fate] for fate in ("kept", "changed", "lost", "added"))
        return (len(self.before.rows), len(self.after.rows), *fates), Counter(told)

    def cells(self) -> Counter:
        """Give the values that differ, where rows are told apart: (column, before, after) as Python writes them."""
        found: Counter[tuple] = Counter()
        followed = {*self.pairs.values(), *(was for _, was in self.carried)}
        for old, new in self.joined:
            told = [(now, was, now) for now, was in self.pairs.items()]
            told += [(now, None, now) for now in self.after.columns if now not in self.pairs]
            told += [(was, was, None) for was in self.before.columns if was not in followed]
            for name, was, now in told:
                before, after = old[was] if old and was else None, new[now] if new and now else None
                if before != after and not (before and after and same(before, after, retyped=self.retyped(was, now))):
                    found[name, plain(before), plain(after)] += 1
        return found

    def held(self, seen: Seen, column: str) -> int:
        return sum(row[column] is not None for row in seen.rows)


def plain(value: Value) -> str:
    """Write a value as `Rehearsal.rows` gives it: text that is no UTF-8 as its bytes."""
    if value is None or value[0] != "text":
        return repr(value and value[1])
    try:
        return repr(value[1].decode())
    except UnicodeDecodeError:
        return repr(value[1])


EMPTY = Seen({}, [], [], [])


def expect(before: dict[str, Seen], after: dict[str, Seen], revision: Revision,
           added: dict[str, set[str]]) -> dict[str, Truth]:
    """Give the truth of a revision, by table."""
    expected, gone = {}, set(before)
    for name, seen in after.items():
        was = revision.origin.get(name)
        truth = Truth(before.get(was, EMPTY), seen, revision.columns[name], added.get(was, set()))
        if name in revision.by_hand and not truth.whole():  # not the same table then, but another
            truth = Truth(EMPTY, seen, {}, set())
        elif was:
            gone.remove(was)
        expected[name] = truth
    return expected | {name: Truth(before[name], EMPTY, {}, set()) for name in gone}


def follow_added(added: dict[str, set[str]], after: dict[str, Seen], revision: Revision) -> dict[str, set[str]]:
    """Follow the columns that the history added through its later renames."""
    found = {}
    for name, was in revision.origin.items():
        origins = revision.columns[name]
        found[name] = {column for column in after[name].columns
                       if column not in origins or origins[column] in added.get(was, set())}
    return found


# ---- the two runs

@contextmanager
def quiet() -> Iterator[None]:
    """Let no log line and no warning of Alembic's be seen: a warning made an error would end the real upgrade."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def build(folder: Path, history: History) -> Flask:
    with closing(sqlite3.connect(folder / "app.db")) as connection:
        for statement in history.setup:
            connection.execute(statement)
        connection.commit()
    app = make_app(folder)
    for number, revision in enumerate(history.revisions):
        write_revision(app, f"r{number:02}", "\n".join(revision.lines), follows=f"r{number - 1:02}" if number else None)
    return app


def upgrade(app: Flask, revision: str) -> str:
    """Run a revision for real; give why it failed, '' when it did not."""
    with app.app_context(), quiet():
        try:
            flask_migrate.upgrade(revision=revision)
        except (Exception, SystemExit) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            app.extensions["sqlalchemy"].engine.dispose()
    return ""


def check(history: History, folder: Path) -> int:
    """Rehearse a history and run it; give the number of revisions on which the two were compared."""
    app = build(folder, history)
    rehearsal = appkit.rehearse(app, downgrade=False)
    shutil.copyfile(folder / "app.db", folder / "truth.db")
    real = make_app(folder, url=f"sqlite:///{folder / 'truth.db'}")
    before, added = look(folder / "truth.db"), {}
    for number, revision in enumerate(history.revisions):
        failed = upgrade(real, f"r{number:02}")
        fails = rehearsal.findings.query(f"finding == 'fails' and revision == 'r{number:02}'")
        assert bool(failed) == (len(fails) == 1), f"{revision}: {failed or 'runs'}, but rehearsed: {fails.to_dict()}"
        if failed:
            return number
        after = look(folder / "truth.db")
        agree(rehearsal, f"r{number:02}", expect(before, after, revision, added), f"{revision}; {before}; {after}")
        before, added = after, follow_added(added, after, revision)
    return len(history.revisions)


def agree(rehearsal: appkit.Rehearsal, revision: str, truths: dict[str, Truth], case: str) -> None:
    expected, found = {table: truth.count() for table, truth in truths.items()}, told(rehearsal, revision)
    differ = {table: (found.get(table), expected.get(table)) for table in found | expected
              if found.get(table) != expected.get(table)}
    assert not differ, f"{revision}: rehearsed and true: {differ}; of {case}"
    for table, truth in truths.items():
        if truth.key and (cells := truth.cells()):
            rows = rehearsal.rows(table, revision)
            seen = Counter((row.column, repr(row.before), repr(row.after)) for row in rows.itertuples())
            assert seen == cells, f"{revision} {table}: rehearsed {seen - cells}, true {cells - seen}; of {case}"


def told(rehearsal: appkit.Rehearsal, revision: str) -> dict[str, tuple[tuple, Counter]]:
    """Give what the ledger says of a revision, by table."""
    ledger = rehearsal.ledger[rehearsal.ledger["revision"] == revision].drop(columns="revision")
    columns = rehearsal.columns[rehearsal.columns["revision"] == revision].drop(columns="revision")
    values = [tuple(row) for row in columns.itertuples(index=False)]
    return {table: (tuple(map(int, numbers)), Counter(row[1:] for row in values if row[0] == table))
            for table, *numbers in ledger.itertuples(index=False)}


def test_the_ledger_says_what_happened_in_a_thousand_cases() -> None:
    compared = []

    # Not shrunk: a case takes seconds, and its message has it all. The blob that is printed brings it back.
    @settings(max_examples=CHAINS, deadline=None, print_blob=True, derandomize=True,  # take this away to look for new ones
              database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def agrees(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            compared.append(check(History(data.draw, LENGTH), Path(folder)))

    agrees()
    assert sum(compared) >= CASES
