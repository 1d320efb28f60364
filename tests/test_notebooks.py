"""The house rules of the notebooks: what STYLE says of them, and what nbval does not see.

nbval compares the outputs; it passes a cell without a count whatever the cell does. Each rule is a function from a
notebook to what breaks it, and is tried on a notebook that does.
"""
import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RULES = {}

# A folder of somebody's machine, an address in memory, a process's number, a random id.
_TRACES = re.compile(r"(?<![\w.-])/(?:home|root|Users|tmp|private|var|usr|opt|mnt|srv|work)/|[A-Z]:\\|~/"
                     r"| at 0x[0-9a-f]+|ipykernel_\d+|<ipython-input|id=\"T_")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def rule(check):
    RULES[check.__name__.strip("_")] = check
    return check


@rule
def _begins_with_a_title(notebook):
    first, second = notebook.cells[:2]
    titles = [cell for cell in _prose(notebook) if re.search(r"^# ", cell.source, re.MULTILINE)]
    if first.cell_type != "markdown" or not first.source.startswith("# ") or titles != [first]:
        yield "cell 1 is the title, and the only one"
    if second.cell_type != "code" or "import" not in second.source:
        yield "cell 2 has the imports and the database"


@rule
def _is_ten_to_twenty_five_code_cells(notebook):
    if not 10 <= len(_code(notebook)) <= 25:
        yield f"{len(_code(notebook))} code cells"


@rule
def _has_counts_one_to_n(notebook):
    counts = [cell.execution_count for cell in _code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"counts are {counts}: Restart & Run All, and keep the outputs"


@rule
def _stores_what_it_shows(notebook):
    for cell in _code(notebook):
        last = ast.parse(cell.source).body[-1]
        # A call may well give None; a name, an attribute or an item is there to be seen.
        shown = isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call)
        if shown and not any(output.output_type == "execute_result" for output in cell.outputs):
            yield f"no result is stored: {cell.source}"
    if not any(cell.outputs for cell in _code(notebook)):
        yield "no output is stored at all"


@rule
def _holds_no_error(notebook):
    for output in _outputs(notebook):
        if output.output_type == "error":
            yield f"a traceback: {output.evalue}; catch the error and print its message"


@rule
def _holds_no_trace_of_a_machine(notebook):
    for text in [*(cell.source for cell in notebook.cells), *_texts(notebook)]:
        for trace in (*_TRACES.findall(text), *(name for name in (str(ROOT), str(Path.home())) if name in text)):
            yield f"{trace!r} in: {text[:200]}"


@rule
def _is_stripped(notebook):
    if set(notebook.metadata) != {"kernelspec"} or notebook.metadata.kernelspec.name != "python3":
        yield f"the notebook's metadata: {sorted(notebook.metadata)}"
    for cell in notebook.cells:
        if cell.metadata:
            yield f"a cell's metadata: {dict(cell.metadata)}"


@rule
def _compares_every_cell(notebook):
    for before, cell in zip([None, *notebook.cells], notebook.cells):
        if "NBVAL_SKIP" in cell.source or "NBVAL_RAISES" in cell.source:
            yield f"not run, or not compared: {cell.source}"
        if "NBVAL_IGNORE_OUTPUT" in cell.source and (before is None or "compare" not in before.source):
            yield f"the prose above does not say why the output is not compared: {cell.source}"


@rule
def _changes_no_stored_output(notebook):
    for cell in _code(notebook):
        if re.search(r"clear_output|update_display|tqdm", cell.source):
            yield f"nbval cannot follow: {cell.source}"


@rule
def _is_plain_python(notebook):
    for cell in _code(notebook):
        if re.search(r"^\s*[%!]|get_ipython|sys\.path|pip install", cell.source, re.MULTILINE):
            yield f"magics, shell or sys.path: {cell.source}"


@rule
def _keeps_cells_short(notebook):
    for cell in _code(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) > 12 or max(map(len, lines), default=0) > 110:
            yield f"{len(lines)} lines, or a line too long: {cell.source}"


