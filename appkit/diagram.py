"""The schema as a diagram: Mermaid for JupyterLab, and a text form of the same."""
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from appkit.databases import Entry, open_reading
from appkit.printing import printable
from appkit.schema import entries_of


@dataclass(frozen=True, repr=False)
class Diagram:
    """The tables of a schema and the foreign keys between them, as a Mermaid diagram and as text."""

    mermaid: str  # an erDiagram, what str() gives
    text: str  # the same as plain text, what repr() gives

    def __repr__(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.mermaid

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/vnd.mermaid": self.mermaid, "text/plain": self.text}


def draw_schema(source: Any = None, after: Any = None) -> Diagram:
    """Draw the tables of a schema; with `after`, of two schemas as one, with what was added and removed marked.

    Parameters
    ----------
    source, after
        Each a Flask app, an Engine, a URL, or a DataFrame that `read_schema` gave; a source left out is the current
        app. Columns stand in their declared order, those of a DataFrame by name.

    Returns
    -------
    Diagram
        JupyterLab shows it as a picture. PK, FK and UK mark the columns of primary keys, foreign keys and of unique
        constraints on one column. `+` marks what only `after` has, `-` what only `source` has; a line that changed is
        there twice. Views, triggers, checks and indexes are not drawn: `compare_schema` tells those.
    """
    old = _picture(source)
    new = old if after is None else _picture(after)
    boxes = [_merge_box(name, old.boxes.get(name), new.boxes.get(name))
             for name in sorted(old.boxes.keys() | new.boxes.keys())]
    marked = _merge(list(old.lines), list(new.lines), name=lambda line: line[:2])
    lines = [(mark, line, new.lines.get(line) or old.lines[line]) for mark, line in marked]
    return Diagram(_as_mermaid(boxes, lines), _as_text(boxes, lines, marks=after is not None))


class _Field(NamedTuple):
    """A column in a box."""

    name: str
    type: str
    rest: str  # of its definition
    keys: tuple[str, ...]


class _Line(NamedTuple):
    """A foreign key between two boxes."""

    child: str
    columns: tuple[str, ...]
    parent: str
    theirs: tuple[str, ...]
    rest: str  # of its definition


class _Picture(NamedTuple):
    boxes: dict[str, list[_Field]]
    lines: dict[_Line, tuple[str, str]]  # with how many rows there may be at the parent's and the child's end


class _Box(NamedTuple):
    mark: str
    name: str
    fields: list[tuple[str, _Field]]  # each with its mark


def _picture(source: Any) -> _Picture:
    if isinstance(source, pd.DataFrame):
        return _draw(list(map(Entry._make, entries_of(source))), {})
    with open_reading(source) as (connection, database):
        found = database.read_structure(connection)
        order = {table.name: [column.name for column in table.columns] for table in found.tables}
        return _draw(found.entries, order)


def _draw(entries: list[Entry], order: dict[str, list[str]]) -> _Picture:
    boxes = {entry.table: _fields([other for other in entries if other.table == entry.table])
             for entry in entries if entry.kind == "table"}
    for name, names in order.items():
        boxes[name].sort(key=lambda field: names.index(field.name))
    lines = {}
    for entry in entries:
        if entry.kind == "foreign key":
            columns, rest = _listed(entry.definition)
            line = _Line(entry.table, columns, *_parent(rest))
            lines.setdefault(line, _ends(columns, [other for other in entries if other.table == entry.table]))
    return _Picture(boxes, lines)


def _fields(entries: list[Entry]) -> list[_Field]:
    """Give the columns of one table, whose entries these are."""
    marks = {"PK": _columns(entries, "primary key"), "FK": _columns(entries, "foreign key"),
             "UK": [columns for columns in _uniques(entries) if len(columns) == 1]}
    fields = []
    for entry in entries:
        if entry.kind == "column":
            keys = tuple(mark for mark, lists in marks.items() if any(entry.name in columns for columns in lists))
            fields.append(_Field(entry.name, *_TYPE.fullmatch(entry.definition).groups(), keys))
    return fields


def _columns(entries: list[Entry], kind: str) -> list[tuple[str, ...]]:
    return [_listed(entry.definition)[0] for entry in entries if entry.kind == kind]


def _uniques(entries: list[Entry]) -> list[tuple[str, ...]]:
    indexes = [_listed(entry.definition.removeprefix("UNIQUE ")) for entry in entries
               if entry.kind == "index" and entry.definition.startswith("UNIQUE ")]
    return _columns(entries, "unique") + [columns for columns, rest in indexes if not rest]


def _ends(columns: tuple[str, ...], entries: list[Entry]) -> tuple[str, str]:
    """Tell how many rows a foreign key allows at its ends, as Mermaid writes it."""
    required = {entry.name for entry in entries if entry.kind == "column" and
                _TYPE.fullmatch(entry.definition)[2].startswith("NOT NULL")}
    uniques = map(set, _columns(entries, "primary key") + _uniques(entries))
    return "||" if required.issuperset(columns) else "|o", "o|" if set(columns) in uniques else "o{"


_NAME = r'"(?:[^"]|"")*"|[^\s",()]+'
# A column in a list: its name, and what may follow it (its order, its collation).
_ITEM = re.compile(rf'({_NAME})(?:\s(?:[^",()]|"(?:[^"]|"")*")*)?(, |\))')
_PARENT = re.compile(rf"\s*REFERENCES ({_NAME})\s*(.*)", re.DOTALL)
_TYPE = re.compile(r"(.*?) ?((?:(?:^|(?<= ))(?:NOT NULL|DEFAULT|COLLATE|GENERATED)\b.*)?)", re.DOTALL)


def _listed(definition: str) -> tuple[tuple[str, ...], str]:
    """Split a definition into the columns that it lists first and the rest; no columns where it lists expressions."""
    names, at = [], 1
    while item := _ITEM.match(definition, at):
        names.append(_unquote(item[1]))
        at = item.end()
        if item[2] == ")":
            return tuple(names), definition[at:].strip()
    return (), definition


def _parent(rest: str) -> tuple[str, tuple[str, ...], str]:
    """Split what follows a foreign key's columns: the parent, its columns, the rest."""
    parent, rest = _PARENT.fullmatch(rest).groups()
    return _unquote(parent), *(_listed(rest) if rest.startswith("(") else ((), rest))


def _unquote(name: str) -> str:
    return name[1:-1].replace('""', '"') if name[0] == '"' else name


def _merge(old: list, new: list, *, name: Callable[[Any], Hashable]) -> list[tuple[str, Any]]:
    """Make one list of two, each item with its mark; those of one name stand together, the removed one first."""
    names: dict[Hashable, None] = dict.fromkeys(name(item) for item in old + new)
    marked = [("-", item) for item in old if item not in new]
    marked += [("+" if item not in old else " ", item) for item in new]
    places = {key: place for place, key in enumerate(names)}
    return sorted(marked, key=lambda pair: places[name(pair[1])])


def _merge_box(name: str, old: list[_Field] | None, new: list[_Field] | None) -> _Box:
    mark = "+" if old is None else "-" if new is None else " "
    return _Box(mark, name, _merge(old or [], new or [], name=lambda field: field.name))


def _as_text(boxes: list[_Box], lines: list, *, marks: bool) -> str:
    rows = [row for box in boxes for row in _box_as_text(box)]
    rows += [(mark, _line_as_text(line)) for mark, line, _ in lines]
    texts = [(f"{mark} " if marks else "") + printable(text) for mark, text in rows]
    return "\n".join(text.rstrip() for text in texts) or "(no tables)"


def _box_as_text(box: _Box) -> Iterator[tuple[str, str]]:
    yield box.mark, box.name or '""'
    cells = [(mark, printable(field.name), printable(f"{field.type} {field.rest}".strip()), ", ".join(field.keys))
             for mark, field in box.fields]
    widths = [max(len(cell[at]) for cell in cells) for at in (1, 2)] if cells else []
    for mark, name, definition, keys in cells:
        yield mark, f"    {name:{widths[0]}}  {definition:{widths[1]}}  {keys}"


def _line_as_text(line: _Line) -> str:
    theirs = f" ({', '.join(line.theirs)})" if line.theirs else ""
    return f"{line.child} ({', '.join(line.columns)}) -> {line.parent}{theirs} {line.rest}"


def _as_mermaid(boxes: list[_Box], lines: list) -> str:
    marks = {box.name: box.mark for box in boxes}
    rows = ["erDiagram"]
    for box in boxes:
        fields = [_field_as_mermaid(mark, field) for mark, field in box.fields]
        label = _label(box.mark, box.name)
        rows += [f"    {label} {{", *fields, "    }"] if fields else [f"    {label}"]
    for mark, line, (one, many) in lines:
        parent, child = (_label(marks.get(name, " "), name) for name in (line.parent, line.child))
        stroke = ".." if mark == "-" else "--"
        rows.append(f"    {parent} {one}{stroke}{many} {child} : {_label(mark, ', '.join(line.columns))}")
    return "\n".join(rows)


def _field_as_mermaid(mark: str, field: _Field) -> str:
    word = _word(field.name)
    notes = [mark] if mark != " " else []
    notes += [field.name or '""'] if word != field.name or re.search(r"\b_.*_\b", word) else []  # Markdown eats _these_
    notes += [field.rest] if mark != " " and field.rest else []
    keys = f" {', '.join(field.keys)}" if field.keys else ""
    return f"        {_word(field.type, also='()')} {word}{keys}" + (f" {_string(' '.join(notes))}" if notes else "")


def _word(text: str, *, also: str = "") -> str:
    """Make what Mermaid's grammar takes for the name or the type of a column out of any text.

    Source: ATTRIBUTE_WORD in Mermaid's erDiagram.jison, less what its older versions refuse.
    """
    text = text.replace(", ", ",")
    word = "".join(char if _is_plain(char) or char in also + "_-" else "_" for char in text)
    # PK, FK and UK are keywords there, in any case.
    return word if re.match(r"(?!(?:pk|fk|uk)\b)[^\W\d]", word, re.IGNORECASE) else f"_{word}"


def _is_plain(char: str) -> bool:
    return char.isalnum() and (char.isascii() or "\u00c0" <= char <= "\uffff")


def _label(mark: str, text: str) -> str:
    return _string((f"{mark} " if mark != " " else "") + (text or '""'))


def _string(text: str) -> str:
    """Write any text as a Mermaid string: what could mean something to Mermaid or to HTML goes as a character code.

    What cannot be seen is spelled out: a picture is XML, which has neither control characters nor `&nbsp;`.
    """
    safe = "".join(char if _is_plain(char) or char in " _,()+" else f"#{ord(char)};" for char in printable(text))
    safe = re.sub(r"(?<![^\W_])_|_(?![^\W_])", "#95;", safe)  # Mermaid reads Markdown: _this_ would be slanted
    return '"' + re.sub("(direction) ", r"\1#32;", safe, flags=re.IGNORECASE) + '"'  # read even inside of quotes
