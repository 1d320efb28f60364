"""The catalogue as the database itself tells it, what differs between two, and the diagram."""
import random
import re
import sqlite3
import warnings
from contextlib import closing

import flask
import flask_sqlalchemy
import hypothesis.strategies as st
import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given, settings

from appkit.databases import Entry
from appkit.databases.sqlite import quote, read_catalogue, read_tables
from appkit.diagram import draw_schema
from appkit.schema import compare_schema, read_schema

HOSTILE = "a \"b\" 'c' `d` [e] %s :f ? <b>--/*é*/;,("


@pytest.fixture
def make(tmp_path):
    """Give a function that makes a SQLite database out of statements."""
    engines = []

    def make(*statements):
        engines.append(sa.create_engine(f"sqlite:///{tmp_path / f'{len(engines)}.db'}"))
        with closing(sqlite3.connect(engines[-1].url.database)) as connection:
            connection.executescript(";\n".join(statements))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


def catalogue(engine):
    with engine.connect() as connection:
        return {entry[:3]: entry.definition for entry in read_catalogue(connection)}


def only(engine, kind):
    return [entry[2:] for entry in read_schema(engine).itertuples(index=False, name=None) if entry[0] == kind]


def definition(engine, kind):
    (entry,) = only(engine, kind)
    return entry[1]


def test_quote_doubles_quotes():
    assert quote('a"b') == '"a""b"'


@pytest.mark.parametrize("typed, said", [
    ("", ""),
    ("varchar ( 80 )  not  null", "VARCHAR(80) NOT NULL"),
    ("text null", "TEXT"),
    ("int not null on conflict ignore", "INT NOT NULL ON CONFLICT IGNORE"),
    ("int not null on conflict abort", "INT NOT NULL"),
    ("text collate nocase", "TEXT COLLATE NOCASE"),
    ("text collate binary", "TEXT"),
    ("int default 1", "INT DEFAULT 1"),
    ("int default ( (1) )", "INT DEFAULT 1"),
    ("int default - 1", "INT DEFAULT -1"),
    ("int default (1+ -1)", "INT DEFAULT (1 + -1)"),
    ("text default 'it''s  -- /* , ('", "TEXT DEFAULT 'it''s  -- /* , ('"),
    ("text default \"x'y\"", "TEXT DEFAULT 'x''y'"),
    ("text default abc", "TEXT DEFAULT 'abc'"),
    ("text default current_timestamp", "TEXT DEFAULT CURRENT_TIMESTAMP"),
    ("text default (datetime('now' , 'utc'))", "TEXT DEFAULT (datetime('now', 'utc'))"),
    ("int generated always as (b*2) stored", "INT GENERATED ALWAYS AS (b * 2) STORED"),
    ("int as ( [B]||\"b\" )", "INT GENERATED ALWAYS AS (b || b) VIRTUAL"),
])
def test_a_column_is_told_with_all_it_declares(make, typed, said):
    engine = make(f"CREATE TABLE t (b INT, a {typed})")
    assert catalogue(engine)["column", "t", "a"] == said


@pytest.mark.parametrize("typed, kind, said", [
    ("a INT PRIMARY KEY ON CONFLICT REPLACE", "primary key", "(a) ON CONFLICT REPLACE"),
    ("a INT, b INT, PRIMARY KEY (b DESC, a)", "primary key", "(b DESC, a)"),
    ("a TEXT UNIQUE ON CONFLICT IGNORE", "unique", "(a) ON CONFLICT IGNORE"),
    ("a TEXT, b INT, UNIQUE ('b', \"a\" COLLATE nocase)", "unique", "(b, a COLLATE NOCASE)"),
    ("a TEXT COLLATE NOCASE, UNIQUE (a COLLATE nocase)", "unique", "(a)"),
    ("a INT CHECK ((a>-1 and \"a\"<>2))", "check", "a > -1 AND a <> 2"),
    ("a TEXT, CHECK (A in (\"x  y\",'z'))", "check", "a IN ('x  y', 'z')"),
    ("\"desc\" INT CHECK (desc - 1 > - 1)", "check", '"desc" - 1 > -1'),
    ("a INT REFERENCES p", "foreign key", "(a) REFERENCES p (id)"),
    ("a INT REFERENCES P(ID) ON UPDATE CASCADE ON DELETE SET NULL", "foreign key",
     "(a) REFERENCES p (id) ON DELETE SET NULL ON UPDATE CASCADE"),
    ("a INT REFERENCES p ON DELETE NO ACTION NOT DEFERRABLE", "foreign key", "(a) REFERENCES p (id)"),
    ("a INT REFERENCES p NOT NULL DEFERRABLE INITIALLY DEFERRED", "foreign key",
     "(a) REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED"),
    ("a INT, b INT, FOREIGN KEY (b, a) REFERENCES [no where] (x, y) MATCH FULL DEFERRABLE", "foreign key",
     '(b, a) REFERENCES "no where" (x, y) MATCH FULL DEFERRABLE'),
])
def test_a_constraint_is_found_inline_and_for_the_table(make, typed, kind, said):
    engine = make("CREATE TABLE p (id INTEGER NOT NULL)", f"CREATE TABLE t ({typed})",
                  "DROP TABLE p", "CREATE TABLE p (id INTEGER PRIMARY KEY)")
    assert [text for (found, table, _), text in catalogue(engine).items() if (found, table) == (kind, "t")] == [said]


