"""Revisions in one run of env.py or each in its own: what is seen is the same, and nothing that was not committed counts."""
import shutil
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from apps import IGNORED, make_app, read_sql, write_revision
from flask import Flask

import appkit
from appkit import rehearsal as room
from appkit.progress import announce, asked_progress, progress

pytestmark = pytest.mark.filterwarnings(IGNORED)

SETUP = """CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT, n INTEGER);
           INSERT INTO thing VALUES (1, 'a', 1), (2, 'b', 2), (3, NULL, 3);
           CREATE TABLE other (id INTEGER PRIMARY KEY, thing_id INTEGER REFERENCES thing (id) ON DELETE CASCADE);
           INSERT INTO other VALUES (1, 1), (2, 3);"""
RAW = "op.get_bind().connection.driver_connection.execute('UPDATE thing SET n = n + 1')"
HISTORIES = {
    "kept": ["op.add_column('thing', sa.Column('more', sa.Integer))", "op.create_table('new', sa.Column('id', sa.Integer))",
             "with op.batch_alter_table('thing') as b: b.alter_column('n', type_=sa.Text())"],
    "the same statement twice": [f"{RAW}", "op.execute('UPDATE other SET id = id + 10')", f"{RAW}"],
    "lost": ["op.execute('DELETE FROM thing WHERE id = 3')", "op.drop_column('thing', 'name')", "op.drop_table('other')"],
    "the second fails": ["op.execute('UPDATE thing SET n = 7')", "op.execute('UPDATE thing SET n = 8'); op.execute('no')",
                         "op.drop_table('thing')"],
    "the first fails": ["raise ValueError('as asked')", "pass"],
}
COMPARED = ("findings", "ledger", "columns", "schema")


def write_history(app: Flask, bodies: list[str]) -> None:
    for number, body in enumerate(bodies, 1):
        write_revision(app, f"{number}", body, follows=f"{number - 1}" if number > 1 else None)


def end_env_py(folder: Path, text: str) -> None:
    env = folder / "migrations" / "env.py"
    env.write_text(env.read_text() + text)


def seen(rehearsal: appkit.Rehearsal) -> list[pd.DataFrame]:
    return [getattr(rehearsal, name) for name in COMPARED] + [rehearsal.statements.drop(columns="seconds")]


@pytest.mark.parametrize("migrate", [None, appkit.Migrate], ids=["Flask-Migrate", "appkit"])
@pytest.mark.parametrize("bodies", HISTORIES.values(), ids=HISTORIES)
def test_all_at_once_shows_what_each_by_itself_shows(tmp_path, monkeypatch, bodies, migrate):
    app = make_app(tmp_path, SETUP, **({"migrate": migrate} if migrate else {}))
    write_history(app, bodies)
    together = appkit.rehearse(app, downgrade=False)
    monkeypatch.setattr(room._Run, "_run_at_once", lambda *_: False)
    singly = appkit.rehearse(app, downgrade=False)
    for one, other in zip(seen(together), seen(singly)):
        pd.testing.assert_frame_equal(one, other)
    assert list(together.work["work"]) == list(singly.work["work"])
    assert list(together.work["revision"]) == list(singly.work["revision"])


def test_env_py_runs_once_for_all_revisions(tmp_path):
    app = make_app(tmp_path, SETUP)
    write_history(app, ["pass"] * 20)
    app.config["RUNS"] = runs = []
    end_env_py(tmp_path, "\ncurrent_app.config['RUNS'].append(1)\n")
    assert appkit.rehearse(app, downgrade=False).safe
    assert len(runs) < 5


def test_what_is_committed_only_in_the_end_is_seen_all_the_same(tmp_path):
    app = make_app(tmp_path, SETUP)
    env = tmp_path / "migrations" / "env.py"
    text = env.read_text()
    env.write_text(text.replace("with connectable.connect() as connection:", "with connectable.begin() as connection:"))
    assert env.read_text() != text
    write_history(app, ["op.execute('UPDATE thing SET n = n + 1')", "op.execute('DELETE FROM thing WHERE id = 3')"])
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert rehearsal.revisions == ("1", "2") and not rehearsal.safe
    assert [tuple(row) for row in rehearsal.ledger.query("table == 'thing'")[["revision", "changed", "lost"]].values] == \
        [("1", 3, 0), ("2", 0, 1)]
    assert read_sql(tmp_path / "app.db", "SELECT count(*), sum(n) FROM thing") == [(3, 6)]


