"""One rehearsal on SQLite, PostgreSQL and MariaDB: what the table of verdicts says of each."""
import gc
import warnings

import flask_migrate
import pandas as pd
import pytest
import servers
import sqlalchemy as sa
from apps import IGNORED, make_app, write_revision

import appkit

pytestmark = pytest.mark.filterwarnings(IGNORED)
NAMES = ["SQLite", "PostgreSQL", "MariaDB"]
SETUP = ("CREATE TABLE post (id integer PRIMARY KEY, code varchar(20), price numeric(10, 3), n integer)",
         "INSERT INTO post VALUES (1, '7', 1.125, 1), (2, 'abc', 2.5, NULL)")


@pytest.fixture
def apps(tmp_path):
    made, urls = {}, []
    for name, server in zip(NAMES, (None, servers.postgresql("18"), servers.mariadb())):
        folder = tmp_path / name
        folder.mkdir()
        urls += [servers.new_database(server)] if server else []
        url = urls[-1].render_as_string(hide_password=False) if server else f"sqlite:///{folder / 'app.db'}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made[name] = make_app(folder, url=url, foreign_keys=False)
        for statement in SETUP:
            servers.execute(sa.make_url(url), statement)
    yield made
    made.clear()
    gc.collect()
    for url in urls:
        left = {name for name in servers.databases(url) if name.startswith("appkit_")}
        servers.drop_database(url)
        assert left == set()


def write(apps, revision, upgrade, follows=None, **more):
    for app in apps.values():
        write_revision(app, revision, upgrade, follows=follows, **more)


def alter(column, change):
    return f"with op.batch_alter_table('post') as batch:\n    batch.alter_column({column!r}, {change})"


def compared(apps, *rows, **options):
    expected = pd.DataFrame(list(rows), columns=["revision", *apps], dtype="string")
    pd.testing.assert_frame_equal(appkit.compare_databases(apps, **{"patience": 60, **options}), expected)


def test_what_is_safe_here_loses_there_and_fails_elsewhere(apps):
    write(apps, "1", "op.add_column('post', sa.Column('note', sa.String(10)))")
    write(apps, "2", alter("price", "existing_type=sa.Numeric(10, 3), type_=sa.Numeric(10, 1)"), "1")
    write(apps, "3", alter("code", "existing_type=sa.String(20), type_=sa.Integer(), postgresql_using='code::integer'"), "2")
    write(apps, "4", "op.drop_column('post', 'note')", "3")
    compared(apps, ("1", "safe", "safe", "safe"),
             ("2", "safe", "loses: values-changed post.price; rewrites: post",
              "loses: values-changed post.price; rewrites: post"),
             ("3", "loses: values-changed post.code", "fails", "fails"),
             ("4", "safe", "not reached", "not reached"), downgrade=False)


def test_what_stays_of_a_failed_revision_is_told(apps):
    write(apps, "1", "op.add_column('post', sa.Column('note', sa.String(10)))\nop.execute('nonsense')")
    compared(apps, ("1", "fails: half-applied", "fails", "fails: half-applied"), downgrade=False)


def test_a_lock_is_told_where_locks_are_seen(apps):
    write(apps, "1", alter("n", "existing_type=sa.Integer(), type_=sa.BigInteger()"))
    compared(apps, ("1", "safe", "locks: readers-wait post; rewrites: post", "locks: writers-wait post; rewrites: post"),
             patience=0, downgrade=False)


def test_the_same_finding_is_told_once_and_several_together(apps):
    write(apps, "1", "op.drop_column('post', 'code')\nop.drop_column('post', 'price')",
          downgrade="op.execute('nonsense')")
    told = "fails: not-reversible; loses: values-lost post.code, values-lost post.price"
    compared(apps, ("1", told, told, told))


def test_a_database_that_is_ahead_has_less_to_do(apps):
    write(apps, "1", "op.add_column('post', sa.Column('note', sa.String(10)))")
    write(apps, "2", "op.drop_column('post', 'n')", "1")
    with apps["SQLite"].app_context():
        flask_migrate.upgrade(revision="1")
    compared(apps, ("1", "not pending", "safe", "safe"), to="1", downgrade=False)
    lost = "loses: values-lost post.n"
    compared(apps, ("1", "not pending", "safe", "safe"), ("2", lost, lost, lost), downgrade=False)


def test_nothing_pending_is_an_empty_table(apps):
    compared(apps)


def test_a_database_that_cannot_be_rehearsed_says_why(apps, tmp_path):
    write(apps, "1", "op.drop_column('post', 'n')")
    url = appkit.databases.engine_of(apps["PostgreSQL"]).url.set(port=1).render_as_string(hide_password=False)
    gone = make_app(tmp_path / "PostgreSQL", url=url, foreign_keys=False)
    told = appkit.compare_databases({"gone": gone, "MariaDB": apps["MariaDB"]}, downgrade=False).iloc[0]
    assert told["MariaDB"] == "loses: values-lost post.n"
    assert told["gone"].startswith("not rehearsed: ") and "refused" in told["gone"]
    with pytest.raises(appkit.AppkitError, match="refused"):
        appkit.compare_databases({"gone": gone})


def test_a_name_that_is_taken_is_refused(apps):
    with pytest.raises(appkit.AppkitError, match="'revision'"):
        appkit.compare_databases({"revision": apps["SQLite"]})