@pytest.mark.parametrize("typed, said", [
    ("INDEX i ON t (a DESC, b ASC)", "(a DESC, b)"),
    ("UNIQUE INDEX i ON t (b COLLATE nocase DESC)", "UNIQUE (b COLLATE NOCASE DESC)"),
    ("INDEX i ON t (lower(\"b\"), a+1 DESC)", "(lower(b), a + 1 DESC)"),
    ("INDEX i ON [t](`a`) WHERE (a > 0 AND b LIKE '% x')", "(a) WHERE a > 0 AND b LIKE '% x'"),
])
def test_an_index_is_told_with_order_collation_expression_and_condition(make, typed, said):
    assert only(make("CREATE TABLE t (a INT, b TEXT)", f"CREATE {typed}"), "index") == [("i", said)]


@pytest.mark.parametrize("options, said", [
    ("(a INT)", ""), ("(a INT PRIMARY KEY) WITHOUT ROWID", "WITHOUT ROWID"), ("(a INT) STRICT", "STRICT"),
    ("(a INT PRIMARY KEY) strict , without rowid", "STRICT, WITHOUT ROWID"),
    ("(a INTEGER PRIMARY KEY AUTOINCREMENT)", "AUTOINCREMENT"),
    ("(a INTEGER, PRIMARY KEY (a AUTOINCREMENT))", "AUTOINCREMENT"),
    ("AS SELECT 1 AS a", ""),
])
def test_a_table_is_told_with_its_options(make, options, said):
    assert only(make(f"CREATE TABLE t {options}"), "table") == [("t", said)]


def test_the_counter_of_autoincrement_is_an_entry(make):
    engine = make("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (41)")
    assert only(engine, "sequence") == [("sqlite_sequence", "41")]


def test_triggers_and_views_are_told_whole(make):
    engine = make("CREATE TABLE t (a INT)", "CREATE VIEW v(b) AS  SELECT [a] FROM t -- why\n WHERE a <> '-- x'",
                  "CREATE TRIGGER r INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.b); END")
    assert catalogue(engine)["view", "v", "v"] == "(b) AS SELECT a FROM t WHERE a <> '-- x'"
    assert catalogue(engine)["trigger", "v", "r"] == "INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.b); END"


def test_constraints_of_one_name_are_told_apart(make):
    engine = make("CREATE TABLE t (a INT, CONSTRAINT c CHECK (a > 1) CONSTRAINT c CHECK (a < 9) CHECK (a) CHECK (a))")
    assert only(engine, "check") == [("a", "a"), ("a #2", "a"), ("c", "a < 9"), ("c #2", "a > 1")]


def test_virtual_tables_hide_their_shadows(make):
    engine = make("CREATE VIRTUAL TABLE f USING fts5(body, title)")
    with engine.connect() as connection:
        assert [table.name for table in read_tables(connection)] == ["f"]
    assert only(engine, "table") == [("f", "VIRTUAL USING fts5(body, title)")]


