"""What is known to lose data on SQLite, each as a revision that does it and a harmless twin that does not.

The cases are those of what goes wrong in practice: renames written as drop and add, forgotten imports, batches that recreate
a parent, constraints over rows that break them, casts that succeed, what a batch forgets, downgrades that do not restore.
"""
import re
import threading

import pytest
import sqlalchemy as sa
from apps import make_app, read_sql, write_revision

import appkit

USERS = """
CREATE TABLE user (id INTEGER PRIMARY KEY, name VARCHAR(20), age INTEGER, zip VARCHAR(10), score FLOAT, at DATETIME,
                   day VARCHAR(10), price NUMERIC(10, 4));
INSERT INTO user VALUES (1, 'ann', 10, '007', 1.5, '2026-01-02 03:04:05.000000', '2026-05-06', 1.2345),
                        (2, NULL, 20, '12', 2.0, NULL, NULL, 2),
                        (3, 'ann', 30, '13', 3.0, '2026-02-03 00:00:00.000000', '2026-05-07', 3.5);
"""
BOOKS = """
CREATE TABLE user (id INTEGER PRIMARY KEY, name VARCHAR(20));
CREATE TABLE book (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES user (id) ON DELETE CASCADE);
CREATE TABLE note (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES user (id) ON DELETE SET NULL);
INSERT INTO user VALUES (1, 'ann'), (2, 'bob');
INSERT INTO book VALUES (1, 1), (2, 1), (3, 2), (4, 2), (5, 2);
INSERT INTO note VALUES (1, 1), (2, NULL);
"""


def batch(table: str, *operations: str) -> str:
    return "\n".join([f"with op.batch_alter_table({table!r}) as batch:", *(f"    batch.{each}" for each in operations)])


def found(rehearsal: appkit.Rehearsal, *, but: tuple[str, ...] = ("drift",)) -> list[tuple[str, str, str]]:
    findings = rehearsal.findings
    kept = findings[~findings["finding"].isin(but)]
    return list(kept[["severity", "finding", "where"]].itertuples(index=False, name=None))


def evidence(rehearsal: appkit.Rehearsal, finding: str) -> str:
    return " | ".join(rehearsal.findings.loc[rehearsal.findings["finding"] == finding, "evidence"])


@pytest.fixture
def rehearsed(tmp_path):
    """Rehearse one revision over some SQL."""
    def rehearse(setup: str, upgrade: str, downgrade: str = "pass", *, accepted: dict | None = None,
                 down: bool = True, **options: object) -> appkit.Rehearsal:
        app = make_app(tmp_path, setup, **options)
        write_revision(app, "1", upgrade, downgrade, head=f"accepted = {accepted!r}" if accepted else "")
        return appkit.rehearse(app, downgrade=down)
    return rehearse


# ---- renames

ADD_LOGIN = "add_column(sa.Column('login', sa.String(20), server_default='x'))"
RENAME = "alter_column('name', new_column_name='login')"
RENAME_BACK = batch("user", "alter_column('login', new_column_name='name')")


def test_a_rename_written_as_drop_and_add_loses_the_values_and_is_told_as_a_rename(rehearsed):
    seen = rehearsed(USERS, batch("user", ADD_LOGIN, "drop_column('name')"),
                     batch("user", "add_column(sa.Column('name', sa.String(20)))", "drop_column('login')"))
    assert ("loss", "values-lost", "user.name") in found(seen)
    assert "2 of 3 rows" in evidence(seen, "values-lost") and "id=1: 'ann'" in evidence(seen, "values-lost")
    advice = seen.findings.loc[seen.findings["finding"] == "values-lost", "advice"].item()
    assert "alter_column('name', new_column_name='login')" in advice
    assert not seen.safe


@pytest.mark.parametrize("upgrade, downgrade", [
    (batch("user", RENAME), RENAME_BACK),
    ("op.execute('ALTER TABLE user RENAME COLUMN name TO login')",
     "op.execute('ALTER TABLE user RENAME COLUMN login TO name')"),
    ("op.add_column('user', sa.Column('login', sa.String(20)))\nop.execute('UPDATE user SET login = name')\n"
     + batch("user", "drop_column('name')"),
     "op.add_column('user', sa.Column('name', sa.String(20)))\nop.execute('UPDATE user SET name = login')\n"
     + batch("user", "drop_column('login')")),
], ids=["batch", "sql", "add-copy-drop"])
def test_a_rename_that_keeps_its_values_is_harmless(rehearsed, upgrade, downgrade):
    seen = rehearsed(USERS, upgrade, downgrade)
    assert seen.safe and not [each for each in found(seen) if each[1] != "not-reversible"]
    login = seen.columns[seen.columns["column"] == "login"].iloc[0]
    assert (login["was"], login["kept"], login["lost"], login["filled"]) == ("name", 2, 0, 0)


