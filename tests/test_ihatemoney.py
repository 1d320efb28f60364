"""A real app's history, on rows: ihatemoney, in an environment of its own with appkit beside it.

What must be seen is worked out here from ihatemoney's revision scripts, by reading them; the reason stands beside each
number. ihatemoney_history.py says which rows there are. Making the environment takes about a minute, once; then 15 s.
"""
import fcntl
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PIN = "ihatemoney==7.2.1"


class Values(NamedTuple):
    """What a revision does to a column's values; all others are kept."""

    changed: int = 0
    lost: int = 0
    filled: int = 0
    new: bool = False
    gone: bool = False


class Effect(NamedTuple):
    """What a revision does: the rows that it changes, by table, and the values, by table.column."""

    rows: dict[str, int] = {}
    values: dict[str, Values] = {}


# ---- what the scripts do to `members`: from 26d6a218c329 on, 12 projects, 3000 persons, 4000 bills

_LOG = "transaction_id end_transaction_id operation_type"
_LOG_TABLES = {
    "bill_version": f"id payer_id amount date creation_date what external_link archive {_LOG}",
    "billowers_version": f"bill_id person_id {_LOG}",
    "person_version": f"id project_id name weight activated {_LOG}",
    "project_version": f"id name password contact_email logging_preference {_LOG}",
    "transaction": "issued_at id remote_addr",
}
_LOG_COLUMNS = [f"{table}.{name}" for table, names in _LOG_TABLES.items() for name in names.split()]


def _from_autoincrement(projects: int, preferences: Effect) -> dict[str, Effect]:
    """Give what the revisions from cb038f79982e on do: alike for `members` and `logged`, but for the last."""
    return {
        # Recreates person, bill and billowers with AUTOINCREMENT: every row is copied.
        "cb038f79982e": Effect(),
        # Six columns. bill.original_currency and project.default_currency have a server default, which every row gets;
        # UPDATE bill SET converted_amount = amount: NULL stays for the 500 of 4000 bills (i % 8 == 0) without amount.
        "927ed575acbd": Effect(values={
            "bill.converted_amount": Values(filled=3500, new=True),
            "bill.original_currency": Values(filled=4000, new=True),
            "bill_version.converted_amount": Values(new=True),
            "bill_version.original_currency": Values(new=True),
            "project.default_currency": Values(filled=projects, new=True),
            "project_version.default_currency": Values(new=True),
        }),
        # bill.bill_type has a server default, bill_version.bill_type none.
        "7a9b38559992": Effect(values={"bill.bill_type": Values(filled=4000, new=True),
                                       "bill_version.bill_type": Values(new=True)}),
        # Does nothing on SQLite: @skip_if_sqlite.
        "06884b17c50f": Effect(),
        "c941aaca38c2": preferences,
    }


MEMBERS = {
    # UPDATE person SET weight = 1 WHERE weight IS NULL: i % 10 == 0, 300 of 3000.
    "f629c8ef4ab0": Effect({"person": 300}, {"person.weight": Values(filled=300)}),
    # Every project gets a hash for its password; also for the empty one.
    "b78f8a8bdb16": Effect({"project": 12}, {"project.password": Values(changed=12)}),
    # ALTER TABLE … ADD COLUMN without default.
    "afbf27e6ef20": Effect(values={"bill.creation_date": Values(new=True)}),
    # UPDATE person SET weight = 1 WHERE weight <= 0: i % 10 in (1, 2), 600 of 3000; those that the first revision set
    # to 1 are not among them, nor is the text 'heavy', which SQLite sorts above all numbers.
    "a67119aa3ee5": Effect({"person": 600}, {"person.weight": Values(changed=600)}),
    "6c6fb2b7f229": Effect(values={"bill.external_link": Values(new=True)}),
    # Five new tables, and project is recreated with a column whose server default every row gets.
    "2dcb0c0048dc": Effect(values={"project.logging_preference": Values(filled=12, new=True),
                                   **{name: Values(new=True) for name in _LOG_COLUMNS}}),
    # Every preference is the default of 2dcb0c0048dc, none is RECORD_IP; transaction, whose column goes, is empty.
    **_from_autoincrement(12, Effect(values={"transaction.remote_addr": Values(gone=True)})),
}