@rule
def _holds_no_logic(notebook):
    for node in (node for cell in _code(notebook) for node in ast.walk(_parse(cell))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno + 1 > 5:
            yield f"def {node.name} is longer than 5 lines: it belongs into appkit"
        if isinstance(node, ast.ClassDef) and not _is_short_model(node):
            yield f"class {node.name} is no model, or more than one needs"


@rule
def _says_before_what_it_shows(notebook):
    for before, cell in zip(notebook.cells[1:], notebook.cells[2:]):
        if cell.cell_type == before.cell_type == "code":
            yield f"no prose before: {cell.source}"
    for cell in _prose(notebook)[1:-1]:
        words = len(cell.source.split())
        if not 15 <= words <= 60:
            yield f"{words} words: {cell.source}"


@rule
def _shows_at_most_twenty_rows(notebook):
    for text in _texts(notebook):
        if 'class="dataframe"' in text and text.partition("<tbody>")[2].count("<tr") > 20:
            yield f"filter, do not scroll: {text[:200]}"


@rule
def _ends_with_what_we_saw(notebook):
    last = notebook.cells[-1]
    if last.cell_type != "markdown" or not re.search(r"\b[Ww]e\b", last.source) or ".ipynb)" not in last.source:
        yield "the last cell says what we saw, and links on"


@rule
def _links_to_what_is_there(notebook):
    for target in (target for cell in _prose(notebook) for target in _LINK.findall(cell.source)):
        path = target.partition("#")[0]
        if "://" not in target and path and not (ROOT / "notebooks" / path).exists():
            yield f"{target} is not there"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", RULES)
def test_a_notebook(name, path):
    assert list(RULES[name](_read(path))) == []


def test_the_names_are_numbers_without_gaps_and_a_phrase():
    assert PATHS
    for number, path in enumerate(PATHS):
        assert re.fullmatch(rf"{number:02d}-[a-z0-9]+(-[a-z0-9]+)*\.ipynb", path.name)


def test_each_notebook_links_to_the_next():
    for path, following in zip(PATHS, PATHS[1:]):
        assert _LINK.findall(_read(path).cells[-1].source)[-1] == following.name, path.name


def test_the_first_notebook_maps_all_others():
    text = PATHS[0].read_text(encoding="utf-8")
    assert [path.name for path in PATHS[1:] if f"]({path.name})" not in text] == []


def test_the_readme_lists_every_notebook():
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    listed = [target for line in rows for target in _LINK.findall(line) if target.endswith(".ipynb")]
    assert listed == [f"notebooks/{path.name}" for path in PATHS]


def test_pytest_compares_them_strictly():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert "notebooks" in options["testpaths"]
    assert "--nbval" in options["addopts"].split() and "lax" not in options["addopts"]


# Every rule, and a change that breaks it. `cells` are: title, imports, prose, a result, …, the end.
BREAKS = [
    ("begins_with_a_title", lambda cells: cells[0].update(source="Title")),
    ("begins_with_a_title", lambda cells: cells[2].update(source="# A second title")),
    ("begins_with_a_title", lambda cells: cells.insert(1, new_markdown_cell("words " * 20))),
    ("is_ten_to_twenty_five_code_cells", lambda cells: cells.__delitem__(slice(2, 20))),
    ("has_counts_one_to_n", lambda cells: cells[3].update(execution_count=None)),
    ("has_counts_one_to_n", lambda cells: cells[3].update(execution_count=7)),
    ("stores_what_it_shows", lambda cells: cells[3].update(outputs=[])),
    ("holds_no_error", lambda cells: cells[3].outputs.append(new_output("error", ename="E", evalue="no"))),
    ("holds_no_trace_of_a_machine", lambda cells: cells[3].outputs.append(_said("in /tmp/x/app.db", "stderr"))),
    ("holds_no_trace_of_a_machine", lambda cells: cells[3].outputs.append(_said("sqlite:////tmp/x/app.db"))),
    ("holds_no_trace_of_a_machine", lambda cells: cells[3].outputs.append(_said("<Axes at 0x7f3a10>"))),
    ("holds_no_trace_of_a_machine", lambda cells: cells[3].outputs.append(_said(str(Path.home())))),
    ("holds_no_trace_of_a_machine", lambda cells: cells[3].update(source='open("C:\\\\x")')),
    ("is_stripped", lambda cells: cells[3].metadata.update(execution={"started": "now"})),
    ("compares_every_cell", lambda cells: cells[3].update(source="# NBVAL_IGNORE_OUTPUT\nvalue")),
    ("compares_every_cell", lambda cells: cells[3].update(source="# NBVAL_SKIP\nvalue")),
    ("changes_no_stored_output", lambda cells: cells[3].update(source="clear_output()")),
    ("is_plain_python", lambda cells: cells[3].update(source="!pip list")),
    ("is_plain_python", lambda cells: cells[3].update(source="%time value")),
    ("is_plain_python", lambda cells: cells[3].update(source="sys.path.append('.')")),
    ("keeps_cells_short", lambda cells: cells[3].update(source="value\n" * 13)),
    ("keeps_cells_short", lambda cells: cells[3].update(source="a = '" + "x" * 110 + "'")),
    ("holds_no_logic", lambda cells: cells[3].update(source="def f():\n" + "    a = 1\n" * 5)),
    ("holds_no_logic", lambda cells: cells[3].update(source="class A:\n    a = 1")),
    ("holds_no_logic", lambda cells: cells[3].update(source="class A(db.Model):\n" + "    a = 1\n" * 9)),
    ("says_before_what_it_shows", lambda cells: cells.pop(4)),
    ("says_before_what_it_shows", lambda cells: cells[4].update(source="Look:")),
    ("says_before_what_it_shows", lambda cells: cells[4].update(source="words " * 61)),
    ("shows_at_most_twenty_rows", lambda cells: cells[3].outputs.append(_table(21))),
    ("ends_with_what_we_saw", lambda cells: cells.pop()),
    ("links_to_what_is_there", lambda cells: cells[2].update(source="[gone](99-gone.ipynb)")),
]


@pytest.mark.parametrize("name, spoil", BREAKS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_rule_catches_what_breaks_it(name, spoil):
    notebook = _sound_notebook()
    assert list(RULES[name](notebook)) == []
    spoil(notebook.cells)
    assert list(RULES[name](notebook)) != []


def test_every_rule_is_tried():
    assert {name for name, _ in BREAKS} == set(RULES)


@cache
def _read(path):
    return nbformat.read(path, as_version=4)


def _sound_notebook():
    """Make a notebook that breaks no rule."""
    cells = [new_markdown_cell("# Title"), new_code_cell("import appkit", execution_count=1)]
    for count in range(2, 12):
        shown = new_output("execute_result", {"text/plain": "1"}, execution_count=count)
        cells += [new_markdown_cell("words " * 20), new_code_cell("value", execution_count=count, outputs=[shown])]
    cells.append(new_markdown_cell(f"## What we saw\n\nNext: [more]({PATHS[0].name})"))
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def _said(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def _table(rows):
    return new_output("display_data", {"text/html": '<table class="dataframe"><tbody>' + "<tr></tr>" * rows})


def _prose(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook):
    return [output for cell in _code(notebook) for output in cell.outputs]


def _texts(notebook):
    """Give every text that the outputs hold, of whatever type."""
    for output in _outputs(notebook):
        yield output.get("text", "")
        yield from (str(data) for kind, data in output.get("data", {}).items() if not kind.startswith("image/"))


def _parse(cell):
    try:
        return ast.parse(cell.source)
    except SyntaxError:  # a magic: is_plain_python tells
        return ast.Module([], [])


def _is_short_model(node):
    return [ast.unparse(base) for base in node.bases] == ["db.Model"] and node.end_lineno - node.lineno < 9