def test_a_virtual_table_without_its_module_is_told_and_not_read(make):
    engine = make("CREATE TABLE t (a INT)", "PRAGMA writable_schema = ON", "INSERT INTO sqlite_master VALUES "
                  "('table', 'm', 'm', 0, 'CREATE VIRTUAL TABLE m USING nowhere(a)')")
    with engine.connect() as connection:
        assert [table.name for table in read_tables(connection)] == ["t"]
    assert only(engine, "table") == [("m", "VIRTUAL USING nowhere(a)"), ("t", "")]


def test_read_tables_gives_keys_uniques_and_parents(make):
    engine = make("CREATE TABLE p (id INTEGER PRIMARY KEY)", "CREATE VIEW v AS SELECT 1", """CREATE TABLE t (
        a "my type", b INT NOT NULL UNIQUE, c INT REFERENCES P, d INT AS (b), e REFERENCES gone, PRIMARY KEY (b, a))""",
        "CREATE UNIQUE INDEX full ON t (c, a)", "CREATE UNIQUE INDEX part ON t (c) WHERE c > 0",
        "CREATE UNIQUE INDEX expression ON t (c, abs(a))", "CREATE TABLE alembic_version (version_num TEXT)")
    with engine.connect() as connection:
        version, parent, table = read_tables(connection)
    assert (version.name, version.key) == ("alembic_version", ())
    assert parent.columns == (("id", "INTEGER", False, False),)
    assert table.columns == (("a", "my type", True, False), ("b", "INT", False, False), ("c", "INT", True, False),
                             ("d", "INT", True, True), ("e", "", True, False))
    assert table[2:5] == (("b", "a"), (("b",), ("c", "a")), ("gone", "p"))


@pytest.mark.parametrize("typed, nullable", [("INTEGER PRIMARY KEY", False), ("INT PRIMARY KEY", True),
                                             ("INTEGER PRIMARY KEY DESC", True)])
def test_only_a_rowid_is_never_null_without_saying_so(make, typed, nullable):
    with make(f"CREATE TABLE t (a {typed})").connect() as connection:
        assert read_tables(connection)[0].columns[0].nullable == nullable


def test_hostile_names_are_taken_as_they_are(make):
    name = quote(HOSTILE)
    engine = make(f"CREATE TABLE {name} ({name} INTEGER PRIMARY KEY AUTOINCREMENT, x INT CONSTRAINT {name} REFERENCES "
                  f"{name}({name}) CHECK ({name} > 0))", f"CREATE INDEX {quote(HOSTILE + 'i')} ON {name} ({name} DESC)",
                  f"INSERT INTO {name} VALUES (7, 7)")
    assert catalogue(engine) == {
        ("table", HOSTILE, HOSTILE): "AUTOINCREMENT", ("column", HOSTILE, HOSTILE): "INTEGER NOT NULL",
        ("column", HOSTILE, "x"): "INT", ("primary key", HOSTILE, f"({name})"): f"({name})",
        ("foreign key", HOSTILE, HOSTILE): f"(x) REFERENCES {name} ({name})",
        ("check", HOSTILE, f"{name} > 0"): f"{name} > 0", ("index", HOSTILE, HOSTILE + "i"): f"({name} DESC)",
        ("sequence", HOSTILE, "sqlite_sequence"): "7",
    }


def test_a_name_may_be_empty(make):
    assert list(catalogue(make('CREATE TABLE "" ("" INT)'))) == [("table", "", ""), ("column", "", "")]


def test_comments_are_no_part_of_a_table(make):
    engine = make("""CREATE TABLE t -- (
        (a INT -- , b INT UNIQUE
         /* CHECK (a > 0) ' */ NOT NULL, /* " */ b TEXT DEFAULT '/* x */ -- y' -- ')
         CHECK (a /* > */ < 3))""")
    assert only(engine, "column") == [("a", "INT NOT NULL"), ("b", "TEXT DEFAULT '/* x */ -- y'")]
    assert only(engine, "check") == [("a < 3", "a < 3")]


BY_HAND = ["""create table [user](id integer primary key, "name" varchar ( 80 ) not null unique, age int default(1)
           check( "age">-1 ), constraint "fk" foreign key(age) references "user" on delete cascade)""",
           "create index ix on user(\"name\" collate BINARY asc) where `age`>0"]