# From 2dcb0c0048dc on, with rows in all ten tables.
# UPDATE project SET logging_preference = 'ENABLED' WHERE it is 'RECORD_IP': i % 4 == 2, 500 of 2000. project_version
# keeps its own. The column remote_addr of transaction goes, with the 2000 of 3000 values (i % 3 != 0) in it.
LOGGED = _from_autoincrement(2000, Effect({"project": 500}, {
    "project.logging_preference": Values(changed=500), "transaction.remote_addr": Values(lost=2000, gone=True)}))

# Where the scripts and the models disagree: three columns with a server default in the script and none in the model;
# bill_version.bill_type, text in the script, an enumeration in the model; project.logging_preference, one character
# shorter in the script, since LoggingMode still has RECORD_IP; the length of the password in project_version, which
# 06884b17c50f leaves alone on SQLite; and the composite key of billowers, which no revision ever made.
DRIFT = {"bill.bill_type", "bill.original_currency", "bill_version.bill_type", "billowers", "billowers.bill_id",
         "billowers.person_id", "project.default_currency", "project.logging_preference", "project_version.password"}

# Severity, finding, where, and how the evidence begins, by revision. A revision that is not here has none, and an exact
# downgrade: those that drop a column or table again (since SQLite 3.35 there is DROP COLUMN), and cb038f79982e's, which
# recreates the three tables without AUTOINCREMENT.
def _of_defaults(projects: int) -> dict[str, list[tuple[str, ...]]]:
    return {
        "927ed575acbd": [
            ("warning", "values-invented", "bill.original_currency", "all 4000 rows get 'XXX'"),
            ("warning", "values-invented", "project.default_currency", f"all {projects} rows get 'XXX'")],
        "7a9b38559992": [("warning", "values-invented", "bill.bill_type", "all 4000 rows get 'EXPENSE'")],
    }


MEMBERS_FINDINGS = {
    # The downgrade is `pass`: the ones stay where NULL was. Nothing that was there is lost.
    "f629c8ef4ab0": [
        ("warning", "values-invented", "person.weight", "300 of 3000 rows had NULL, now: 1.0"),
        ("warning", "not-reversible", "", "schema only: after the downgrade, person: 300 NULLs filled")],
    # The downgrade is `pass`: no hash gives its password back.
    "b78f8a8bdb16": [("loss", "values-changed", "project.password", "12 of 12 rows: "),
                     ("warning", "not-reversible", "", "schema only: after the downgrade, project: 12 values")],
    # The downgrade is `pass`: what the weights were is gone.
    "a67119aa3ee5": [
        ("loss", "values-changed", "person.weight", "600 of 3000 rows: id=1: 0.0 → 1.0; id=2: -1.5 → 1.0; id=11: "),
        ("warning", "not-reversible", "", "schema only: after the downgrade, person: 600 values")],
    "2dcb0c0048dc": [("warning", "values-invented", "project.logging_preference", "all 12 rows get 'ENABLED'")],
    **_of_defaults(12),
    # The upgrade widens project.password to 256, the downgrade does not narrow it.
    "c941aaca38c2": [("warning", "not-reversible", "", "lossy: after the downgrade, changed column project.password")],
}
LOGGED_FINDINGS = {
    **_of_defaults(2000),
    # "no rollback for data migration", says the downgrade; remote_addr comes back empty.
    "c941aaca38c2": [
        ("loss", "values-changed", "project.logging_preference", "500 of 2000 rows: "),
        ("loss", "values-lost", "transaction.remote_addr", "2000 of 3000 rows held a value"),
        ("warning", "not-reversible", "",
         "lossy: after the downgrade, changed column project.password; project: 500 values")],
}

