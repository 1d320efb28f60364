"""The history, where the database stands in it, and what is wrong with either."""
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, Integer

from appkit import AppkitError, MigrationError, diagnose, read_history
from appkit.databases import engine_of
from appkit.history import current_heads, script_heads


class Bench:
    """An app in a folder, whose history and database a test writes by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.app, self.db = folder, Flask("bench"), SQLAlchemy()
        self.path = folder / "bench.db"
        self.app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{self.path}"
        self.db.init_app(self.app)
        self.versions = folder / "migrations" / "versions"
        self.versions.mkdir(parents=True)
        (folder / "migrations" / "alembic.ini").write_text("[alembic]\n")
        (folder / "migrations" / "env.py").write_text("")
        Migrate(self.app, self.db, directory=folder / "migrations")

    def revision(self, name: str, down: str | tuple[str, ...] | None = None, *, file: str = "", doc: str = "",
                 **more: object) -> Path:
        path = self.versions / f"{file or name}.py"
        lines = [f'"""{doc or "about " + name}"""', f"revision = {name!r}", f"down_revision = {down!r}"]
        path.write_text("\n".join([*lines, *(f"{key} = {value!r}" for key, value in more.items())]) + "\n")
        return path

    def execute(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def stamp(self, *revisions: str, table: str = "alembic_version") -> None:
        self.execute(f"CREATE TABLE {table} (version_num TEXT)",
                     *(f"INSERT INTO {table} VALUES ('{name}')" for name in revisions))

    def model(self, *names: str) -> None:
        for name in names:
            self.db.Table(name, self.db.metadata, Column("id", Integer, primary_key=True))
            self.execute(f'CREATE TABLE "{name}" (id INTEGER PRIMARY KEY)')

    def problems(self) -> list[tuple[str, str]]:
        before = self.path.read_bytes() if self.path.exists() else None
        found = diagnose(self.app)
        assert (self.path.read_bytes() if self.path.exists() else None) == before
        assert found.columns.tolist() == ["problem", "where", "evidence", "advice"]
        assert (found.dtypes == "string").all() and found.notna().all(axis=None)
        return list(zip(found["problem"], found["where"]))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    engine_of(bench.app).dispose()


@pytest.fixture
def healthy(bench: Bench) -> Bench:
    bench.revision("0001")
    bench.revision("0002", "0001")
    bench.model("user")
    bench.stamp("0002")
    return bench


# read_history


def test_history_is_a_row_per_revision_oldest_first(bench):
    bench.revision("b", "c", doc="the\n   second\n\nmore")
    bench.revision("c")
    bench.revision("a", "b")
    bench.stamp("b")
    expected = pd.DataFrame({
        "revision": pd.array(["c", "b", "a"], "string"), "follows": pd.array(["", "c", "b"], "string"),
        "message": pd.array(["about c", "the second", "about a"], "string"),
        "applied": pd.array([True, True, False], "boolean"), "head": pd.array([False, False, True], "boolean")})
    pd.testing.assert_frame_equal(read_history(bench.app), expected)
    with bench.app.app_context():
        pd.testing.assert_frame_equal(read_history(), expected)


def test_branches_and_merges_are_ordered_after_what_they_follow(bench):
    bench.revision("z")
    for name in ("m", "k", "l"):
        bench.revision(name, "z")
    bench.revision("a", ("m", "k"))
    bench.stamp("a")
    history = read_history(bench.app)
    assert history["revision"].tolist() == ["z", "k", "l", "m", "a"]
    assert history["follows"].tolist()[-1] == "k, m"
    assert history["applied"].tolist() == [True, True, False, True, True]
    assert history["head"].tolist() == [False, False, True, False, True]
    assert (current_heads(bench.app), script_heads(bench.app)) == ("a", "a, l")


def test_what_a_revision_depends_on_comes_before_it_and_is_applied_with_it(bench):
    bench.revision("x1", branch_labels=("extra",))
    bench.revision("a1", depends_on="extra")
    bench.revision("a2", "a1")
    bench.stamp("a1")
    history = read_history(bench.app).set_index("revision")
    assert history.index.tolist() == ["x1", "a1", "a2"]
    assert history["applied"].tolist() == [True, True, False] and history["follows"].tolist() == ["", "", "a1"]


def test_a_history_without_revisions_is_empty(bench):
    assert read_history(bench.app).empty
    assert (current_heads(bench.app), script_heads(bench.app)) == ("", "")


def test_the_version_table_may_have_another_name(bench):
    bench.revision("0001")
    Migrate(bench.app, bench.db, directory=bench.folder / "migrations", version_table="my versions")
    bench.stamp("wrong")
    bench.stamp("0001", table='"my versions"')
    assert current_heads(bench.app) == "0001"
    Migrate(bench.app, bench.db, directory=bench.folder / "migrations", version_table_schema="main")
    assert current_heads(bench.app) == "wrong"


def test_looking_makes_no_version_table(bench):
    bench.revision("0001")
    bench.model("user")
    assert read_history(bench.app)["applied"].tolist() == [False] and current_heads(bench.app) == ""
    with closing(sqlite3.connect(bench.path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("user",)]


def test_looking_logs_nothing(healthy, caplog):
    caplog.set_level("DEBUG", "alembic")
    read_history(healthy.app), diagnose(healthy.app)
    assert caplog.records == []


def test_a_broken_history_is_an_error_with_its_reason(bench):
    (bench.versions / "bad.py").write_text("import nowhere_to_be_found\n")
    for read in (read_history, script_heads):
        with pytest.raises(MigrationError, match="nowhere_to_be_found.*diagnose"):
            read(bench.app)


def test_an_app_without_migrate_is_told():
    app = Flask("bare")
    with pytest.raises(AppkitError, match="no Migrate"):
        read_history(app)
    with pytest.raises(AppkitError, match="no Flask-SQLAlchemy"):
        diagnose(app)


# diagnose


def test_nothing_is_wrong_with_a_healthy_app(healthy):
    assert healthy.problems() == []


def test_nothing_is_wrong_before_the_first_upgrade(bench):
    bench.revision("0001")
    bench.db.Table("user", bench.db.metadata, Column("id", Integer, primary_key=True))
    assert bench.problems() == []
    assert not bench.path.exists()


def test_nothing_is_wrong_back_at_the_base(bench):
    bench.revision("0001")
    bench.db.Table("user", bench.db.metadata, Column("id", Integer, primary_key=True))
    bench.stamp()
    assert bench.problems() == []


def test_nothing_is_wrong_with_pending_revisions(healthy):
    healthy.revision("0003", "0002")
    healthy.execute("CREATE TABLE going (id)")  # 0003 may be about to drop it
    assert healthy.problems() == []


def test_a_folder_that_is_not_there_is_found(healthy):
    Migrate(healthy.app, healthy.db, directory=healthy.folder / "elsewhere")
    assert healthy.problems() == [("no-migrations", "elsewhere")]
    assert "alembic.ini, env.py, versions" in diagnose(healthy.app)["evidence"][0]


def test_a_missing_migrate_is_found(healthy):
    del healthy.app.extensions["migrate"]
    assert healthy.problems() == [("no-migrations", "Migrate")]


def test_a_relative_folder_is_found(healthy, monkeypatch):
    Migrate(healthy.app, healthy.db)
    monkeypatch.chdir(healthy.folder)
    assert healthy.problems() == []  # as most apps have it
    monkeypatch.chdir(healthy.folder / "migrations")  # as a notebook would
    assert ("relative-directory", "migrations") in healthy.problems()


def test_a_deleted_revision_file_is_found(healthy):
    (healthy.versions / "0001.py").unlink()
    assert healthy.problems() == [("missing-revision", "migrations")]
    assert "0001 referenced from" in diagnose(healthy.app)["evidence"][0]


def test_two_files_of_one_revision_are_found(healthy):
    healthy.revision("0002", "0001", file="0002_again")
    assert healthy.problems() == [("duplicate-revision", "migrations")]


@pytest.mark.parametrize("content, reason", [
    ("def broken(:\n", "SyntaxError"), ("raise SystemError('no')\n", "SystemError: no"), ("x = 1\n", "")])
def test_a_file_that_cannot_be_read_is_found(healthy, content, reason):
    (healthy.versions / "0003.py").write_text(content)
    assert healthy.problems() == [("unreadable-history", "migrations")]
    assert reason in diagnose(healthy.app)["evidence"][0]
    assert str(healthy.folder) not in diagnose(healthy.app).to_string()


def test_a_circle_of_revisions_is_found(healthy):
    healthy.revision("0001", "0002")
    assert healthy.problems() == [("unreadable-history", "migrations")]


def test_several_heads_are_found(healthy):
    healthy.revision("0002b", "0001")
    assert healthy.problems() == [("several-heads", "migrations")]
    assert diagnose(healthy.app)["evidence"][0] == "0002, 0002b"


def test_an_unknown_revision_is_found(healthy):
    healthy.execute("UPDATE alembic_version SET version_num = 'gone'")
    assert healthy.problems() == [("unknown-revision", "alembic_version")]


def test_a_revision_beside_its_own_child_is_found(healthy):
    healthy.execute("INSERT INTO alembic_version VALUES ('0001')")
    assert healthy.problems() == [("overlapping-revisions", "alembic_version")]


def test_two_branches_before_their_merge_are_no_problem(healthy):
    healthy.revision("0002b", "0001")
    healthy.revision("0003", ("0002", "0002b"))
    healthy.execute("INSERT INTO alembic_version VALUES ('0002b')")
    assert healthy.problems() == []


@pytest.mark.parametrize("statement, evidence", [("DROP TABLE alembic_version", "is not there"),
                                                 ("DELETE FROM alembic_version", "has no row")])
def test_tables_without_a_stamp_are_found(healthy, statement, evidence):
    healthy.execute(statement)
    assert healthy.problems() == [("not-stamped", "alembic_version")]
    assert evidence in diagnose(healthy.app)["evidence"][0] and "user" in diagnose(healthy.app)["evidence"][0]


def test_models_that_were_never_imported_are_found(healthy):
    healthy.db.metadata.clear()
    assert healthy.problems() == [("no-models", "models")]


def test_a_table_unknown_to_the_models_is_found(healthy):
    healthy.execute("CREATE TABLE legacy (id)")
    assert healthy.problems() == [("unknown-table", "legacy")]


@pytest.mark.parametrize("option", [
    {"include_object": lambda thing, name, kind, reflected, other: name != "legacy"},
    {"include_name": lambda name, kind, parents: name != "legacy"}])
def test_a_table_that_the_app_leaves_out_is_no_problem(healthy, option):
    healthy.execute("CREATE TABLE legacy (id)", "CREATE TABLE other (id)")
    Migrate(healthy.app, healthy.db, directory=healthy.folder / "migrations", **option)
    assert healthy.problems() == [("unknown-table", "other")]


def test_a_leftover_of_a_batch_is_found(healthy):
    healthy.execute("CREATE TABLE _alembic_tmp_user (id)")
    assert healthy.problems() == [("leftover-table", "_alembic_tmp_user")]


def test_rows_that_point_at_nothing_are_found(healthy):
    healthy.model("post")
    healthy.execute("ALTER TABLE post ADD COLUMN user_id REFERENCES user (id)",
                    "INSERT INTO post VALUES (1, 8), (2, 9)")
    assert healthy.problems() == [("broken-foreign-key", "post")]
    assert diagnose(healthy.app)["evidence"][0] == "2 rows point at no row of user"


def test_a_foreign_key_to_what_is_no_key_is_found(healthy):
    healthy.model("post")
    healthy.execute("ALTER TABLE user ADD COLUMN name", "ALTER TABLE post ADD COLUMN n REFERENCES user (name)",
                    "INSERT INTO post VALUES (1, 'x')")
    assert healthy.problems() == [("broken-foreign-key", "post")]
    assert "mismatch" in diagnose(healthy.app)["evidence"][0]


def test_compiled_files_of_another_text_are_found(healthy, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = healthy.revision("0002", "0001", doc="one text", upgrade_note="AAA")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert healthy.problems() == []  # which compiles it
    healthy.revision("0002", "0001", doc="one text", upgrade_note="BBB")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert healthy.problems() == [("stale-bytecode", "0002.py")]
    os.utime(path, (1_700_000_001, 1_700_000_001))
    assert healthy.problems() == []


def test_a_database_out_of_reach_is_found(healthy):
    healthy.path.write_bytes(b"no database at all, but long enough to be looked at" * 9)
    assert healthy.problems() == [("unreachable", "database")]
    assert "not a database" in diagnose(healthy.app)["evidence"][0]


def test_several_problems_come_in_the_order_of_their_cure(healthy):
    healthy.revision("0002b", "0001")
    healthy.execute("DELETE FROM alembic_version", "CREATE TABLE _alembic_tmp_user (id)")
    assert [problem for problem, _ in healthy.problems()] == ["several-heads", "not-stamped", "leftover-table"]