def test_a_swap_of_two_names_carries_both_columns(rehearsed):
    swap = "\n".join(f"op.execute('ALTER TABLE user RENAME COLUMN {a} TO {b}')"
                     for a, b in (("name", "t"), ("zip", "name"), ("t", "zip")))
    seen = rehearsed(USERS, swap, swap)
    assert seen.safe
    assert dict(zip(seen.columns["column"], seen.columns["was"]))["zip"] == "name"


def test_add_copy_and_drop_in_two_revisions_keeps_the_values(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", "op.add_column('user', sa.Column('login', sa.String(20)))\n"
                   "op.execute('UPDATE user SET login = name')", batch("user", "drop_column('login')"))
    write_revision(app, "2", batch("user", "drop_column('name')"), follows="1")
    seen = appkit.rehearse(app, downgrade=False)
    assert "values-lost" not in set(seen.findings["finding"])


def test_two_columns_that_agree_by_chance_are_no_copy(rehearsed):
    seen = rehearsed("CREATE TABLE user (id INTEGER PRIMARY KEY, is_admin BOOLEAN, is_staff BOOLEAN);"
                     "INSERT INTO user VALUES (1, 0, 0), (2, 1, 1);", batch("user", "drop_column('is_admin')"), down=False)
    assert ("loss", "values-lost", "user.is_admin") in found(seen)


def test_a_renamed_table_keeps_its_rows_and_drop_and_create_does_not(rehearsed):
    seen = rehearsed(USERS, "op.rename_table('user', 'person')", "op.rename_table('person', 'user')")
    assert found(seen) == []
    assert seen.ledger[["table", "before", "after", "kept"]].values.tolist() == [["person", 3, 3, 3]]


def test_a_table_dropped_and_created_under_another_name_loses_its_rows(rehearsed):
    seen = rehearsed(USERS, "op.create_table('person', sa.Column('id', sa.Integer, primary_key=True))\nop.drop_table('user')")
    assert ("loss", "rows-lost", "user") in found(seen)
    assert "3 of 3 rows gone: id=1, id=2, id=3" in evidence(seen, "rows-lost")
    assert "op.rename_table('user', 'person')" in seen.findings["advice"].str.cat()


# ---- a batch recreates a parent while foreign keys act

NOT_NULL_NAME = batch("user", "alter_column('name', nullable=False)")
NULL_NAME = batch("user", "alter_column('name', nullable=True)")


def test_a_recreated_parent_takes_its_children_along_under_stock_flask_migrate(rehearsed):
    seen = rehearsed(BOOKS, NOT_NULL_NAME, NULL_NAME)
    assert ("loss", "children-lost", "book") in found(seen)
    assert ("loss", "children-lost", "note.user_id") in found(seen)
    assert "5 of 5 rows gone" in evidence(seen, "children-lost") and "DROP TABLE user" in evidence(seen, "children-lost")
    assert "1 value set to NULL" in evidence(seen, "children-lost")


def test_the_same_revision_is_harmless_under_appkit_migrate(rehearsed):
    seen = rehearsed(BOOKS, NOT_NULL_NAME, NULL_NAME, migrate=appkit.Migrate)
    assert found(seen) == [] and seen.safe


def test_the_same_revision_is_harmless_where_foreign_keys_are_off(rehearsed):
    seen = rehearsed(BOOKS, NOT_NULL_NAME, NULL_NAME, foreign_keys=False)
    assert found(seen) == []


def test_rows_deleted_on_purpose_are_told_from_those_that_went_along(rehearsed):
    seen = rehearsed(BOOKS, "op.execute('DELETE FROM user WHERE id = 2')")
    assert ("loss", "rows-lost", "user") in found(seen) and ("loss", "children-lost", "book") in found(seen)
    assert "3 of 5 rows gone" in evidence(seen, "children-lost")


def test_rows_that_a_migration_would_orphan_are_refused_and_told(rehearsed):
    seen = rehearsed(BOOKS, "op.execute('DELETE FROM user WHERE id = 2')", migrate=appkit.Migrate)
    assert ("failure", "fails") in [each[:2] for each in found(seen)]
    assert "3 rows of book" in evidence(seen, "fails")
    assert "half-applied" not in set(seen.findings["finding"])


# ---- constraints over rows that break them

@pytest.mark.parametrize("upgrade, where, rows", [
    (batch("user", "alter_column('name', nullable=False)"), "user.name", r"1 row in the way: name is NULL \(id=2\)"),
    (batch("user", "create_unique_constraint('uq', ['name'])"), "user.name",
     r"2 rows in the way: name is in more than one row \(id=1, id=3\)"),
    ("op.create_index('ix', 'user', ['name'], unique=True)", "user.name", r"2 rows in the way.*\(id=1, id=3\)"),
    (batch("user", "create_check_constraint('ck', 'age > 15')"), "user", r"1 row in the way: NOT \(age > 15\) \(id=1\)"),
    ("op.add_column('user', sa.Column('x', sa.Integer, nullable=False))", "user", r"3 rows in the way.*id=1, id=2, id=3"),
], ids=["not-null", "unique", "unique-index", "check", "new-not-null"])
def test_a_constraint_over_rows_that_break_it_fails_and_names_them(rehearsed, upgrade, where, rows):
    seen = rehearsed(USERS, upgrade)
    finding = seen.findings[seen.findings["finding"] == "fails"].iloc[0]
    assert finding["severity"] == "failure" and finding["where"] == where
    assert re.search(rows, finding["evidence"])
    assert "statement: " in finding["evidence"] and "three steps" in finding["advice"]


