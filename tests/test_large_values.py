"""Large values: kept once, compared by their stand-ins, given back whole, within little memory."""
import stat
from collections.abc import Callable, Iterator

import duckdb
import pytest

import appkit
from appkit.batches import Batch, parts_of
from appkit.comparison import Comparison
from appkit.databases import Column, Table
from appkit.differences import differences, filled_with, lost_for_good, sample_changes, sample_of
from appkit.large import LargeValues
from appkit.ledger import ColumnLedger, count_ledger
from appkit.snapshots import Snapshots
from appkit.values import Kept
from apps import IGNORED, make_app, write_revision

LIMITS = [3997, 3998, 3999, 4000, 4001, 4002, 4003, 4064, 4065, 4066, 4096, 100_000]
INVALID = "a\udcff" * 3000  # as the reader gives text whose bytes are no UTF-8


@pytest.fixture
def keep(snapshots) -> Callable[..., Kept]:
    """Keep rows of an id and a value x, whose column has a type."""
    def kept(rows: list[tuple], type_: str = "TEXT", key: str = "id", size: int = 20) -> Kept:
        table = Table("t", (Column("id", "TEXT", True), Column("x", type_, True)), tuple(key.split()), (), ())
        batches = (rows[start:start + size] for start in range(0, len(rows), size))
        found = snapshots.keep(table, (Batch(len(some), list(map(parts_of, zip(*some)))) for some in batches))
        snapshots.load(found)  # a few rows would not be, nor be compared there
        found.few = None
        return found
    return kept


@pytest.fixture
def compare(snapshots) -> Callable[..., Comparison]:
    def compared(before: Kept, after: Kept) -> Comparison:
        return Comparison(snapshots, before, after, {"id": "id", "x": "x"})
    return compared


def rows_of(snapshots: Snapshots, kept: Kept) -> list[tuple]:
    return [row for batch in snapshots.read(kept) for row in zip(*map(batch.values, range(len(kept.names))))]


# ---- exactly as they were