BY_TOOL = ["""CREATE TABLE user (\n\tid INTEGER NOT NULL, \n\tname VARCHAR(80) NOT NULL, \n\tage INT DEFAULT 1, \n\t
           PRIMARY KEY (id), \n\tUNIQUE (name), CHECK (age > - 1), \n\tCONSTRAINT fk FOREIGN KEY(age)
           REFERENCES user (id) ON DELETE CASCADE ON UPDATE NO ACTION)""",
           "CREATE INDEX ix ON user (name) WHERE age > 0"]


def test_the_same_written_differently_is_equal(make):
    assert compare_schema(make(*BY_HAND), make(*BY_TOOL)).empty


def test_white_space_in_a_string_is_a_difference(make):
    before, after = make("CREATE TABLE t (a DEFAULT 'x y')"), make("CREATE TABLE t (a DEFAULT 'x  y')")
    assert len(compare_schema(before, after)) == 1


def test_a_table_that_was_renamed_into_place_is_equal(make):
    trigger = "CREATE TRIGGER r AFTER INSERT ON {0} BEGIN UPDATE {0} SET a = 1; END"
    engine = make("CREATE TABLE tmp (a INT CHECK (tmp.a > 0), b INT REFERENCES tmp (a))", "CREATE INDEX i ON tmp (a)",
                  trigger.format("tmp"), "ALTER TABLE tmp RENAME TO user",
                  "ALTER TABLE user ADD COLUMN x INT NOT NULL DEFAULT 1", "ALTER TABLE user RENAME b TO c")
    other = make("CREATE TABLE user (a INT CHECK (user.a > 0), c INT REFERENCES user (a), x INT NOT NULL DEFAULT 1)",
                 "CREATE INDEX i ON user (a)", trigger.format("user"))
    with engine.connect() as connection:
        assert '"user"' in connection.exec_driver_sql("SELECT group_concat(sql) FROM sqlite_master").scalar_one()
    assert compare_schema(engine, other).empty


def recreate(engine):
    """Let Alembic recreate the table t without a change."""
    with engine.begin() as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer ones tell of an unnamed CHECK that is left out
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("t", recreate="always"):
            pass


def test_a_batch_that_changes_nothing_leaves_a_plain_table_equal(make):
    engine = make("create table t (id integer primary key, n varchar(9) not null default ( 'x' ), d numeric(10,2), "
                  "\"key\" integer constraint k check (key > 0))", "create unique index i on t(n, \"key\")")
    before = read_schema(engine)
    recreate(engine)
    assert compare_schema(before, engine).empty


