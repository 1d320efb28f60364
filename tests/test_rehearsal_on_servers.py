"""The same rehearsal on PostgreSQL and MariaDB: losses, failures, ways back, locks; and nothing done to the source."""
import gc
import warnings

import flask_migrate
import pytest
import servers
import sqlalchemy as sa
from apps import make_app, write_revision
from sqlalchemy.pool import NullPool

import appkit
from appkit.standin import StandIn

SERVERS = ["15", "18", "mariadb"]
TYPES = {"datetime": {"mariadb": "datetime(6)"}}


def server_of(name):
    return servers.mariadb() if name == "mariadb" else servers.postgresql(name)


@pytest.fixture(params=SERVERS)
def url(request):
    url = servers.new_database(server_of(request.param))
    yield url
    gc.collect()
    left = {name for name in servers.databases(url) if name.startswith("appkit_")}
    servers.drop_database(url)
    assert left == set()


@pytest.fixture(params=["sqlite", *SERVERS])
def any_url(request, tmp_path):
    if request.param == "sqlite":
        yield sa.make_url(f"sqlite:///{tmp_path / 'app.db'}")
        return
    url = servers.new_database(server_of(request.param))
    yield url
    gc.collect()
    servers.drop_database(url)


def app_at(url, folder, *setup, **options):
    for statement in setup:
        servers.execute(url, statement)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_app(folder, url=url.render_as_string(hide_password=False), foreign_keys=False, **options)


def found(rehearsal):
    return [(row.severity, row.finding, row.where) for row in rehearsal.findings.itertuples()
            if row.finding not in ("drift", "not-reversible", "full-scan-under-lock", "table-rewritten")]


def quote(url, name):
    mark = "`" if url.get_backend_name() == "mariadb" else '"'
    return mark + name.replace(mark, mark * 2) + mark


# ---- the casts of every database

CAST = {  # the type before and after, the values, and what is found: on SQLite, PostgreSQL and MariaDB
    "varchar to integer": ("sa.String(20)", "sa.Integer()", ["'7'", "'abc'"], "values-changed", "fails", "fails"),
    "varchar to integer, all numbers": ("sa.String(20)", "sa.Integer()", ["'7'", "'-12'"], "", "", ""),
    "datetime to date": ("sa.DateTime()", "sa.Date()", ["'2026-01-02 03:04:05'"], "values-changed", "values-changed",
                         "values-changed"),
    "datetime to date, at midnight": ("sa.DateTime()", "sa.Date()", ["'2026-01-02 00:00:00'"], "values-changed", "", ""),
    "varchar to datetime": ("sa.String(20)", "sa.DateTime()", ["'soon'"], "values-changed", "fails", "fails"),
    "float to integer": ("sa.Float(53)", "sa.Integer()", ["1.6", "2.5"], "values-changed", "values-changed",
                         "values-changed"),
    "float to integer, whole": ("sa.Float(53)", "sa.Integer()", ["1.0", "-3.0"], "", "", ""),
    "numeric scale cut": ("sa.Numeric(10, 3)", "sa.Numeric(10, 1)", ["1.125", "2.500"], "", "values-changed",
                          "values-changed"),
    "numeric scale raised": ("sa.Numeric(10, 1)", "sa.Numeric(10, 3)", ["1.1", "2.5"], "", "", ""),
    "varchar shrunk": ("sa.String(20)", "sa.String(5)", ["'longer than five'"], "", "fails", "fails"),
    "varchar widened": ("sa.String(20)", "sa.String(50)", ["'longer than five'"], "", "", ""),
    "integer to bigint": ("sa.Integer()", "sa.BigInteger()", ["1", "-2147483648"], "", "", ""),
    "integer to numeric": ("sa.Integer()", "sa.Numeric(12, 2)", ["1", "-2147483648"], "", "", ""),
    "integer to text": ("sa.Integer()", "sa.String(20)", ["1", "-2147483648"], "", "", ""),
    "numeric to double": ("sa.Numeric(20, 2)", "sa.Float(53)", ["1.10", "12345678901234567.89"], None,
                          "values-changed", "values-changed"),
}


@pytest.mark.parametrize("cast", CAST)
def test_a_cast_that_changes_values_is_a_loss_and_one_that_does_not_is_none(any_url, tmp_path, cast):
    before, after, values, *expected = CAST[cast]
    wanted = expected[["sqlite", "postgresql", "mariadb"].index(any_url.get_backend_name())]
    if wanted is None:
        pytest.skip("SQLite stores every number as it likes")
    app = app_at(any_url, tmp_path)
    rows = ", ".join(f"({place}, {value})" for place, value in enumerate(values, 1))
    write_revision(app, "1", f"op.create_table('t', sa.Column('id', sa.Integer, primary_key=True), sa.Column('v', {before}))\n"
                             f"op.execute(\"INSERT INTO t VALUES {rows}\")", "op.drop_table('t')")
    with app.app_context():
        import flask_migrate
        flask_migrate.upgrade()
    kind = {"sa.Integer()": "integer", "sa.DateTime()": "timestamp"}.get(after)
    using = f", postgresql_using='v::{kind}'" if before.startswith("sa.String") and kind else ""
    write_revision(app, "2", f"with op.batch_alter_table('t') as batch:\n"
                             f"    batch.alter_column('v', existing_type={before}, type_={after}{using})", follows="1")
    rehearsal = appkit.rehearse(app, downgrade=False)
    severity = "failure" if wanted == "fails" else "loss"
    assert [each[:2] for each in found(rehearsal)] == ([(severity, wanted)] if wanted else [])
    assert rehearsal.safe == (not wanted)