def test_an_env_py_that_fails_after_the_last_revision_fails_it(tmp_path):
    app = make_app(tmp_path, SETUP)
    end_env_py(tmp_path, """
with get_engine().connect() as connection:
    if connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE sql LIKE '%more%'").first():
        raise RuntimeError("after all")
""")
    write_history(app, ["op.execute('UPDATE thing SET n = n + 1')", "op.add_column('thing', sa.Column('more', sa.Integer))"])
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert set(rehearsal.findings.query("severity == 'failure'")["revision"]) == {"2"}
    assert "after all" in str(rehearsal)


def test_what_env_py_does_after_the_last_revision_is_seen(tmp_path):
    app = make_app(tmp_path, SETUP)
    end_env_py(tmp_path, """
with get_engine().begin() as connection:
    if connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE sql LIKE '%more%'").first():
        connection.exec_driver_sql("DELETE FROM thing WHERE id = 2")
""")
    write_history(app, ["op.add_column('thing', sa.Column('more', sa.Integer))"])
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert rehearsal.ledger.query("table == 'thing'")["lost"].tolist() == [1] and not rehearsal.safe


# ---- what it needs, and where the time goes

def test_a_rehearsal_that_would_not_fit_stops_with_the_figure(tmp_path, monkeypatch):
    app = make_app(tmp_path, SETUP)
    write_history(app, ["pass"])
    free = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: free)
    with pytest.raises(appkit.RehearsalError, match=r"takes up to 0\.\d MB of disk in .*0\.1 MB are free.*downgrade=False"):
        appkit.rehearse(app)


def test_what_no_revision_reaches_is_counted_and_not_read(tmp_path):
    app = make_app(tmp_path, SETUP)
    write_history(app, ["op.execute('UPDATE other SET id = id + 10')"])
    rehearsal = appkit.rehearse(app)
    assert not rehearsal.work["work"].str.contains("thing").any()
    assert list(rehearsal.ledger.query("table == 'thing'")["kept"]) == [3]
    assert rehearsal.table("thing")["name"].tolist() == ["a", "b", pd.NA]


def test_a_cascade_is_a_reason_to_read(tmp_path):
    app = make_app(tmp_path, SETUP)
    write_history(app, ["op.execute('DELETE FROM thing WHERE id = 3')"])
    rehearsal = appkit.rehearse(app, downgrade=False)
    assert "rows-lost other" in " ".join(rehearsal.findings["finding"] + " " + rehearsal.findings["where"]) or \
        "children-lost other" in " ".join(rehearsal.findings["finding"] + " " + rehearsal.findings["where"])


def test_work_says_what_was_done_in_which_revision(tmp_path):
    app = make_app(tmp_path, SETUP)
    write_history(app, ["op.execute('UPDATE thing SET n = n + 1')", "pass"])
    work = appkit.rehearse(app, downgrade=False).work
    told = [tuple(row) for row in work[["revision", "work"]].values]
    assert told[0] == ("", "copying the database")
    assert ("1", "running upgrade()") in told and ("2", "running upgrade()") in told
    assert work["seconds"].ge(0).all() and str(work["rows"].dtype) == "Int64"
    assert work[work["work"] == "keeping thing"]["rows"].tolist() == [3, 3]


# ---- what is shown

def test_nothing_is_shown_where_nobody_looks_on(tmp_path, capfd):
    app = make_app(tmp_path, SETUP)
    write_history(app, ["op.execute('UPDATE thing SET n = n + 1')"])
    appkit.rehearse(app)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_is_shown_rows_and_rate(monkeypatch):
    class Terminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("appkit.progress._DELAY", 0)
    with progress("keeping thing", 2000) as tell:
        tell(500)
        tell(1500)
    with progress("keeping what was not counted") as tell:
        tell(7)
    assert "keeping what was not counted: " in terminal.text  # without a total
    with announce("running upgrade()"):
        pass
    with asked_progress("comparing thing", 5000, lambda: 50):
        time.sleep(0.4)
    assert "keeping thing" in terminal.text and "2.00k" in terminal.text and "rows/s" in terminal.text
    assert "running upgrade() …" in terminal.text
    assert "comparing thing:  50%" in terminal.text and "5.00k/5.00k" in terminal.text
    assert not [thread for thread in threading.enumerate() if "look" in thread.name or "TMonitor" in str(thread)]


def test_a_cell_that_cannot_be_asked_is_not_shown_anything(monkeypatch, capfd):
    class Kernel:
        stdin = False

        def get_parent(self, channel: str) -> dict:
            return {"content": {"allow_stdin": self.stdin}}

    class Shell:
        kernel = Kernel()

    monkeypatch.setitem(sys.modules, "IPython", type(sys)("IPython"))
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: Shell, raising=False)
    with announce("running"):
        pass
    assert capfd.readouterr() == ("", "")
    Kernel.stdin = True
    with announce("running"):
        pass
    assert "running …" in capfd.readouterr().out