@pytest.mark.parametrize("upgrade", [
    batch("user", "alter_column('age', nullable=False)"),
    batch("user", "create_unique_constraint('uq', ['zip'])"),
    batch("user", "create_check_constraint('ck', 'age > 5')"),
], ids=["not-null", "unique", "check"])
def test_the_same_constraint_over_rows_that_keep_it_passes(rehearsed, upgrade):
    seen = rehearsed(USERS, upgrade, down=False)
    assert found(seen) == [] and seen.safe


def test_a_revision_that_fails_half_way_is_half_applied_under_stock_flask_migrate_only(tmp_path):
    upgrade = "op.execute('CREATE TABLE log (a)')\nop.execute('INSERT INTO log VALUES (1)')\nop.execute('nonsense')"
    for migrate, expected in ((None, True), (appkit.Migrate, False)):
        folder = tmp_path / str(expected)
        folder.mkdir()
        app = make_app(folder, USERS, **({"migrate": migrate} if migrate else {}))
        write_revision(app, "1", upgrade)
        seen = appkit.rehearse(app)
        assert ("half-applied" in set(seen.findings["finding"])) is expected
        assert "nonsense" in evidence(seen, "fails")


def test_after_a_failure_what_follows_is_said_to_be_unknown(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", "raise ValueError('not like this')")
    write_revision(app, "2", follows="1")
    seen = appkit.rehearse(app)
    assert "ValueError: not like this" in evidence(seen, "fails") and not seen.safe
    assert "Not rehearsed, so unknown: 2" in str(seen)


# ---- casts that succeed and change values

@pytest.mark.parametrize("column, kind, told", [
    ("name", "sa.Integer()", "id=1: 'ann' → 0"),
    ("at", "sa.Date()", "id=1: '2026-01-02 03:04:05.000000' → 2026"),
    ("score", "sa.Integer()", "id=1: 1.5 → 1"),
    ("zip", "sa.Integer()", "id=1: '007' → 7"),
    ("day", "sa.DateTime()", "id=1: '2026-05-06' → 2026"),
], ids=["text-to-integer", "datetime-to-date", "float-to-integer", "leading-zeros", "text-to-datetime"])
def test_a_cast_that_changes_values_is_a_loss_with_samples(rehearsed, column, kind, told):
    seen = rehearsed(USERS, batch("user", f"alter_column({column!r}, type_={kind})"), down=False)
    assert ("loss", "values-changed", f"user.{column}") in found(seen)
    assert told in evidence(seen, "values-changed")


@pytest.mark.parametrize("column, kind", [("age", "sa.BigInteger()"), ("age", "sa.String(10)"), ("age", "sa.Float()"),
                                          ("name", "sa.String(80)"), ("name", "sa.String(2)"), ("name", "sa.Text()"), ("price", "sa.Numeric(10, 1)")])
def test_a_cast_that_every_value_survives_is_harmless(rehearsed, column, kind):
    seen = rehearsed(USERS, batch("user", f"alter_column({column!r}, type_={kind})"), down=False)
    assert found(seen) == [] and seen.safe
    counted = seen.columns[seen.columns["column"] == column].iloc[0]
    assert counted["changed"] == counted["lost"] == 0


def test_one_value_that_does_not_survive_among_many_that_do_is_found(rehearsed):
    seen = rehearsed(USERS, batch("user", "alter_column('zip', type_=sa.Integer())"), down=False)
    assert seen.rows("user").values.tolist() == [[1, "zip", "007", 7]]
    assert "1 of 3 rows" in evidence(seen, "values-changed")


# ---- values changed and invented

def test_an_update_with_a_true_inverse_loses_nothing(rehearsed):
    seen = rehearsed(USERS, "op.execute('UPDATE user SET age = age + 1')", "op.execute('UPDATE user SET age = age - 1')")
    assert found(seen) == [] and seen.ledger["changed"].item() == 3


@pytest.mark.parametrize("down", [True, False])
def test_an_update_that_nothing_takes_back_is_a_loss(rehearsed, down):
    seen = rehearsed(USERS, "op.execute('UPDATE user SET age = age + 1')", down=down)
    assert ("loss", "values-changed", "user.age") in found(seen)
    assert "3 of 3 rows: id=1: 10 → 11" in evidence(seen, "values-changed")


def test_only_the_values_that_the_downgrade_brings_back_are_taken_off(rehearsed):
    seen = rehearsed(USERS, "op.execute('UPDATE user SET age = 0')", "op.execute('UPDATE user SET age = 10')")
    assert "2 of 3 rows" in evidence(seen, "values-changed")


def test_nulls_that_are_filled_are_told_but_are_no_loss(rehearsed):
    seen = rehearsed(USERS, "op.execute(\"UPDATE user SET name = 'none' WHERE name IS NULL\")", down=False)
    assert found(seen) == [("warning", "values-invented", "user.name")] and seen.safe
    assert evidence(seen, "values-invented") == "1 of 3 rows had NULL, now: 'none' in 1 row"


def test_a_new_column_with_a_default_is_told_and_one_without_is_not(rehearsed):
    seen = rehearsed(USERS, "op.add_column('user', sa.Column('a', sa.Integer, server_default='7', nullable=False))\n"
                     "op.add_column('user', sa.Column('b', sa.Integer))", down=False)
    assert found(seen) == [("warning", "values-invented", "user.a")]
    assert "all 3 rows get 7" in evidence(seen, "values-invented")


# ---- what a batch forgets

OBJECTS = """
CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT, n TEXT COLLATE NOCASE, age INT CHECK (age > 0), k INT,
                d INT REFERENCES q (id) ON DELETE CASCADE, e INT REFERENCES q (id) DEFERRABLE INITIALLY DEFERRED,
                u TEXT UNIQUE ON CONFLICT REPLACE);
CREATE TABLE q (id INTEGER PRIMARY KEY);
INSERT INTO p (n, age) VALUES ('a', 1), ('b', 2);
CREATE TRIGGER tr AFTER INSERT ON p BEGIN SELECT 1; END;
CREATE INDEX ix ON p (n DESC);
CREATE INDEX expression ON p (lower(n));
CREATE INDEX collated ON p (k COLLATE NOCASE);
"""
RETYPE = batch("p", "alter_column('k', type_=sa.BigInteger())")


@pytest.mark.parametrize("told", ["trigger tr of p gone", "AUTOINCREMENT gone", "COLLATE gone", "check age > 0 of p gone",
                                  "DESC gone", "index expression of p gone", "ON DELETE gone", "DEFERRABLE gone",
                                  "ON CONFLICT gone", "index collated of p: COLLATE gone"])
def test_what_a_batch_takes_away_unannounced_is_a_loss(rehearsed, told):
    seen = rehearsed(OBJECTS, RETYPE, down=False)
    assert told in evidence(seen, "objects-lost") and not seen.safe


@pytest.mark.parametrize("upgrade", ["op.execute('DROP TRIGGER tr')", "op.drop_index('ix', 'p')",
                                     "op.execute('DROP INDEX IF EXISTS \"expression\"')", "op.drop_table('p')"])
def test_what_an_operation_announces_is_no_loss_of_objects(rehearsed, upgrade):
    seen = rehearsed(OBJECTS, upgrade, down=False)
    assert "objects-lost" not in set(seen.findings["finding"])


def test_a_batch_on_a_table_that_a_view_uses_fails_and_says_so(rehearsed):
    seen = rehearsed(OBJECTS + "CREATE VIEW v AS SELECT id FROM p;", RETYPE)
    assert "error in view v" in evidence(seen, "fails")
    assert "added table _alembic_tmp_p" in evidence(seen, "half-applied")


# ---- the way back

@pytest.mark.parametrize("upgrade, downgrade, told", [
    ("op.add_column('user', sa.Column('x', sa.Integer))", "raise NotImplementedError('no way back')", "refuses: NotImpl"),
    ("op.add_column('user', sa.Column('x', sa.Integer))", "pass", "fails the second time: OperationalError: duplicate"),
    (batch("user", "drop_column('name')"), "op.add_column('user', sa.Column('name', sa.String(20)))",
     "schema only: after the downgrade, user: 2 values missing"),
    (batch("user", "drop_column('name')"), "op.add_column('user', sa.Column('name', sa.Text))",
     "lossy: after the downgrade, changed column user.name"),
    ("op.execute('DELETE FROM user')", "pass", "schema only: after the downgrade, user: 3 rows missing"),
], ids=["refuses", "second-time", "values", "lossy", "rows"])
def test_a_downgrade_that_does_not_restore_is_told_for_what_it_is(rehearsed, upgrade, downgrade, told):
    seen = rehearsed(USERS, upgrade, downgrade)
    assert told in evidence(seen, "not-reversible")


def test_a_downgrade_that_loses_what_the_upgrade_kept_is_a_loss(rehearsed):
    seen = rehearsed(USERS, "op.add_column('user', sa.Column('x', sa.Integer))",
                     batch("user", "drop_column('x')", "drop_column('age')", "add_column(sa.Column('age', sa.Integer))"))
    assert ("loss", "not-reversible", "") in found(seen)


def test_an_exact_way_back_is_no_finding(rehearsed):
    seen = rehearsed(USERS, "op.add_column('user', sa.Column('x', sa.Integer))", batch("user", "drop_column('x')"))
    assert found(seen) == []


def test_without_the_way_back_the_result_says_that_it_is_unknown(rehearsed):
    seen = rehearsed(USERS, "op.add_column('user', sa.Column('x', sa.Integer))", down=False)
    assert "whether there is a way back is unknown" in str(seen)


# ---- drift, acceptance, and what a rehearsal is asked

def test_models_and_migrations_that_disagree_are_drift_and_those_that_agree_are_not(tmp_path):
    app = appkit.demo(rows=3, revision="0003")
    assert "drift" not in set(appkit.rehearse(app).findings["finding"])
    assert "drift" not in set(appkit.rehearse(app, "0004", downgrade=False).findings["finding"])
    write_revision(app, "0005", "op.add_column('user', sa.Column('nick', sa.String(20)))", follows="0004")
    drift = appkit.rehearse(app, downgrade=False).findings.query("finding == 'drift'")
    assert drift["where"].tolist() == ["user.nick"] and drift["severity"].tolist() == ["warning"]


def test_an_accepted_finding_is_a_warning_with_its_reason(rehearsed):
    seen = rehearsed(USERS, "op.execute('DELETE FROM user WHERE id > 1')", "pass", accepted={"rows-lost user": "spam"})
    assert seen.safe and ("warning", "rows-lost", "user") in found(seen)
    assert seen.findings["effect"].str.contains("Accepted in the revision file: spam").any()


def test_accepting_one_finding_accepts_no_other(rehearsed):
    seen = rehearsed(USERS, "op.execute('DELETE FROM user WHERE id > 1')\n" + batch("user", "drop_column('age')"),
                     accepted={"rows-lost user": "spam"}, down=False)
    assert not seen.safe and ("loss", "values-lost", "user.age") in found(seen)


def test_nothing_pending_is_safe_and_says_so(tmp_path):
    app = make_app(tmp_path, USERS)
    seen = appkit.rehearse(app)
    assert seen.safe and repr(seen) == "Rehearsal(nothing pending at base)" and "Nothing is pending" in str(seen)


def test_a_target_that_is_not_there_names_those_that_are(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1")
    with pytest.raises(appkit.RehearsalError, match="The history has: 1"):
        appkit.rehearse(app, "9999")


def test_two_heads_are_refused_and_can_be_rehearsed_one_by_one(tmp_path):
    app = make_app(tmp_path, USERS)
    for name in ("1", "2"):
        write_revision(app, name, f"op.create_table('t{name}', sa.Column('id', sa.Integer, primary_key=True))",
                       f"op.drop_table('t{name}')")
    with pytest.raises(appkit.RehearsalError, match="heads"):
        appkit.rehearse(app)
    assert appkit.rehearse(app, "heads").revisions in (("1", "2"), ("2", "1"))
    assert appkit.rehearse(app, "2").revisions == ("2",)


def test_an_app_without_migrations_is_told_so(tmp_path):
    app = make_app(tmp_path)
    app.extensions.pop("migrate")
    with pytest.raises(appkit.RehearsalError, match="Migrate\\(app, db\\)"):
        appkit.rehearse(app)


def test_a_second_rehearsal_at_the_same_time_is_refused(tmp_path):
    app = make_app(tmp_path, USERS)
    app.config["INSIDE"] = []
    write_revision(app, "1", """
        import appkit
        from flask import current_app
        try:
            appkit.rehearse(current_app._get_current_object())
        except appkit.RehearsalError as error:
            current_app.config["INSIDE"].append(str(error))
    """)
    appkit.rehearse(app, downgrade=False)
    assert "Another rehearsal is running" in app.config["INSIDE"][0]


def test_rehearsing_twice_gives_the_same_text_and_leaves_the_app_working(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", batch("user", RENAME), RENAME_BACK)
    assert str(appkit.rehearse(app)) == str(appkit.rehearse(app))
    with app.app_context():
        assert app.extensions["sqlalchemy"].session.execute(sa.text("SELECT count(*) FROM user")).scalar() == 3
    assert threading.active_count() == 1


def test_what_the_app_sets_on_its_connections_is_set_on_the_copy(tmp_path):
    app = make_app(tmp_path, USERS)
    with app.app_context():
        sa.event.listen(app.extensions["sqlalchemy"].engine, "connect",
                        lambda connection, _: connection.create_function("twice", 1, lambda value: 2 * value))
    write_revision(app, "1", "op.execute('UPDATE user SET age = twice(age)')")
    assert appkit.rehearse(app, downgrade=False).rows("user")["after"].tolist() == [20, 40, 60]


def test_hostile_names_and_values_go_through(rehearsed):
    name = 'a "b" [c] `d` %s :x <script> é, select'
    quoted = '"' + name.replace('"', '""') + '"'
    seen = rehearsed(f"CREATE TABLE {quoted} ({quoted} INTEGER PRIMARY KEY, \"order\" TEXT);"
                     f"INSERT INTO {quoted} VALUES (1, '<script>alert(1)</script>'), (2, 'it''s');",
                     f"op.drop_column({name!r}, 'order')", down=False)
    assert ("loss", "values-lost", f"{name}.order") in found(seen)
    assert "<script>" not in seen._repr_html_() and seen.table(name, at="base")["order"].tolist()[1] == "it's"


def test_a_table_can_be_asked_as_of_every_revision(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", batch("user", RENAME), RENAME_BACK)
    write_revision(app, "2", "op.drop_table('user')", follows="1")
    seen = appkit.rehearse(app, downgrade=False)
    assert "name" in seen.table("user", at="base") and "login" in seen.table("user", at="1")
    with pytest.raises(appkit.UnknownTableError, match="No table 'user' at 2"):
        seen.table("user")
    with pytest.raises(appkit.RehearsalError, match="There are: base, 1, 2"):
        seen.table("user", at="7")


def test_an_app_with_appkit_stays_readable_while_it_is_rehearsed(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", "op.execute('DELETE FROM user')")
    appkit.rehearse(app)
    assert read_sql(tmp_path / "app.db", "SELECT count(*) FROM user") == [(3,)]


def test_tables_that_swap_their_names_keep_their_rows(rehearsed):
    swap = "\n".join(f"op.rename_table({a!r}, {b!r})" for a, b in (("a", "t"), ("b", "a"), ("t", "b")))
    seen = rehearsed("CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY);"
                     "INSERT INTO a VALUES (1); INSERT INTO b VALUES (2), (3);", swap, swap)
    assert found(seen) == [] and seen.ledger["kept"].tolist() == [2, 1]


def test_a_table_dropped_first_and_created_in_its_place_is_no_rename(rehearsed):
    seen = rehearsed(USERS, "op.drop_table('user')\nop.create_table('person', sa.Column('id', sa.Integer, primary_key=True))",
                     down=False)
    assert ("loss", "rows-lost", "user") in found(seen)


def test_what_is_written_past_sqlalchemy_is_seen_all_the_same(rehearsed):
    seen = rehearsed(USERS, "import sqlite3\nconnection = sqlite3.connect(op.get_bind().engine.url.database)\n"
                     "connection.execute('UPDATE user SET age = 0')\nconnection.commit()\nconnection.close()", down=False)
    assert seen.ledger["changed"].item() == 3 and ("loss", "values-changed", "user.age") in found(seen)


def test_a_generated_column_loses_nothing_of_its_own(rehearsed):
    seen = rehearsed("CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, g INT AS (a * 2), s INT AS (a + 1) STORED);"
                     "INSERT INTO t (a) VALUES (1), (2);", "op.execute('UPDATE t SET a = a + 1 WHERE id = 1')", down=False)
    assert found(seen) == [("loss", "values-changed", "t.a")]


def test_a_revision_file_that_python_cannot_read_cannot_be_rehearsed(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", "this is no Python")
    with pytest.raises(appkit.RehearsalError, match="Cannot read the history: SyntaxError"):
        appkit.rehearse(app)


def test_a_batch_on_a_table_with_a_generated_column_fails_and_says_so(rehearsed):
    seen = rehearsed("CREATE TABLE p (id INTEGER PRIMARY KEY, a INT, g INT AS (a * 2) STORED); INSERT INTO p (a) VALUES (1);",
                     batch("p", "alter_column('a', type_=sa.BigInteger())"))
    assert "GENERATED ALWAYS" in evidence(seen, "fails") and not seen.safe


def test_a_database_stamped_at_a_revision_that_is_gone_cannot_be_rehearsed(tmp_path):
    app = make_app(tmp_path, USERS + "CREATE TABLE alembic_version (version_num VARCHAR(32));"
                   "INSERT INTO alembic_version VALUES ('gone');")
    write_revision(app, "1")
    with pytest.raises(appkit.RehearsalError, match="gone"):
        appkit.rehearse(app)


def test_tables_that_create_all_made_stop_the_first_revision_and_are_named(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", "op.create_table('user', sa.Column('id', sa.Integer, primary_key=True))")
    assert "table user already exists" in evidence(appkit.rehearse(app), "fails")


def test_what_autogenerate_does_not_see_is_seen_as_drift():
    app = appkit.demo(rows=3)
    with app.app_context(), app.extensions["sqlalchemy"].engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_post_author_id")
        connection.exec_driver_sql("ALTER TABLE user ADD COLUMN level INTEGER DEFAULT 7 CHECK (level > 0)")
    told = appkit.rehearse(app).findings.query("finding == 'drift'")
    assert set(told["where"]) == {"post", "user", "user.level"}
    assert told["evidence"].str.contains("level > 0").any() and (told["severity"] == "warning").all()


def test_a_column_copied_and_dropped_keeps_its_values_without_a_key_too(rehearsed):
    seen = rehearsed("CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL);",
                     "op.add_column('t', sa.Column('c', sa.Text))\nop.execute('UPDATE t SET c = b')\n"
                     "op.execute('ALTER TABLE t DROP COLUMN b')", down=False)
    assert found(seen) == [] and seen.columns.query("column == 'c'")["was"].tolist() == ["b"]


def test_what_fails_cannot_be_accepted_and_what_follows_is_not_applied(tmp_path):
    app = make_app(tmp_path, USERS)
    write_revision(app, "1", "raise ValueError('only here')", head="accepted = {'fails': 'flaky'}")
    write_revision(app, "2", "op.execute('DELETE FROM user')", follows="1")
    seen = appkit.rehearse(app)
    assert not seen.safe and found(seen)[0][:2] == ("failure", "fails")
    with pytest.raises(appkit.ApplyError, match="not safe: fails"):
        seen.apply()


def test_what_is_accepted_but_not_found_is_told(rehearsed):
    seen = rehearsed(USERS, "op.execute('DELETE FROM user WHERE id > 1')", accepted={"rows-lost users": "spam"}, down=False)
    assert not seen.safe and "Accepted in revision files, but not found: 1: rows-lost users" in str(seen)


def test_accepted_that_is_no_dictionary_is_refused(rehearsed):
    with pytest.raises(appkit.RehearsalError, match="accepted is a list"):
        rehearsed(USERS, "pass", accepted=["rows-lost user"])


@pytest.mark.parametrize("to", ["base", "1", "", "@", "+7"])
def test_a_target_that_is_not_ahead_is_no_safe_rehearsal(tmp_path, to):
    app = make_app(tmp_path, "CREATE TABLE alembic_version (version_num VARCHAR(32));"
                   "INSERT INTO alembic_version VALUES ('2');")
    write_revision(app, "1")
    write_revision(app, "2", follows="1")
    with pytest.raises(appkit.RehearsalError, match="Cannot rehearse to"):
        appkit.rehearse(app, to)
    assert appkit.rehearse(app).safe and appkit.rehearse(app, "2").safe


def test_an_app_with_several_databases_is_told_so(tmp_path):
    app = make_app(tmp_path, USERS, config={"SQLALCHEMY_BINDS": {"other": f"sqlite:///{tmp_path / 'other.db'}"}})
    with pytest.raises(appkit.RehearsalError, match="2 databases"):
        appkit.rehearse(app)


def test_a_failure_without_rows_in_the_way_tells_of_none(rehearsed):
    seen = rehearsed(USERS, "op.execute(\"INSERT INTO user (id) VALUES (1)\")")
    assert "in the way" not in evidence(seen, "fails") and "UNIQUE constraint failed" in evidence(seen, "fails")


def test_a_revision_file_in_another_encoding_is_read_as_it_says(tmp_path):
    app = make_app(tmp_path, USERS)
    path = write_revision(app, "1", "op.execute('DELETE FROM user')", head="name = 'é'")
    path.write_bytes(b"# -*- coding: latin-1 -*-\n" + path.read_text().encode("latin-1"))
    assert ("loss", "rows-lost", "user") in found(appkit.rehearse(app))


# ---- what was found by looking for holes

def test_a_keyword_on_another_table_announces_nothing(rehearsed):
    seen = rehearsed("CREATE TABLE p (id INTEGER PRIMARY KEY);"
                     "CREATE TABLE o (id INTEGER PRIMARY KEY, n TEXT, q INT REFERENCES p (id) ON DELETE SET NULL);",
                     batch("o", "alter_column('n', nullable=False)") + "\nop.create_table('x', sa.Column('id', sa.Integer, "
                     "primary_key=True), sa.Column('p', sa.Integer, sa.ForeignKey('p.id', ondelete='CASCADE')))", down=False)
    assert "ON DELETE gone" in evidence(seen, "objects-lost")


def test_an_index_dropped_under_a_column_s_name_announces_nothing_of_the_column(rehearsed):
    seen = rehearsed("CREATE TABLE p (id INTEGER PRIMARY KEY, n TEXT COLLATE NOCASE, k INT); CREATE INDEX n ON p (k);",
                     "op.drop_index('n')\n" + RETYPE, down=False)
    assert "COLLATE gone" in evidence(seen, "objects-lost") and "index n" not in evidence(seen, "objects-lost")


def test_a_counter_that_goes_back_is_told(rehearsed):
    seen = rehearsed("CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT, k INT); INSERT INTO p (id) VALUES (1), (100);"
                     "DELETE FROM p WHERE id = 100;",
                     "with op.batch_alter_table('p', table_kwargs={'sqlite_autoincrement': True}) as batch:\n"
                     "    batch.alter_column('k', type_=sa.BigInteger())", down=False)
    assert evidence(seen, "objects-lost") == "AUTOINCREMENT's counter of p went back from 100 to 1: ids are given again"


def test_accepting_one_lost_object_accepts_no_other(rehearsed):
    seen = rehearsed(OBJECTS, RETYPE, accepted={"objects-lost p.tr": "replaced by the app"}, down=False)
    assert ("warning", "objects-lost", "p.tr") in found(seen) and ("loss", "objects-lost", "p.expression") in found(seen)


@pytest.mark.parametrize("upgrade", ["op.rename_table('p', 'r')", "for name in ('ix',):\n    op.drop_index(name)",
                                     "for kind in ('TRIGGER',):\n    op.execute(f'DROP {kind} tr')"])
def test_what_was_seen_to_be_dropped_or_carried_along_is_no_lost_object(rehearsed, upgrade):
    seen = rehearsed(OBJECTS, upgrade, down=False)
    assert "objects-lost" not in set(seen.findings["finding"])


def test_an_unnamed_constraint_dropped_by_a_naming_convention_is_announced(rehearsed):
    seen = rehearsed("CREATE TABLE p (id INTEGER PRIMARY KEY);"
                     "CREATE TABLE o (id INTEGER PRIMARY KEY, q INT REFERENCES p (id) ON DELETE CASCADE);",
                     "with op.batch_alter_table('o', naming_convention={'fk': 'fk_%(table_name)s_%(column_0_name)s'}) as b:\n"
                     "    b.drop_constraint('fk_o_q', type_='foreignkey')", down=False)
    assert found(seen) == []


def test_letters_beyond_ascii_are_not_folded(rehearsed):
    seen = rehearsed("CREATE TABLE t (id INTEGER PRIMARY KEY, \"é\" TEXT, \"É\" TEXT); INSERT INTO t VALUES (1, 'a', 'b');",
                     "op.execute('UPDATE t SET \"é\" = \"é\"')", down=False)
    assert found(seen) == []


def test_the_rename_that_is_advised_is_one_of_the_same_type(rehearsed):
    seen = rehearsed(USERS, batch("user", "add_column(sa.Column('created', sa.DateTime))",
                                  "add_column(sa.Column('login', sa.String(20)))", "drop_column('name')"), down=False)
    assert "new_column_name='login'" in seen.findings["advice"].str.cat()


def test_rows_that_a_trigger_deletes_are_not_blamed_on_a_batch(rehearsed):
    seen = rehearsed("CREATE TABLE u (id INTEGER PRIMARY KEY, a INT); CREATE TABLE l (id INTEGER PRIMARY KEY);"
                     "INSERT INTO u VALUES (1, 1); INSERT INTO l VALUES (1);"
                     "CREATE TRIGGER tr AFTER UPDATE ON u BEGIN DELETE FROM l; END;", "op.execute('UPDATE u SET a = a')",
                     down=False)
    advice = seen.findings.query("finding == 'children-lost'")["advice"].item()
    assert "trigger" in advice and "batch" not in advice


def test_a_version_table_that_env_py_names_is_the_one_that_counts(tmp_path):
    app = make_app(tmp_path, USERS)
    env = tmp_path / "migrations" / "env.py"
    env.write_text(env.read_text().replace("            **conf_args\n", "            version_table='mine', **conf_args\n"))
    write_revision(app, "1", "op.add_column('user', sa.Column('x', sa.Integer))", batch("user", "drop_column('x')"))
    first = appkit.rehearse(app)
    assert first.safe and "mine" not in first.ledger["table"].tolist() and first.apply()
    assert repr(appkit.rehearse(app)) == "Rehearsal(nothing pending at 1)"


def test_a_revision_may_use_the_app_s_class_and_routes(tmp_path):
    app = make_app(tmp_path, USERS)
    app.own = 7
    app.add_url_rule("/x", "x", lambda: "")
    with app.test_client() as client:
        client.get("/x")  # Flask lets nothing be registered after the first request
    write_revision(app, "1", "from flask import current_app, url_for\nassert current_app.own == 7\n"
                   "with current_app.test_request_context():\n    assert url_for('x') == '/x'")
    assert appkit.rehearse(app).safe
    assert app.test_client().get("/x").status_code == 200


def test_a_wide_table_is_compared(rehearsed):
    columns = ", ".join(f"c{number} INT DEFAULT {number}" for number in range(300))
    seen = rehearsed(f"CREATE TABLE w (id INTEGER PRIMARY KEY, {columns}); INSERT INTO w (id) VALUES (1), (2);",
                     "op.execute('UPDATE w SET c7 = 0 WHERE id = 2')", down=False)
    assert seen.rows("w").values.tolist() == [[2, "c7", 7, 0]] and seen.ledger["changed"].item() == 1
