"""The README says what is true: its paths, links, commands, names and its picture of a result."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
from apps import write_revision

import appkit
from appkit.cli import rehearse as command

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_every_notebook_is_in_the_table_and_none_else():
    listed = re.findall(r"notebooks/(\d\d-[\w-]+\.ipynb)", README)
    assert listed == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_every_folder_of_the_top_level_is_in_the_map():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    folders = {path.split("/")[0] for path in tracked.splitlines() if "/" in path and not path.startswith(".")}
    assert folders == {"appkit", "benchmarks", "migrations", "notebooks", "tests"}
    assert all(f"({name})" in README for name in folders)


def test_the_figures_are_those_that_were_measured():
    section = README.split("## Large tables")[1].split("\n## ")[0]
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    figures = re.findall(r"[\d,.]+ (?:s|MB|cores|GB)\b|\d{4}-\d\d-\d\d", section)
    assert len(figures) > 10 and [figure for figure in figures if figure not in measured] == []


def test_every_make_target_is_there():
    targets = re.findall(r"^make (\w+)", BLOCKS["sh"], re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["lab", "test"] and all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_name_it_uses_is_public():
    used = set(re.findall(r"appkit\.(\w+)\(", README)) | set(re.findall(r"`appkit\.(\w+)`", README))
    assert used and used <= set(appkit.__all__)
    assert {"--json"} <= {option for parameter in command.params for option in parameter.opts}


def test_every_finding_it_explains_is_one_and_none_is_missing():
    explained = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", README.split("| finding | means |")[1].split("##")[0]))
    source = "".join((ROOT / "appkit" / name).read_text() for name in ("findings.py", "drift.py"))
    given = set(re.findall(r'"(?:loss|failure|warning|outage)", "([a-z-]+)"', source))
    given = given - {"outage"} | {"values-lost", "values-changed", "not-reversible", "readers-wait", "writers-wait"}
    assert explained == given


def test_the_picture_is_what_rehearse_prints():
    app = appkit.demo(rows=120)
    write_revision(app, "0005", """
        with op.batch_alter_table("post") as batch:
            batch.add_column(sa.Column("headline", sa.String(200), nullable=False, server_default=""))
            batch.drop_column("title")
    """, """
        with op.batch_alter_table("post") as batch:
            batch.add_column(sa.Column("title", sa.String(200), nullable=False, server_default=""))
            batch.drop_column("headline")
    """, follows="0004")
    printed = str(appkit.rehearse(app)).splitlines()
    picture = BLOCKS["text"].splitlines()[1:]
    assert picture == printed[:len(picture)]


def test_it_is_short():
    assert len(README.splitlines()) < 120


def test_python_says_so_when_it_is_too_old():
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "version_info" in line)
    code = re.search(r'-c "([^"]+)"', line)[1].replace("(3, 11)", "(99, 0)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