def test_what_a_batch_takes_away_is_told(make):
    engine = make("CREATE TABLE p (id INTEGER PRIMARY KEY)", """CREATE TABLE t (
        id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT COLLATE NOCASE NOT NULL ON CONFLICT IGNORE CHECK (a <> ''),
        p INT REFERENCES p DEFERRABLE INITIALLY DEFERRED, UNIQUE (a) ON CONFLICT REPLACE)""",
        "CREATE INDEX i ON t (a DESC)", "INSERT INTO t (a) VALUES ('x')",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END")
    before = read_schema(engine)
    recreate(engine)
    told = compare_schema(before, engine)
    assert {"table", "column", "check", "foreign key", "unique", "index", "trigger", "sequence"} <= set(told["kind"])
    assert set(told["table"]) == {"t"}


def test_read_schema_is_sorted_and_of_strings(make):
    schema = read_schema(make("CREATE TABLE b (y INT UNIQUE, x INT)", "CREATE TABLE a (z)", "CREATE INDEX i ON b (x)"))
    expected = [("table", "a", "a", ""), ("column", "a", "z", ""), ("table", "b", "b", ""), ("column", "b", "x", "INT"),
                ("column", "b", "y", "INT"), ("unique", "b", "(y)", "(y)"), ("index", "b", "i", "(x)")]
    pd.testing.assert_frame_equal(schema, pd.DataFrame(expected, columns=list(Entry._fields), dtype="string"))


def test_an_empty_database_has_an_empty_schema(make):
    schema = read_schema(make())
    assert schema.empty and list(schema.columns) == list(Entry._fields) and all(schema.dtypes == "string")
    assert repr(draw_schema(schema)) == "(no tables)" and str(draw_schema(schema)) == "erDiagram"


def test_a_source_is_an_app_an_engine_or_a_url(make):
    engine = make("CREATE TABLE t (a INT)")
    app = flask.Flask("x")
    app.config["SQLALCHEMY_DATABASE_URI"] = engine.url
    database = flask_sqlalchemy.SQLAlchemy(app)
    with app.app_context():
        for source in (app, engine.url, str(engine.url), None):
            assert compare_schema(engine, read_schema(source)).empty
        database.engine.dispose()


def test_compare_schema_tells_each_difference(make):
    before = make("CREATE TABLE t (a INT, b INT)", "CREATE VIEW v AS SELECT 1")
    after = make("CREATE TABLE t (a TEXT, c INT)", "CREATE INDEX i ON t (a)")
    expected = [("changed", "column", "t", "a", "INT", "TEXT"), ("removed", "column", "t", "b", "INT", None),
                ("added", "column", "t", "c", None, "INT"), ("added", "index", "t", "i", None, "(a)"),
                ("removed", "view", "v", "v", "AS SELECT 1", None)]
    columns = ["change", "kind", "table", "name", "before", "after"]
    pd.testing.assert_frame_equal(compare_schema(before, read_schema(after)),
                                  pd.DataFrame(expected, columns=columns, dtype="string"))


def test_compare_schema_of_equals_is_an_empty_frame_with_its_columns(make):
    result = compare_schema(make("CREATE TABLE t (a)"), make("CREATE TABLE t (a)"))
    assert result.empty and list(result.columns) == ["change", "kind", "table", "name", "before", "after"]


def test_a_counter_that_moved_on_is_a_change(make):
    engine = make("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (1)")
    before = read_schema(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (5)")
    assert compare_schema(before, engine).values.tolist() == [["changed", "sequence", "t", "sqlite_sequence", "1", "5"]]


def test_reading_leaves_the_bytes_of_the_database_as_they_are(make, tmp_path):
    engine = make(*BY_HAND, "CREATE VIEW v AS SELECT 1", "CREATE VIRTUAL TABLE f USING fts5(a)")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    read_schema(engine), draw_schema(engine), compare_schema(engine, engine.url)
    engine.dispose()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


USERS = ["CREATE TABLE user (id INTEGER PRIMARY KEY, name VARCHAR(80) NOT NULL UNIQUE)",
         "CREATE TABLE post (id INTEGER PRIMARY KEY, author_id INT NOT NULL REFERENCES user ON DELETE CASCADE)"]


def test_a_diagram_has_a_text_form(make):
    assert repr(draw_schema(make(*USERS))) == """\
post
    id         INTEGER NOT NULL  PK
    author_id  INT NOT NULL      FK
user
    id    INTEGER NOT NULL      PK
    name  VARCHAR(80) NOT NULL  UK
post (author_id) -> user (id) ON DELETE CASCADE"""


def test_a_diagram_is_mermaid_for_jupyterlab(make):
    diagram = draw_schema(make(*USERS))
    assert diagram._repr_mimebundle_() == {"text/vnd.mermaid": str(diagram), "text/plain": repr(diagram)}
    assert str(diagram) == """\
erDiagram
    "post" {
        INTEGER id PK
        INT author_id FK
    }
    "user" {
        INTEGER id PK
        VARCHAR(80) name UK
    }
    "user" ||--o{ "post" : "author_id\""""


def test_two_schemas_are_drawn_as_one_with_marks(make):
    after = make("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT)", "CREATE TABLE tag (id INT REFERENCES user)")
    diagram = draw_schema(make(*USERS), after)
    assert repr(diagram) == """\
- post
-     id         INTEGER NOT NULL  PK
-     author_id  INT NOT NULL      FK
+ tag
+     id  INT  FK
  user
      id    INTEGER NOT NULL      PK
-     name  VARCHAR(80) NOT NULL  UK
+     name  TEXT
- post (author_id) -> user (id) ON DELETE CASCADE
+ tag (id) -> user (id)"""
    assert '        VARCHAR(80) name UK "#45; NOT NULL"\n        TEXT name "+"\n' in str(diagram)
    assert '    "user" ||..o{ "#45; post" : "#45; author_id"' in str(diagram)
    assert '    "user" |o--o{ "+ tag" : "+ id"' in str(diagram)


def test_a_schema_drawn_with_itself_has_no_mark(make):
    engine = make(*USERS)
    assert str(draw_schema(engine, read_schema(engine))).count("\n") == str(draw_schema(engine)).count("\n")
    assert not re.search("^[+-]", repr(draw_schema(engine, engine)), re.MULTILINE)


def test_the_ends_of_a_line_tell_how_many_rows_there_may_be(make):
    engine = make("CREATE TABLE p (a INTEGER PRIMARY KEY)", "CREATE TABLE c (w REFERENCES p, x NOT NULL REFERENCES p, "
                  "y UNIQUE REFERENCES p, z INTEGER PRIMARY KEY REFERENCES p)")
    ends = re.findall(r'"p" (\S+) "c" : "(.)"', str(draw_schema(engine)))
    assert ends == [("|o--o{", "w"), ("||--o{", "x"), ("|o--o|", "y"), ("||--o|", "z")]


@pytest.mark.parametrize("name", [HOSTILE, "x\ny", "direction TB", "1. a", "%%{init: {}}%%", "__a__", "", " ", "\u00a0",
                                  "#35;", "&lt;", "\\", "😀", "𠀀", "end", "pk", "\u200b\u0007"])
def test_no_name_breaks_mermaid(make, name):
    sql = quote(name)
    engine = make(f"CREATE TABLE {sql} ({sql} {quote(name or 'x')} REFERENCES {sql})")
    first, box, field, end, line = str(draw_schema(engine, make())).split("\n")
    string = r'"(?:[^\W_]|[ _,()+]|#\d+;)+"'
    assert re.fullmatch(rf"    {string} \{{", box)
    assert re.fullmatch(rf"    {string} \|o\.\.o\{{ {string} : {string}", line)
    assert re.fullmatch(rf"        (?!(?:PK|FK|UK)\b)[A-Za-z_\u00c0-\uffff][\w()-]* (?!(?:PK|FK|UK)\b)[A-Za-z_][\w-]* "
                        rf"FK {string}", field, re.IGNORECASE)
    assert not re.search(r"direction\s|_\W*_|<|&|%|#160;", box + line)
    assert max(box + field + line) <= "\uffff"
    assert '""' not in str(draw_schema(engine))


KEYWORDS = {"select", "order", "check", "primary", "desc", "default", "references", "unique", "constraint"}
TYPES = {"": "", "integer": "INTEGER", "varchar ( 80 )": "VARCHAR(80)", "Numeric(10,2)": "NUMERIC(10, 2)",
         "double /* ) */ precision": "DOUBLE PRECISION"}
DEFAULTS = {"": "", " default 0": " DEFAULT 0", " DEFAULT 'it''s -- /* , ('": " DEFAULT 'it''s -- /* , ('",
            " default(1+1)": " DEFAULT (1 + 1)", " default current_date": " DEFAULT CURRENT_DATE",
            " default\t-5": " DEFAULT -5"}
ACTIONS = {"": "", " on delete cascade": " ON DELETE CASCADE", " on update set null": " ON UPDATE SET NULL",
           " on delete restrict deferrable initially deferred": " ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED"}
CONFLICTS = {"": "", " on conflict replace": " ON CONFLICT REPLACE", " on conflict abort": ""}

names = (st.sampled_from(sorted(KEYWORDS)) | st.sampled_from(["a", "b1", "_c", "É", "日本", HOSTILE]) |
         st.text(st.sampled_from("ab\"'`[]() ,;.-/*%?:\n\té"), min_size=1, max_size=8))
name_lists = st.lists(names, min_size=2, max_size=6, unique_by=str.lower)


def plain(name):
    """Write a name as a definition does."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) and name not in KEYWORDS else quote(name)


class Writer:
    """Write a table in a random hand, and note what the catalogue must say of it."""

    def __init__(self, seed, table, columns):
        self.random = random.Random(seed)
        self.table, self.columns = table, columns
        self.entries = {("table", table): ""}
        self.key = ()
        self.uniques = set()

    def pick(self, table):
        typed, said = self.random.choice(sorted(table.items()))
        return self.random.choice([typed, typed.upper() if "'" not in typed else typed]), said

    def name(self, name):
        quoted = [quote(name), "`" + name.replace("`", "``") + "`"] + [f"[{name}]"] * ("]" not in name)
        bare = [name + " "] * (plain(name) == name)
        return self.random.choice(quoted + bare) + self.random.choice(["", " ", "/*,)*/", " --'\n"])

    def list(self, names):
        return f"({','.join(map(self.name, names))})", f"({', '.join(map(plain, names))})"

    def constraint(self, kind, derived, said):
        name = self.random.choice(["", f"{kind} \"{len(self.entries)}\""])
        self.entries[kind, name or derived] = said
        return f" constraint {self.name(name)} " if name else " "

    def column(self, column):
        kind, kind_said = self.pick(TYPES)
        default, default_said = self.pick(DEFAULTS)
        collation, collation_said = self.pick({"": "", " collate rtrim": " COLLATE RTRIM", " collate binary": ""})
        conflict, conflict_said = self.pick(CONFLICTS)
        null, null_said = self.pick({"": "", " null": "", f" not null{conflict}": f" NOT NULL{conflict_said}"})
        self.entries["column", column] = (kind_said + null_said + default_said + collation_said).strip()
        parts = [default, collation, null]
        parts += [self.inline_unique(column), self.inline_check(column), self.inline_parent(column)]
        self.random.shuffle(parts)
        return f"{self.name(column)} {kind}{''.join(parts)}"

    def inline_unique(self, column):
        if self.random.random() < .7:
            return ""
        self.uniques.add((column,))
        return self.constraint("unique", f"({plain(column)})", f"({plain(column)})") + "unique"

    def inline_check(self, column):
        if self.random.random() < .6:
            return ""
        said = f"{plain(column)} > -1 OR {plain(column)} IN ('), ''x', 2)"
        head = self.constraint("check", said, said)
        return f"{head}check( ({self.name(column)}>-1 or {self.name(column)}in('), ''x',2)))"

    def inline_parent(self, column):
        if self.random.random() < .6:
            return ""
        actions, said = self.pick(ACTIONS)
        head = self.constraint("foreign key", f"({plain(column)})",
                               f'({plain(column)}) REFERENCES "a parent" ("an id"){said}')
        return f'{head}references"a parent"{self.random.choice(["", "(`an id`)"])}{actions}'

    def keys(self):
        two = tuple(self.random.sample(self.columns, 2))
        if self.random.random() < .7:
            self.key = tuple(self.random.sample(self.columns, self.random.randint(1, len(self.columns))))
            conflict, said = self.pick(CONFLICTS)
            typed, listed = self.list(self.key)
            yield f"{self.constraint('primary key', listed, listed + said)}primary key{typed}{conflict}"
        if self.random.random() < .5:
            typed, listed = self.list(two)
            self.uniques.add(two)
            yield f"{self.constraint('unique', listed, listed)}unique{typed}"
        if self.random.random() < .5:
            typed, listed = self.list(two)
            actions, said = self.pick(ACTIONS)
            head = self.constraint("foreign key", listed, f"{listed} REFERENCES nowhere (x, y){said}")
            yield f"{head}foreign key{typed}references[nowhere](x,'y'){actions}"

    def write(self):
        parts = [*map(self.column, self.columns), *self.keys()]
        kind = self.entries["column", self.key[0]] if len(self.key) == 1 else ""
        if re.match("INTEGER(?! NOT NULL)", kind):
            self.entries["column", self.key[0]] = kind.replace("INTEGER", "INTEGER NOT NULL")
        return f"create table {self.name(self.table)}({' ,'.join(parts)})"


@settings(max_examples=300, deadline=None, database=None)
@given(table=names, columns=name_lists, seed=st.integers(0, 2 ** 32))
def test_whatever_is_written_is_read_back(table, columns, seed):
    writer = Writer(seed, table, columns)
    sql = writer.write()
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        connection.exec_driver_sql('CREATE TABLE "a parent" ("an id" INTEGER PRIMARY KEY)')
        connection.exec_driver_sql(sql)
        entries = [entry for entry in read_catalogue(connection) if entry.table == table]
        (found,) = [other for other in read_tables(connection) if other.name == table]
    engine.dispose()
    assert {(entry.kind, entry.name): entry.definition for entry in entries} == writer.entries, sql
    assert [column.name for column in found.columns] == columns and found.key == writer.key
    assert set(found.uniques) == writer.uniques - {writer.key}
