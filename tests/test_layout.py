"""The house: imports run one way, the door opens what it says, conda and pip install the same."""
import ast
import re
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import appkit
from appkit.databases import SUPPORTED

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "appkit"

# From the door down; a room may import only rooms that stand after it.
ROOMS = ["cli", "scratch", "app", "models", "verdicts", "rehearsal", "drift", "result", "findings", "objects", "applying", "record", "watching", "standin", "script",
         "outage", "wording", "display", "diagram", "printing", "migrate", "review", "differences", "matching", "ledger", "comparison", "snapshots", "large", "values", "folders", "history", "diagnosis", "schema", "tables",
         "databases", "aside", "batches", "progress", "loggers", "errors"]


def imported(path: Path) -> set[str]:
    """The rooms that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("appkit"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    place = ROOMS.index(room_of(path))
    assert imported(path) - {room_of(path)} <= set(ROOMS[place + 1:])


def test_every_room_is_in_the_order():
    assert {room_of(path) for path in files()} == set(ROOMS)


def test_only_the_databases_folder_asks_which_database_it_is():
    told = [path.name for path in files() if "databases" not in path.parts
            if re.search(r"dialect\.name\s*[=!]=\s*[\"']|dialect\.name in|get_backend_name", path.read_text())]
    assert told == []


def test_every_database_speaks_by_the_same_names():
    names = {name: import_module(f"appkit.databases.{name}").__all__ for name in set(SUPPORTED.values())}
    assert names["sqlite"] == names["postgresql"] == names["mariadb"] == sorted(names["sqlite"])
    for name in names["sqlite"]:
        assert all(hasattr(import_module(f"appkit.databases.{each}"), name) for each in names)


def test_every_public_name_opens_and_is_documented():
    assert appkit.__all__ == sorted(appkit.__all__)
    for name in appkit.__all__:
        value = getattr(appkit, name)
        assert name == "db" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        appkit.nothing


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_house_style_is_kept(path):
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 120
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = node.body[0] if ast.get_docstring(node) else None
            lines = node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
            assert lines <= 25 + len(node.decorator_list), f"{node.name} has {lines} lines"
            assert node.returns is not None or node.name in ("__init__",) or _is_route(node), node.name


def _is_route(node: ast.FunctionDef) -> bool:
    return bool(node.decorator_list) and "routes" in ast.unparse(node.decorator_list[0])


def test_conda_installs_what_pip_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?==([\d.]+)\.\*", each).groups()
                  for each in project["optional-dependencies"]["notebooks"])
    text = (ROOT / "environment.yml").read_text()
    conda = dict(re.findall(r"^ +- ([\w-]+)==?([\d.]+?)(?:\.\*.*)?$", text, re.MULTILINE))
    conda["duckdb"] = conda.pop("python-duckdb")  # its name there
    assert conda == pinned
    extras = project["optional-dependencies"]
    wide = {re.match(r"[\w-]+", each)[0] for each in project["dependencies"] + extras["postgresql"] + extras["mariadb"]}
    assert wide <= set(pinned)


def test_nothing_names_a_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split()
    hosts = re.compile("|".join(["/ro" + r"ot/\w", "/ho" + r"me/\w", "/wo" + "rk/", "index" + "-url", "pypi" + r"\.org/simple"]))
    assert [path for path in tracked if hosts.search((ROOT / path).read_text(encoding="utf-8"))] == []