# What differs in the catalogue; of a new table, the table and its indexes.
SCHEMA = {
    "afbf27e6ef20": {"added column bill.creation_date"},
    "6c6fb2b7f229": {"added column bill.external_link"},
    "2dcb0c0048dc": {
        "added column project.logging_preference", *(f"added table {name}.{name}" for name in _LOG_TABLES),
        *(f"added index {table}.ix_{table}_{name}" for table in _LOG_TABLES if table != "transaction"
          for name in _LOG.split())},
    # billowers has no key, so there is nothing that AUTOINCREMENT could count.
    "cb038f79982e": {"changed table bill.bill", "changed table person.person"},
    "927ed575acbd": {f"added column {name}" for name in _from_autoincrement(0, Effect())["927ed575acbd"].values},
    "7a9b38559992": {"added column bill.bill_type", "added column bill_version.bill_type"},
    "c941aaca38c2": {"changed column project.password", "changed column project.logging_preference",
                     "removed column transaction.remote_addr"},
}


# ---- the environment

def _run(*command: str | Path, **options: Any) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **options)
    assert ran.returncode == 0, f"It stopped with {ran.returncode}:\n{ran.stdout[-1000:]}{ran.stderr[-3000:]}"
    return ran.stdout


def _build(folder: Path) -> None:
    """Make the environment, unless it is there and still what pyproject.toml asks for."""
    wanted = "\n".join([PIN, sys.version, str(ROOT), (ROOT / "pyproject.toml").read_text(encoding="utf-8")])
    stamp = folder / "made-for"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", folder)
    _run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         PIN, "--editable", ROOT)  # asked for at once, so that pip must find versions that suit both
    stamp.write_text(wanted, encoding="utf-8")