def test_a_timestamp_that_loses_its_zone_is_shifted_by_the_sessions_zone(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, f'ALTER DATABASE "{url.database}" SET timezone TO \'Asia/Kolkata\'')
    servers.execute(url, "CREATE TABLE t (id int PRIMARY KEY, at timestamptz)",
                    "INSERT INTO t VALUES (1, '2026-01-02 03:04:05+00')")
    write_revision(app, "1", "op.execute('ALTER TABLE t ALTER COLUMN at TYPE timestamp')")
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert found(rehearsal) == [("loss", "values-changed", "t.at")]
    assert "08:34:05" in str(rehearsal.table("t")["at"][0])


# ---- the source

def contents(url):
    """Everything of a database that a rehearsal could change: rows, and what stands behind them."""
    if url.get_backend_name() == "mariadb":
        tables = [name for name, in servers.execute(url, "SHOW TABLES")]
        return ([servers.execute(url, f"SELECT * FROM {quote(url, name)}") for name in tables],
                [servers.execute(url, f"SHOW CREATE TABLE {quote(url, name)}") for name in tables],
                servers.execute(url, "SELECT table_id, name FROM information_schema.innodb_sys_tables "
                                     f"WHERE name LIKE '{url.database}/%' ORDER BY 1"))
    tables = [name for name, in servers.execute(
        url, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")]
    return ([servers.execute(url, f"SELECT xmin::text, ctid::text, * FROM {name}") for name in tables],
            servers.execute(url, "SELECT oid::int8, relname, relfilenode::int8 FROM pg_class WHERE oid >= 16384 "
                                 "ORDER BY 1"))


SETUP = ("CREATE TABLE parent (id integer PRIMARY KEY, name varchar(40))",
         "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer REFERENCES parent (id), note varchar(40))",
         "INSERT INTO parent VALUES (1, 'Ada'), (2, 'Zoë'), (3, NULL)",
         "INSERT INTO child VALUES (1, 1, 'a'), (2, 1, NULL), (3, 2, '')")


@pytest.mark.parametrize("upgrade", ["op.drop_column('parent', 'name')", "op.drop_table('child')", "1 / 0",
                                     "op.execute('UPDATE parent SET name = NULL')", "op.execute('nonsense')"])
def test_a_rehearsal_leaves_the_source_as_it_is_and_nothing_beside_it(url, tmp_path, upgrade):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", upgrade)
    before = contents(url)
    rehearsal = appkit.rehearse(app)
    assert not rehearsal.safe
    assert contents(url) == before


def test_a_dropped_column_is_a_loss_and_a_rename_is_none(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.alter_column('parent', 'name', new_column_name='title', existing_type=sa.String(40))",
                   "op.alter_column('parent', 'title', new_column_name='name', existing_type=sa.String(40))")
    write_revision(app, "2", "op.drop_column('child', 'note')", "op.add_column('child', sa.Column('note', sa.String(40)))",
                   follows="1")
    rehearsal = appkit.rehearse(app)
    assert found(rehearsal) == [("loss", "values-lost", "child.note")]
    columns = rehearsal.columns.set_index(["revision", "table", "column"])
    assert columns.loc[("1", "parent", "title"), ["was", "kept", "lost"]].tolist() == ["name", 2, 0]
    assert rehearsal.rows("child").values.tolist() == [[1, "note", "a", None], [3, "note", "", None]]


def test_a_true_way_back_is_told_from_a_false_one(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.execute('UPDATE parent SET id = id + 100 WHERE id = 3')",
                   "op.execute('UPDATE parent SET id = id - 100 WHERE id = 103')")
    write_revision(app, "2", "op.execute(\"UPDATE child SET note = 'x'\")", follows="1")
    rehearsal = appkit.rehearse(app)
    assert [(row.revision, row.severity, row.finding) for row in rehearsal.findings.itertuples()
            if row.severity in ("loss", "failure")] == [("2", "loss", "values-changed")]


def test_hostile_names_are_rehearsed_as_they_are(url, tmp_path):
    table, column = 'Ta"ble `x` %s :y — ü', 'co"l `u` %(n)s select'
    if url.get_backend_name() == "mariadb":
        table, column = table.replace(" ü", "ü"), column
    app = app_at(url, tmp_path, f"CREATE TABLE {quote(url, table)} (id integer PRIMARY KEY, "
                                f"{quote(url, column)} varchar(40), keep integer)",
                 f"INSERT INTO {quote(url, table)} VALUES (1, 'a', 1), (2, 'b', 2)")
    write_revision(app, "1", f"op.drop_column({table!r}, {column!r})")
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert found(rehearsal) == [("loss", "values-lost", f"{table}.{column}")]
    assert appkit.read_table(app, table).columns.tolist() == ["id", column, "keep"]
    assert appkit.list_tables(app)["table"].tolist() == [table]


def test_a_constraint_that_rows_break_fails_and_the_rows_are_named(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.alter_column('parent', 'name', nullable=False, existing_type=sa.String(40))")
    rehearsal = appkit.rehearse(app)
    finding = rehearsal.findings[rehearsal.findings["finding"] == "fails"].iloc[0]
    assert finding["where"] == "parent.name" and "1 row in the way" in finding["evidence"] and "id=3" in finding["evidence"]


def test_what_is_rehearsed_is_applied_after_a_backup(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.add_column('parent', sa.Column('born', sa.Date))", "op.drop_column('parent', 'born')")
    rehearsal = appkit.rehearse(app)
    assert rehearsal.safe, str(rehearsal)
    applied = rehearsal.apply()
    assert applied.backup.exists() and applied.backup.stat().st_mode & 0o077 == 0
    assert "born" in appkit.read_table(app, "parent").columns
    assert appkit.rehearse(app).revisions == ()


def test_an_app_that_was_not_connected_yet_knows_its_own_database_afterwards(url, tmp_path):
    setup = ("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
             "INSERT INTO alembic_version VALUES ('1')")
    app_at(url, tmp_path, *SETUP, *setup)
    app = app_at(url, tmp_path)
    write_revision(app, "1")
    write_revision(app, "2", "op.add_column('parent', sa.Column('born', sa.Date))", follows="1")
    rehearsal = appkit.rehearse(app, downgrade=False)
    with app.app_context():
        dialect = app.extensions["sqlalchemy"].engine.dialect
    default = url.database if url.get_backend_name() == "mariadb" else "public"
    assert (dialect.default_schema_name, appkit.read_history(app)["applied"].tolist()) == (default, [True, False])
    assert repr(rehearsal.apply()).startswith("Applied(2;")


def test_another_database_is_copied_where_one_is_named(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    branch = servers.new_database(url)
    servers.execute(branch, SETUP[0], "INSERT INTO parent VALUES (7, 'branch')")
    write_revision(app, "1", "op.execute(\"UPDATE parent SET name = NULL\")")
    try:
        rehearsal = appkit.rehearse(app, on=branch.render_as_string(hide_password=False), downgrade=False)
        assert rehearsal.ledger[rehearsal.ledger["table"] == "parent"]["before"].tolist() == [1]
        assert servers.execute(branch, "SELECT name FROM parent") == [("branch",)]
        with pytest.raises(appkit.RehearsalError, match="the app's own"):
            appkit.rehearse(app, on=url.render_as_string(hide_password=False))
        rehearsal = appkit.rehearse(app, on=branch.render_as_string(hide_password=False), in_place=True, downgrade=False)
        assert found(rehearsal) == [("loss", "values-lost", "parent.name")]
        assert servers.execute(branch, "SELECT name FROM parent") == [(None,)]
        del rehearsal
        gc.collect()
    finally:
        servers.drop_database(branch)


def test_a_migration_that_reaches_for_the_real_database_is_stopped(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", f"engine = sa.create_engine({url.render_as_string(hide_password=False)!r})\n"
                             "engine.connect().execute(sa.text('SELECT 1'))")
    before = contents(url)
    with pytest.raises(appkit.SourceTouchedError):
        appkit.rehearse(app)
    assert contents(url) == before


# ---- who waits

def test_a_long_lock_is_an_outage_and_a_short_one_is_none(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, n int)",
                 "INSERT INTO t SELECT g, g FROM generate_series(1, 20000) g")
    write_revision(app, "1", "op.execute('ALTER TABLE t ALTER COLUMN n TYPE bigint')\nop.execute('SELECT pg_sleep(0.3)')",
                   "op.execute('ALTER TABLE t ALTER COLUMN n TYPE int')")
    patient, impatient = appkit.rehearse(app, patience=20), appkit.rehearse(app, patience=0.2)
    assert found(patient) == [] and patient.safe
    assert found(impatient) == [("outage", "readers-wait", "t")] and not impatient.safe
    wait = impatient.waits(rows=20_000_000).iloc[0]
    assert wait["who"] == "readers and writers" and wait["seconds"] >= 0.3 and wait["rows"] == 20_000
    assert wait["estimate"] == pytest.approx(1000 * wait["seconds"])
    rewritten = patient.findings[patient.findings["finding"] == "table-rewritten"]
    assert rewritten["where"].tolist() == ["t"]


def test_an_index_built_concurrently_is_watched_from_outside_and_an_invalid_one_is_told(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, n int)",
                 "INSERT INTO t SELECT g, g / 2 FROM generate_series(1, 100000) g")
    block = "with op.get_context().autocommit_block():\n    op.create_index('{0}', 't', ['n'], unique={1}, " \
            "postgresql_concurrently=True, if_not_exists={1})"
    write_revision(app, "1", block.format("t_n", False), "op.drop_index('t_n', 't')")
    rehearsal = appkit.rehearse(app, patience=0)
    statement = rehearsal.statements[rehearsal.statements["statement"].str.contains("INDEX")].iloc[0]
    assert "t ShareUpdateExclusiveLock" in statement["locks"] and statement["waits"] == ""
    assert found(rehearsal) == [] and rehearsal.safe
    write_revision(app, "2", block.format("t_u", True), "op.drop_index('t_u', 't')", follows="1")
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert {"fails", "index-invalid"} <= {each[1] for each in found(rehearsal)}


def test_a_revision_of_mariadb_that_dies_between_its_statements_is_told_to_be_stuck(tmp_path):
    url = servers.new_database(servers.mariadb())
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.add_column('parent', sa.Column('a', sa.Integer))\n"
                             "op.add_column('parent', sa.Column('b', sa.Integer))\n"
                             "op.add_column('child', sa.Column('c', sa.Integer))",
                   "op.drop_column('child', 'c')\nop.drop_column('parent', 'b')\nop.drop_column('parent', 'a')")
    again = "op.execute('ALTER TABLE parent ADD COLUMN IF NOT EXISTS {0} int')"
    write_revision(app, "2", again.format("d") + "\n" + again.format("e"), "op.drop_column('parent', 'e')\n"
                   "op.drop_column('parent', 'd')", follows="1")
    rehearsal = appkit.rehearse(app)
    half = rehearsal.findings[rehearsal.findings["finding"] == "half-applied"]
    assert half[["revision", "severity"]].values.tolist() == [["1", "warning"]]
    assert "at 2 of 2 points" in half["evidence"].iloc[0] and "Duplicate column name 'a'" in half["evidence"].iloc[0]
    assert rehearsal.safe and "e" in rehearsal.table("parent").columns


# ---- servers that go

def test_a_server_killed_in_the_middle_ends_in_a_clear_error(tmp_path):
    server = servers._postgresql.__wrapped__("18")
    url = servers.new_database(server)
    app = app_at(url, tmp_path, *SETUP)
    folder = servers.execute(url, "SHOW data_directory")[0][0]
    write_revision(app, "1", "import os, signal\nop.execute('ALTER TABLE parent ADD COLUMN a int')\n"
                             f"os.kill(int(open({folder + '/postmaster.pid'!r}).readline()), signal.SIGQUIT)\n"
                             "op.execute('SELECT pg_sleep(5)')\nop.execute('SELECT 1')")
    with pytest.raises(appkit.RehearsalError, match="[Cc]annot re"):
        appkit.rehearse(app)


def test_a_full_disk_is_not_taken_for_a_fault_of_the_revision(any_url, tmp_path):
    app = app_at(any_url, tmp_path, *SETUP)
    fills = {"sqlite": "op.execute('PRAGMA max_page_count = 4')\nop.execute('CREATE TABLE more AS SELECT zeroblob(99999)')",
             "postgresql": "op.execute(\"DO $$ BEGIN RAISE 'could not extend file: No space left on device' "
                           "USING ERRCODE = '53100'; END $$\")",
             "mariadb": "op.execute('SET max_heap_table_size = 16384')\n"
                        "op.execute('CREATE TABLE more (n char(250)) ENGINE=MEMORY')\n"
                        "op.execute('INSERT INTO more SELECT seq FROM seq_1_to_1000')"}
    write_revision(app, "1", fills[any_url.get_backend_name()])
    with pytest.raises(appkit.RehearsalError, match="no room left for the copy: .*(full|No space)"):
        appkit.rehearse(app)


# ---- past SQLAlchemy, and past the copy

def test_a_drivers_own_connection_to_the_source_is_refused(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    if url.get_backend_name() == "mariadb":
        opened = (f"import pymysql\npymysql.connect(host='127.0.0.1', port={url.port}, user={url.username!r}, "
                  f"password={url.password!r}, database={url.database!r})")
    else:
        opened = (f"import psycopg\npsycopg.connect(host='127.0.0.1', port={url.port}, user={url.username!r}, "
                  f"password={url.password!r}, dbname={url.database!r})")
    write_revision(app, "1", opened)
    with pytest.raises(appkit.SourceTouchedError):
        appkit.rehearse(app)


def test_what_a_drivers_own_connection_to_the_copy_writes_is_seen(url, tmp_path):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", """
        url = op.get_bind().engine.url
        op.execute("COMMIT")
        if url.get_backend_name() == "mariadb":
            import pymysql
            other = pymysql.connect(host=url.host, port=url.port, user=url.username, password=url.password,
                                    database=url.database)
        else:
            import psycopg
            other = psycopg.connect(host=url.host, port=url.port, user=url.username, password=url.password,
                                    dbname=url.database)
        other.cursor().execute("UPDATE parent SET name = 'gone' WHERE id = 1")
        other.commit()
        other.close()
    """)
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert found(rehearsal) == [("loss", "values-changed", "parent.name"), ("warning", "not-watched", "")]


GONE = "UPDATE parent SET name = 'gone' WHERE id = 1"
PAST = {  # what runs past SQLAlchemy, and on which databases it is not watched
    "the driver's cursor": (f"op.get_bind().connection.cursor().execute({GONE!r})", {"postgresql", "mariadb"}),
    "with its own commit": (f"raw = op.get_bind().connection.driver_connection\n"
                            f"raw.cursor().execute({GONE!r})\nraw.commit()", {"postgresql", "mariadb"}),
    "after a statement": (f"op.execute('SELECT 1')\nraw = op.get_bind().connection\nraw.cursor().execute({GONE!r})\n"
                          "raw.commit()\nop.execute('SELECT 2')", {"postgresql", "mariadb"}),
    "many at once": ("raw = op.get_bind().connection\nmark = '?' if op.get_bind().dialect.name == 'sqlite' else '%s'\n"
                     f"raw.cursor().executemany({GONE!r}.replace('1', mark), [(1,), (9,)])\nraw.commit()",
                     {"postgresql", "mariadb"}),
    "a connection of the pool": (f"raw = op.get_bind().engine.raw_connection()\nraw.cursor().execute({GONE!r})\n"
                                 "raw.commit()\nraw.close()", {"postgresql", "mariadb"}),
    "a connection without a statement": (f"with op.get_bind().engine.begin() as other:\n"
                                         f"    other.connection.cursor().execute({GONE!r})", {"postgresql", "mariadb"}),
    "before the commit": (f"with op.get_bind().engine.begin() as other:\n    other.execute(sa.text('SELECT 1'))\n"
                          f"    other.connection.cursor().execute({GONE!r})", {"postgresql", "mariadb"}),
    "within an autocommit_block": (f"with op.get_context().autocommit_block():\n"
                                   f"    op.get_bind().connection.cursor().execute({GONE!r})",
                                   {"postgresql", "mariadb"}),
    "at the end of an autocommit_block": (f"with op.get_context().autocommit_block():\n    op.execute('SELECT 1')\n"
                                          f"    op.get_bind().connection.cursor().execute({GONE!r})",
                                          {"postgresql", "mariadb"}),
    "a detached connection": (f"raw = op.get_bind().engine.raw_connection()\nraw.detach()\n"
                              f"raw.cursor().execute({GONE!r})\nraw.commit()\nraw.close()",
                              {"sqlite", "postgresql", "mariadb"}),
}


def write_history(app, ways):
    """Write a revision for each way, which sets a value of its own; give the ways by revision."""
    named = {str(number): way for number, way in enumerate(ways)}
    for revision, way in named.items():
        write_revision(app, revision, ways[way].replace("gone", way.replace("'", "")),
                       follows=str(int(revision) - 1) if revision != "0" else None)
    return named


def test_what_runs_past_sqlalchemy_is_compared_all_the_same_and_told(any_url, tmp_path):
    app = app_at(any_url, tmp_path, *SETUP)
    named = write_history(app, {way: upgrade for way, (upgrade, _) in PAST.items()})
    seen = appkit.rehearse(app, downgrade=False).findings
    assert {(named[row.revision], row.finding, row.where) for row in seen.itertuples()
            if row.finding != "drift"} == {
        (way, *told) for way, (_, unwatched) in PAST.items() for told in (
            ("values-changed", "parent.name"), ("not-watched", ""))[:1 + (any_url.get_backend_name() in unwatched)]}


PAST_TRANSACTIONS = {
    "a commit in the same text": f"op.execute({GONE + '; COMMIT'!r})",
    "a commit and another transaction": f"op.execute({GONE + '; COMMIT; BEGIN'!r})",
    "a function, outside of a transaction": "with op.get_context().autocommit_block():\n    op.execute('SELECT f()')",
    "a procedure, outside of a transaction": "with op.get_context().autocommit_block():\n    op.execute('CALL p()')",
    "a transaction of its own": f"with op.get_context().autocommit_block():\n    op.execute('BEGIN')\n"
                                f"    op.execute({GONE!r})\n    op.execute('COMMIT')",
    "a transaction that begins in a text": f"with op.get_context().autocommit_block():\n"
                                           f"    op.execute({'BEGIN; ' + GONE!r})\n    op.execute('COMMIT')",
}


@pytest.mark.parametrize("major", ["15", "18"])
def test_what_postgresql_commits_by_itself_is_compared(tmp_path, major):
    url = servers.new_database(servers.postgresql(major))
    app = app_at(url, tmp_path, *SETUP,
                 "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC UPDATE parent SET name = 'f' WHERE id = 1 RETURNING 1; END",
                 "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$BEGIN UPDATE parent SET name = 'p'; COMMIT; END$$")
    named = write_history(app, PAST_TRANSACTIONS)
    seen = appkit.rehearse(app, downgrade=False).findings
    assert set(seen.loc[seen["finding"] == "values-changed", "revision"].map(named)) == set(PAST_TRANSACTIONS)
    servers.drop_database(url)


HEARD = {
    "a savepoint": "with op.get_bind().begin_nested():\n    op.execute('UPDATE child SET note = note')",
    "a savepoint rolled back": "try:\n    with op.get_bind().begin_nested():\n        op.execute('nonsense')\n"
                               "except Exception:\n    pass",
    "an own commit": "op.execute('COMMIT')\nop.execute('UPDATE child SET note = note')\nop.execute('COMMIT')",
    "outside of the transaction": "with op.get_context().autocommit_block():\n    op.execute('SELECT 1')\n"
                                  "    op.execute('UPDATE child SET note = note')",
    "twice outside of it": "for note in 'ab':\n    with op.get_context().autocommit_block():\n"
                           "        op.execute('UPDATE child SET note = note')",
    "many rows": "op.bulk_insert(sa.table('parent', sa.column('id')), [{'id': 7}, {'id': 8}, {'id': 9}])",
    "an inspector": "sa.inspect(op.get_bind()).get_columns('parent')\nsa.inspect(op.get_bind().engine).get_table_names()",
    "another connection": "with op.get_bind().engine.begin() as other:\n"
                          "    other.execute(sa.text('UPDATE child SET note = note'))\n"
                          "with op.get_bind().engine.connect() as other:\n    other.execute(sa.text('SELECT 1'))",
    "another level": "engine = op.get_bind().engine.execution_options(isolation_level='SERIALIZABLE')\n"
                     "with engine.connect() as other:\n    other.execute(sa.text('SELECT 1'))",
    "a transaction without a statement": "with op.get_bind().engine.begin():\n    pass\nop.execute('SELECT 1')",
    "a failure that is rolled back": "with op.get_bind().engine.connect() as other:\n    try:\n"
                                     "        other.execute(sa.text('nonsense'))\n    except Exception:\n"
                                     "        other.rollback()\n    other.execute(sa.text('SELECT 1'))\n"
                                     "    other.commit()",
}


@pytest.mark.parametrize("migrate, apart", [(flask_migrate.Migrate, False), (appkit.Migrate, True)])
def test_what_sqlalchemy_runs_is_watched(url, tmp_path, migrate, apart):
    app = app_at(url, tmp_path, *SETUP, migrate=migrate, **({"transaction_per_migration": True} if apart else {}))
    write_history(app, HEARD)
    assert found(appkit.rehearse(app)) == []


@pytest.mark.parametrize("setup", [(), SETUP])
def test_revisions_that_one_run_commits_one_by_one_are_watched(url, tmp_path, monkeypatch, setup):
    monkeypatch.setattr(StandIn, "upgrade", lambda *_: pytest.fail("they were run again, each by itself"))
    app = app_at(url, tmp_path, *setup)
    for number in range(4):
        write_revision(app, str(number), f"op.create_table('t{number}', sa.Column('id', sa.Integer, primary_key=True))",
                       f"op.drop_table('t{number}')", follows=str(number - 1) if number else None)
    assert found(appkit.rehearse(app, downgrade=False)) == []


@pytest.mark.parametrize("comment", ["/* why */ ", "-- why\n", "\n  /* one */ -- two\n", "/* 100 % */ "])
def test_a_comment_before_a_statement_hides_nothing(any_url, tmp_path, comment):
    app = app_at(any_url, tmp_path, *SETUP)
    write_revision(app, "1", f"op.get_bind().exec_driver_sql({comment + GONE!r}.replace('%', '%%'))"
                             if any_url.get_backend_name() != "sqlite" else f"op.execute({comment + GONE!r})")
    assert found(appkit.rehearse(app, downgrade=False)) == [("loss", "values-changed", "parent.name")]


@pytest.mark.parametrize("statement", ["CREATE ROLE nobody_knows", "/* why */ CREATE ROLE nobody_knows",
                                       "DROP DATABASE {source}", "GRANT {user} TO {user}", "CREATE USER nobody_knows"])
def test_a_statement_that_reaches_past_the_copy_is_refused(url, tmp_path, statement):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", f"op.execute({statement.format(source=url.database, user=url.username)!r})")
    with pytest.raises(appkit.SourceTouchedError, match="A statement"):
        appkit.rehearse(app)


INDIRECT = {
    "15": ["DO $$ BEGIN CREATE ROLE nobody; EXCEPTION WHEN duplicate_object THEN NULL; END $$", "SELECT make()",
           "DO $$ BEGIN ALTER ROLE CURRENT_USER SET work_mem = '5MB'; END $$"],
    "mariadb": ["BEGIN NOT ATOMIC CREATE USER nobody; END", "EXECUTE IMMEDIATE 'CREATE USER nobody'"],
}


@pytest.mark.parametrize("server, text", [(server, text) for server, texts in INDIRECT.items() for text in texts])
def test_a_block_that_reaches_past_the_copy_is_refused(tmp_path, server, text):
    url = servers.new_database(server_of(server))
    made = ("CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql AS $$BEGIN CREATE ROLE nobody; END$$",)
    app = app_at(url, tmp_path, *SETUP, *(made if server == "15" else ()))
    write_revision(app, "1", f"op.execute({text!r})")
    with pytest.raises(appkit.SourceTouchedError, match="A statement"):
        appkit.rehearse(app)
    asked = "SELECT rolname FROM pg_roles" if server == "15" else "SELECT user FROM mysql.user"
    assert ("nobody",) not in servers.execute(url, asked)
    servers.drop_database(url)


@pytest.mark.parametrize("run", ["op.execute", "op.get_bind().connection.cursor().execute"])
@pytest.mark.parametrize("text", ["UPDATE {}.parent SET name = NULL", "/* why */ UPDATE {}.parent SET name = NULL",
                                  "SET STATEMENT max_statement_time = 60 FOR UPDATE {}.parent SET name = NULL",
                                  "BEGIN NOT ATOMIC UPDATE {}.parent SET name = NULL; END"])
def test_another_database_of_the_same_server_is_not_written_to(tmp_path, text, run):
    url = servers.new_database(servers.mariadb())
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", f"{run}({text.format(url.database)!r})")
    with pytest.raises(appkit.SourceTouchedError, match="A statement"):
        appkit.rehearse(app)
    assert servers.execute(url, "SELECT count(name) FROM parent") == [(2,)]


@pytest.mark.parametrize("apart", [False, True])
def test_locks_are_held_until_the_transaction_of_all_revisions_ends(tmp_path, apart):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, *SETUP, **({"transaction_per_migration": True} if apart else {}))
    write_revision(app, "1", "op.add_column('parent', sa.Column('a', sa.Integer))")
    write_revision(app, "2", "op.execute('SELECT pg_sleep(1.2)')", follows="1")
    rehearsal = appkit.rehearse(app, patience=0.9, downgrade=False)
    assert found(rehearsal) == ([] if apart else [("outage", "readers-wait", "parent")])


UNANNOUNCED = {
    "op.alter_column('t', 'n', comment=None, existing_comment='told')": [],
    "op.execute('DROP VIEW v')": [],
    "op.execute('DROP TYPE unused')": [],
    "op.drop_constraint('t_n_check', 't')": [],
    "op.drop_index('t_part', 't')": [],
    "op.rename_table('t', 't2')": [],
    "op.execute('ALTER TABLE t ALTER COLUMN m TYPE text USING m::text')": [],
    "op.execute('UPDATE t SET n = n')": [],
    "op.execute('ALTER TABLE t DROP COLUMN n CASCADE')": [
        ("loss", "objects-lost", "t.column n"), ("loss", "objects-lost", "v.v"), ("loss", "values-lost", "t.n")],
    "op.drop_table('t', schema='other')": [("loss", "rows-lost", "other.t")],
    "op.execute(\"UPDATE other.t SET name = 'y'\")": [("loss", "values-changed", "other.t.name")],
    "op.execute('ALTER TABLE part DETACH PARTITION part_1')": [],
    "op.execute('DROP TABLE part_1')": [("loss", "rows-lost", "part_1")],
}


@pytest.mark.parametrize("upgrade", UNANNOUNCED)
def test_what_only_postgresql_has_is_lost_when_nothing_announced_it(tmp_path, upgrade):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(
        url, tmp_path, "CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TYPE unused AS ENUM ('a')",
        "CREATE TABLE t (id serial PRIMARY KEY, m mood, n int CHECK (n > 0))", "INSERT INTO t (m, n) VALUES ('sad', 1)",
        "CREATE VIEW v AS SELECT id, n FROM t", "CREATE INDEX t_part ON t (n) WHERE n > 1",
        "COMMENT ON COLUMN t.n IS 'told'", "CREATE SCHEMA other", "CREATE TABLE other.t (id int PRIMARY KEY, name text)",
        "INSERT INTO other.t VALUES (1, 'x')", "CREATE TABLE part (id int, at date) PARTITION BY RANGE (at)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "INSERT INTO part VALUES (1, '2026-02-02')")
    write_revision(app, "1", upgrade)
    assert sorted(found(appkit.rehearse(app, downgrade=False))) == UNANNOUNCED[upgrade]
    servers.drop_database(url)


def test_mariadb_invents_values_for_a_column_without_default_and_that_is_told(tmp_path):
    url = servers.new_database(servers.mariadb())
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.add_column('parent', sa.Column('age', sa.Integer, nullable=False))",
                   "op.drop_column('parent', 'age')")
    write_revision(app, "2", "op.add_column('parent', sa.Column('size', sa.Integer, nullable=True))\n"
                             "op.execute('UPDATE parent SET size = 3')", "op.drop_column('parent', 'size')", follows="1")
    findings = appkit.rehearse(app).findings
    invented = findings[findings["finding"] == "values-invented"]
    assert invented[["revision", "severity", "where"]].values.tolist() == [["1", "warning", "parent.age"]]
    assert "all 3 rows get 0" in invented["evidence"].iloc[0]


def test_values_that_differ_are_given_as_python_has_them(tmp_path):
    from datetime import datetime, timezone
    from decimal import Decimal
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, p numeric(10, 2), at timestamptz, ok boolean)",
                 "INSERT INTO t VALUES (1, 1.50, '2026-01-02 03:04:05+00', true)")
    write_revision(app, "1", "op.execute(\"UPDATE t SET p = 2, at = at + interval '1 day', ok = NULL\")")
    rows = appkit.rehearse(app, downgrade=False).rows("t").values.tolist()
    day = [datetime(2026, 1, each, 3, 4, 5, tzinfo=timezone.utc) for each in (2, 3)]
    assert rows == [[1, "p", Decimal("1.5"), Decimal("2")], [1, "at", *day], [1, "ok", True, None]]
    assert type(rows[0][2]) is Decimal


HARMLESS = ["op.add_column('t', sa.Column('a', sa.Integer))",
            "op.add_column('t', sa.Column('b', sa.Integer, server_default='3', nullable=False))",
            "op.alter_column('t', 's', type_=sa.String(50))", "op.alter_column('t', 's', type_=sa.Text)",
            "op.alter_column('t', 'n', server_default='5')", "op.alter_column('t', 'n', new_column_name='m')",
            "op.execute('ALTER TABLE t ADD CONSTRAINT pos CHECK (n > 0) NOT VALID')",
            "op.execute('ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES p (id) NOT VALID')",
            "op.create_table('new', sa.Column('id', sa.Integer, primary_key=True))\nop.create_index('new_i', 'new', ['id'])",
            "with op.get_context().autocommit_block():\n    op.create_index('t_n', 't', ['n'], postgresql_concurrently=True)"]
HARMFUL = {"op.alter_column('t', 'n', nullable=False)": {("full-scan-under-lock", "t")},
           "op.create_index('t_n', 't', ['n'])": {("full-scan-under-lock", "t")},
           "op.alter_column('t', 'n', type_=sa.BigInteger)": {("table-rewritten", "t")},
           "op.create_check_constraint('pos', 't', 'n > 0')": {("full-scan-under-lock", "t")},
           "op.create_foreign_key('f', 't', 'p', ['n'], ['id'])": {("full-scan-under-lock", "t"),
                                                                  ("full-scan-under-lock", "p")},
           "op.execute('ALTER TABLE t ADD COLUMN u float8 DEFAULT random()')": {("table-rewritten", "t")}}


@pytest.mark.parametrize("upgrade", [*HARMLESS, *HARMFUL])
def test_what_takes_longer_with_the_rows_is_told_and_its_harmless_twin_is_not(tmp_path, upgrade):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, "CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1), (2)",
                 "CREATE TABLE t (id int PRIMARY KEY, n int, s varchar(20))",
                 "INSERT INTO t SELECT g, 1, 'x' FROM generate_series(1, 2000) g")
    write_revision(app, "1", upgrade)
    findings = appkit.rehearse(app, downgrade=False).findings
    told = {(row.finding, row.where) for row in findings.itertuples()
            if row.finding not in ("drift", "values-invented")}
    assert told == HARMFUL.get(upgrade, set())
    servers.drop_database(url)


def test_the_copy_may_be_made_on_another_server(tmp_path):
    url, other = servers.new_database(servers.postgresql("15")), servers.postgresql("18")
    app = app_at(url, tmp_path, *SETUP, f'ALTER DATABASE "{url.database}" SET timezone TO \'Asia/Kolkata\'')
    write_revision(app, "1", "op.drop_column('parent', 'name')\nop.execute(\"CREATE TABLE zone AS "
                             "SELECT current_setting('timezone') AS name, current_setting('server_version') AS v\")")
    before = contents(url)
    rehearsal = appkit.rehearse(app, downgrade=False, copy_to=other.render_as_string(hide_password=False))
    assert found(rehearsal) == [("loss", "values-lost", "parent.name")]
    assert rehearsal.table("zone")["name"].tolist() == ["Asia/Kolkata"]
    assert rehearsal.table("zone")["v"][0].startswith("18")
    assert contents(url) == before
    del rehearsal
    gc.collect()
    assert not {name for name in servers.databases(other) if name.startswith("appkit_")}
    servers.drop_database(url)


def test_locks_end_where_a_later_revision_commits_to_run_outside_of_the_transaction(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.add_column('parent', sa.Column('a', sa.Integer))")
    write_revision(app, "2", "with op.get_context().autocommit_block():\n    op.execute('SELECT pg_sleep(1.2)')\n"
                             "    op.execute('VACUUM child')", follows="1")
    assert found(appkit.rehearse(app, patience=0.9, downgrade=False)) == []


def test_a_look_at_a_few_rows_is_no_full_scan(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, "CREATE TABLE t (id int, n int)", "INSERT INTO t SELECT g, g FROM generate_series(1, 9000) g")
    write_revision(app, "1", "op.add_column('t', sa.Column('a', sa.Integer))\nop.execute('SELECT * FROM t LIMIT 3')")
    findings = appkit.rehearse(app, downgrade=False).findings
    assert "full-scan-under-lock" not in set(findings["finding"])


def test_locks_end_where_the_migration_commits_by_itself(tmp_path):
    url = servers.new_database(servers.postgresql("18"))
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "op.add_column('parent', sa.Column('a', sa.Integer))\nop.execute('COMMIT')\n"
                             "op.execute('SELECT pg_sleep(1.2)')\nop.execute('UPDATE child SET note = 2 WHERE id = 1')")
    rehearsal = appkit.rehearse(app, patience=0.9, downgrade=False)
    assert found(rehearsal) == [("loss", "values-changed", "child.note")]


def test_a_source_that_somebody_has_locked_is_not_waited_for_without_end(url, tmp_path, monkeypatch):
    app = app_at(url, tmp_path, *SETUP)
    write_revision(app, "1", "pass")
    monkeypatch.setattr("appkit.databases.mariadb.copies._PATIENCE", 1)
    monkeypatch.setattr("appkit.databases.postgresql.dumps._PATIENCE", 1000)
    engine = sa.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        mariadb = url.get_backend_name() == "mariadb"
        connection.exec_driver_sql("LOCK TABLES parent WRITE" if mariadb else "LOCK TABLE parent IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(appkit.RehearsalError, match="holds a lock"):
            appkit.rehearse(app)
    engine.dispose()