@pytest.mark.parametrize("make", [
    lambda size: "a" * size, lambda size: "é" * (size // 2) + "a" * (size % 2), lambda size: "a" + "𝄞" * (size // 4),
    lambda size: "a\0" * (size // 2), lambda size: b"\xff" * size, lambda size: b"a" * size, lambda size: b"\x80" * size,
], ids=["ascii", "two bytes", "four bytes", "nul", "ff", "bytes", "continuing"])
def test_values_of_any_length_come_back_as_they_were(snapshots, keep, compare, make):
    rows = [(place, make(size)) for place, size in enumerate(LIMITS)] + [(98, None), (99, 1.5)]
    kept = keep(rows, size=5)
    assert rows_of(snapshots, kept) == rows
    comparison = compare(kept, keep([(place, None) for place, _ in rows]))
    assert differences(comparison) == [((place,), "x", value, None) for place, value in rows if value is not None]


def test_large_text_that_is_no_utf8_comes_back_as_its_bytes(snapshots, keep):
    assert rows_of(snapshots, keep([(1, INVALID), (2, "a")])) == [(1, b"a\xff" * 3000), (2, "a")]


@pytest.mark.parametrize("value", ["a" * 9000, b"\xff" * 9000], ids=["text", "bytes"])
def test_a_value_that_looks_like_a_stand_in_is_itself(snapshots, keep, compare, value):
    kept = keep([(1, value)])
    stand_in = snapshots.connection.execute(f"SELECT c1 FROM {kept.relation}").fetchone()[0]
    assert len(stand_in) < 4096
    like = keep([(1, stand_in)])
    assert rows_of(snapshots, like) == [(1, stand_in)]
    assert count_ledger(compare(kept, like)).changed == 1


@pytest.mark.parametrize("old, new, kept", [
    ("a" * 9000, "a" * 8999 + "b", False), ("a" * 9000, "a" * 9001, False), ("a" * 9000, b"a" * 9000, False),
    (b"a" * 9000, b"a" * 9000, True), ("é" * 9000, "é" * 9000, True), (INVALID, b"a\xff" * 3000, False)])
def test_large_values_are_told_apart_to_the_last_byte(keep, compare, old, new, kept):
    comparison = compare(keep([(1, old), (2, "y")]), keep([(1, new), (2, "y")]))
    assert count_ledger(comparison).columns[1] == ColumnLedger("x", "x", kept=1 + kept, changed=1 - kept)


@pytest.mark.parametrize("key", ["id", ""])
@pytest.mark.parametrize("old, new", [("é" * 9000, "é".encode() * 9000), (b"a" * 9000, "a" * 9000),
                                      (INVALID, b"a\xff" * 3000), ("a" * 4000 + INVALID, b"a" * 4000 + b"a\xff" * 3000)])
def test_large_values_survive_a_change_of_type_as_small_ones_do(keep, compare, old, new, key):
    assert count_ledger(compare(keep([(1, old)], "OLD", key), keep([(1, new)], "NEW", key))).whole


def test_large_values_stand_in_their_order(snapshots, keep, compare):
    rows = [("a", 1), ("b" * 3990, 2), ("b" * 5000, 3), ("b" * 3990 + "é" * 3000, 4), ("c" * 5000, 5)]
    assert rows_of(snapshots, keep(rows[::-1])) == rows
    filled = compare(keep([(place, None) for place in range(5)]), keep([(n, text) for n, (text, _) in enumerate(rows)]))
    assert filled_with(filled, "x", "x", 5) == [(text, 1) for text, _ in rows]


def test_what_is_told_of_large_values_is_what_they_are(snapshots, keep, compare):
    value = "it's " + "a" * 9000 + '"'
    comparison = compare(keep([(value, "b" * 9000)]), keep([(value, "c" * 9000)]))
    told = "id=" + repr(value)[:37] + "…'"
    assert sample_changes(comparison, "x", "x") == [(told, "b" * 9000, "c" * 9000)]
    assert sample_of(comparison, "x") == [(told, "b" * 9000)]
    assert snapshots.sample_keys(comparison.before) == (told,)


# ---- in the file

def test_a_large_value_is_kept_once_whatever_keeps_it(tmp_path, snapshots, keep):
    for kind in ("a" * 9000, b"a" * 9000):
        keep([(1, kind), (2, kind)])
    file = tmp_path / "large"
    assert file.stat().st_size == 9000 and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_table_whose_reading_broke_off_leaves_the_large_values_of_others(snapshots, keep):
    def rows() -> Iterator[Batch]:
        yield Batch(1, [parts_of([1]), parts_of(["a" * 9000])])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        snapshots.keep(Table("t", (Column("id", "INTEGER", True), Column("x", "TEXT", True)), ("id",), (), ()), rows())
    assert rows_of(snapshots, keep([(1, "b" * 9000), (2, "a" * 9000)])) == [(1, "b" * 9000), (2, "a" * 9000)]


def test_the_file_is_let_go_when_it_is_forgotten(tmp_path):
    values = LargeValues(tmp_path)
    close = values.close
    del values
    assert not close.alive


# ---- in little memory

@pytest.fixture
def hold(snapshots, monkeypatch) -> Callable[[int], None]:
    """Let DuckDB have so many MB of memory, and never more."""
    def held(megabytes: int) -> None:
        snapshots.connection.execute(f"SET memory_limit = '{megabytes}MB'")
        monkeypatch.setattr("appkit.snapshots._MEMORY", megabytes)
        monkeypatch.setattr("appkit.comparison._WAYS", [(megabytes, 262_144, 1)])
    return held


def test_values_that_exceed_the_memory_together_are_compared_and_told(snapshots, keep, compare, hold):
    hold(64)
    before, after = ([(n, f"{n:03}{letter}" * 125_000) for n in range(150)] for letter in "ba")
    comparison = compare(keep(before), keep(after))
    assert count_ledger(comparison).changed == 150
    assert lost_for_good(comparison, None) == (0, (), {"x": 150})
    assert differences(comparison) == [((n,), "x", b, a) for (n, b), (_, a) in zip(before, after)]
    assert filled_with(comparison, "x", None) == [(value, 1) for _, value in after[:4]]
    assert rows_of(snapshots, comparison.before) == before
    assert snapshots.whole(comparison.before, gone=True)[1::2] == [((n,), "x", value, None) for n, value in before]


def test_long_values_are_told_in_the_order_of_their_keys_within_the_memory(keep, compare, hold):
    hold(150)
    before, after = ([(n, f"{letter}{n}".ljust(3000)) for n in range(15_000)] for letter in "ba")
    comparison = compare(keep(before, size=2000), keep(after, size=2000))
    assert differences(comparison) == [((n,), "x", b, a) for (n, b), (_, a) in zip(before, after)]


@pytest.mark.parametrize("ways", [[(30, 5000, 2), (30, 500, 1)], [(30, 5000, 1), (200, 5000, 1)]],
                         ids=["slices", "memory"])
def test_long_rows_are_compared_in_smaller_slices_or_more_memory(snapshots, keep, compare, monkeypatch, ways):
    rows = [(n, f"{n}".ljust(3900)) for n in range(12_000)]
    after = [(n, "new" if n == 7 else value) for n, value in rows if n % 1000 != 999]
    comparison = compare(keep(rows, "INTEGER", size=4000), keep(after, "INTEGER", size=4000))
    settings = "SELECT current_setting('memory_limit'), current_setting('threads')"
    usual = snapshots.connection.execute(settings).fetchone()
    monkeypatch.setattr("appkit.comparison._WAYS", ways[:1])
    with pytest.raises(duckdb.OutOfMemoryException):
        count_ledger(comparison)
    monkeypatch.setattr("appkit.comparison._WAYS", ways)
    ledger = count_ledger(comparison)
    assert (ledger.kept, ledger.changed, ledger.lost, ledger.added) == (11_987, 1, 12, 0)
    assert sample_changes(comparison, "x", "x") == [("id=7", rows[7][1], "new")]
    assert snapshots.connection.execute(settings).fetchone() == usual


def test_rows_with_large_values_come_in_batches_of_bounded_size(snapshots, keep):
    kept = keep([(n, "a" * 10_000_000 if n % 2 else "b") for n in range(20)])
    found = list(snapshots.read(kept))
    assert [batch.rows for batch in found] == [13, 7]
    assert [value for batch in found for value in batch.values(0)] == list(range(20))


def test_thirty_blobs_of_16_mb_are_kept_and_compared(snapshots):
    def batches(letter: bytes) -> Iterator[Batch]:
        yield from (Batch(1, [parts_of([n]), parts_of([bytes([n]) + letter * 2**24])]) for n in range(30))

    table = Table("t", (Column("id", "INTEGER", True), Column("x", "BLOB", True)), ("id",), (), ())
    comparison = Comparison(snapshots, *(snapshots.keep(table, batches(each)) for each in (b"b", b"a")),
                            {"id": "id", "x": "x"})
    assert count_ledger(comparison).changed == 30
    assert filled_with(comparison, "x", None, 1) == [(b"\0" + b"a" * 2**24, 1)]
    assert sum(batch.rows for batch in snapshots.read(comparison.before)) == 30
    told = differences(comparison)
    assert [(key, len(b), b[:2], a[:2]) for key, _, b, a in told] == [
        ((n,), 2**24 + 1, bytes([n]) + b"b", bytes([n]) + b"a") for n in range(30)]


@pytest.mark.filterwarnings(IGNORED)
def test_a_rehearsal_gives_large_values_as_they_were_and_became(tmp_path):
    app = make_app(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB, note TEXT);"
                             "INSERT INTO t VALUES (1, CAST(zeroblob(16777216) || x'01' AS BLOB), 'a'), (2, x'02', 'b')")
    write_revision(app, "0001", "op.execute('UPDATE t SET data = substr(data, 2) WHERE id = 1')")
    rehearsal = appkit.rehearse(app)
    assert rehearsal.rows("t").iloc[0].tolist() == [1, "data", bytes(2**24) + b"\x01", bytes(2**24 - 1) + b"\x01"]
    assert rehearsal.table("t", at=rehearsal.start)["data"].tolist() == [bytes(2**24) + b"\x01", b"\x02"]