@pytest.fixture(scope="module")
def python(pytestconfig) -> Path:
    """The interpreter of an environment in which ihatemoney chose the versions; no network is a failure, not a skip."""
    cache = pytestconfig.cache.mkdir("ihatemoney")
    with open(cache / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest may want to make it
        _build(cache / "environment")
    return cache / "environment" / "bin" / "python"


@pytest.fixture(scope="module")
def seen(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What was seen with flask_migrate's Migrate (`stock`), and with ours (`appkit`)."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("stock", "appkit")}

    def rehearse(kind: str) -> dict[str, Any]:
        scratch = folders[kind] / "scratch"
        scratch.mkdir()
        output = _run(python, "-I", ROOT / "tests" / "ihatemoney_history.py", kind, folders[kind],
                      env={**os.environ, "TMPDIR": str(scratch)}, cwd=folders[kind])
        return {**json.loads(output), "scratch": sorted(each.name for each in scratch.iterdir()), "output": output}

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(folders, pool.map(rehearse, folders)))


# ---- what the effects above mean for the frames

def _expected_columns(counts: dict[str, dict[str, int]], effects: dict[str, Effect]) -> dict:
    """Follow every column, from the counts that sqlite3 gave, through the revisions."""
    held = {f"{table}.{name}": count for table, columns in counts.items() for name, count in columns.items() if name}
    expected = {}
    for revision, effect in effects.items():
        held.update({column: 0 for column, values in effect.values.items() if values.new})
        for column, count in list(held.items()):
            now = effect.values.get(column, Values())
            was = "" if now.new else column.split(".")[1]
            expected[revision, column] = [was, count - now.changed - now.lost, now.changed, now.lost, now.filled]
            held[column] = count - now.lost + now.filled
            if now.gone:
                del held[column]
    return expected


def _expected_ledger(counts: dict[str, dict[str, int]], effects: dict[str, Effect]) -> dict:
    rows = {table: columns[""] for table, columns in counts.items()}
    expected = {}
    for revision, effect in effects.items():
        rows.update({column.split(".")[0]: 0 for column in effect.values if column.split(".")[0] not in rows})
        for table, count in rows.items():
            changed = effect.rows.get(table, 0)
            expected[revision, table] = [count, count, count - changed, changed, 0, 0]
    return expected


def _findings(seen: dict, *without: str) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    for row in seen["findings"]:
        if row["finding"] not in without:
            found.setdefault(row["revision"], []).append(
                tuple(row[name] or "" for name in ("severity", "finding", "where", "evidence")))
    return found


def _cut(found: dict[str, list[tuple]], expected: dict[str, list[tuple]]) -> dict[str, list[tuple]]:
    """Cut each evidence to the length of the beginning that is expected in its place."""
    return {revision: [(*row[:3], row[3][:len(wanted[3])]) for row, wanted in zip(rows, expected.get(revision, []))]
            + rows[len(expected.get(revision, [])):] for revision, rows in found.items()}


KINDS = pytest.mark.parametrize("kind", ["stock", "appkit"])
HISTORIES = pytest.mark.parametrize("name", ["members", "logged"])
EFFECTS = {"members": MEMBERS, "logged": LOGGED}
FINDINGS = {"members": MEMBERS_FINDINGS, "logged": LOGGED_FINDINGS}


# ---- the claims

def test_appkit_installs_beside_the_versions_that_ihatemoney_wants(python, seen):
    assert seen["stock"]["sqlalchemy"].startswith("2.0.") and f"ihatemoney=={seen['stock']['ihatemoney']}" == PIN
    assert "No broken requirements" in _run(python, "-m", "pip", "--disable-pip-version-check", "check")


@KINDS
@HISTORIES
def test_every_row_of_every_table_has_its_place_in_the_ledger(seen, kind, name):
    shown = seen[kind][name]
    assert shown["reached"] == "c941aaca38c2" and shown["revisions"] == list(EFFECTS[name])
    parts = ("before", "after", "kept", "changed", "lost", "added")
    ledger = {(row["revision"], row["table"]): [row[part] for part in parts] for row in shown["ledger"]}
    assert ledger == _expected_ledger(shown["counts"], EFFECTS[name])


@KINDS
@HISTORIES
def test_every_value_of_every_column_has_its_place_too(seen, kind, name):
    shown = seen[kind][name]
    columns = {(row["revision"], f"{row['table']}.{row['column']}"):
               [row["was"] or "", row["kept"], row["changed"], row["lost"], row["filled"]] for row in shown["columns"]}
    assert columns == _expected_columns(shown["counts"], EFFECTS[name])


@KINDS
@HISTORIES
def test_the_findings_are_these_and_no_others(seen, kind, name):
    assert _cut(_findings(seen[kind][name], "drift"), FINDINGS[name]) == FINDINGS[name]
    assert not seen[kind][name]["safe"]


@KINDS
@HISTORIES
def test_the_models_drift_from_the_history_where_the_scripts_say_otherwise(seen, kind, name):
    drift = [row for row in seen[kind][name]["findings"] if row["finding"] == "drift"]
    assert {row["where"] for row in drift} == DRIFT
    assert {(row["revision"], row["severity"]) for row in drift} == {("c941aaca38c2", "warning")}


@KINDS
@HISTORIES
def test_the_catalogue_differs_by_what_the_scripts_do(seen, kind, name):
    found: dict[str, set[str]] = {}
    for row in seen[kind][name]["schema"]:
        new_table = row["revision"] == "2dcb0c0048dc" and row["table"] in _LOG_TABLES
        # A counter is no object of the schema, and depends on the rows.
        if row["kind"] != "sequence" and not (new_table and row["kind"] not in ("table", "index")):
            found.setdefault(row["revision"], set()).add(f"{row['change']} {row['kind']} {row['table']}.{row['name']}")
    assert found == {revision: changes for revision, changes in SCHEMA.items() if revision in EFFECTS[name]}


@HISTORIES
def test_a_real_upgrade_read_by_sqlite3_alone_gives_the_same_numbers(seen, name):
    total: dict[str, list[int]] = {}
    for effect in EFFECTS[name].values():
        for column, values in effect.values.items():
            before = total.get(column, [0, 0, 0])
            total[column] = [before[0] + values.changed, before[1] + values.lost, before[2] + values.filled]
    assert seen["stock"]["real"][name] == {column: counts for column, counts in total.items() if any(counts)}


@KINDS
def test_projects_of_one_name_end_with_one_password(seen, kind):
    # The script updates WHERE name = the name of each project in turn: four are called Holiday, seven have names of
    # their own, one has none. Of the 12 plain passwords two were empty.
    assert seen[kind]["members"]["hashed"] == {"cells": 12, "columns": 1, "plain": 11, "scrypt": 12, "hashes": 9}


@KINDS
def test_a_project_without_password_stops_the_history(seen, kind):
    # generate_password_hash(None) raises. The persons had no weight before 26d6a218c329 added it, so all 100 get one.
    # The passwords hashed before that are rolled back, with either Migrate: UPDATE is all that the revision does.
    shown = seen[kind]["first"]
    expected = {
        "f629c8ef4ab0": [
            ("warning", "values-invented", "person.weight", "100 of 100 rows had NULL, now: 1.0"),
            ("warning", "not-reversible", "", "schema only: after the downgrade, person: 100 NULLs filled")],
        "b78f8a8bdb16": [("failure", "fails", "", "AttributeError: 'NoneType' object has no attribute 'encode'")],
    }
    assert _cut(_findings(shown), expected) == expected
    assert shown["hashed"] == {"cells": 0} and not shown["safe"]
    assert shown["revisions"] == ["26d6a218c329", "f629c8ef4ab0", *list(MEMBERS)[1:]]
    assert all(revision in shown["text"] for revision in list(MEMBERS)[2:])  # told as not rehearsed


def test_with_foreign_keys_on_the_stock_migrate_stops_half_way(seen):
    # Recreating project drops it while archives and persons refer to it: NO ACTION, so SQLite refuses. By then the five
    # tables and the temporary one are there, each committed at once by the driver.
    shown = seen["stock"]["enforced"]
    found = _findings(shown)
    assert list(found) == ["2dcb0c0048dc"] and not shown["safe"]
    assert [row[:2] for row in found["2dcb0c0048dc"]] == [("failure", "fails"), ("failure", "half-applied")]
    assert "FOREIGN KEY constraint failed" in found["2dcb0c0048dc"][0][3]
    assert "DROP TABLE project" in found["2dcb0c0048dc"][0][3]
    assert "added table" in found["2dcb0c0048dc"][1][3]


def test_with_foreign_keys_on_ours_goes_to_the_head_and_loses_nothing(seen):
    # From 6c6fb2b7f229 on; without downgrades no finding tells of them.
    shown = seen["appkit"]["enforced"]
    effects = {revision: MEMBERS[revision] for revision in list(MEMBERS)[5:]}
    expected = {revision: rows for revision, rows in MEMBERS_FINDINGS.items()
                if revision in effects and rows[0][1] != "not-reversible"}
    assert _cut(_findings(shown, "drift"), expected) == expected
    assert shown["safe"] and shown["reached"] == "c941aaca38c2"
    ledger = {(row["revision"], row["table"]): row["kept"] for row in shown["ledger"]}
    assert ledger == {place: row[2] for place, row in _expected_ledger(shown["counts"], effects).items()}


@pytest.mark.parametrize("name", ["members", "logged", "first"])
def test_nothing_else_differs_between_the_two(seen, name):
    def frames(kind: str) -> dict[str, list]:
        shown = seen[kind][name]
        # Salts and seconds are others each time, and the order in which Alembic copies foreign keys and indexes.
        told = [{**row, "evidence": row["evidence"].split("scrypt")[0]} for row in shown["findings"]]
        statements = [(row["revision"], row["rows"], row["rewritten"], row["statement"]) for row in shown["statements"]]
        return {"findings": told,
                "statements": sorted(str((*row, sorted(line.strip("\t ,") for line in text.split("\n"))))
                                     for *row, text in statements),
                **{part: shown[part] for part in ("ledger", "columns", "schema")}}

    assert frames("stock") == frames("appkit")


@KINDS
def test_the_source_is_what_it_was_and_no_copy_is_left(seen, kind):
    for name in ("members", "logged", "first", "enforced"):
        assert seen[kind][name]["before"] == seen[kind][name]["after"]
    assert seen[kind]["scratch"] == []


@KINDS
def test_nothing_that_is_told_holds_a_path(seen, kind, tmp_path_factory):
    for place in (ROOT, Path(sys.prefix), tmp_path_factory.getbasetemp()):
        assert str(place) not in seen[kind]["output"]
