"""What MariaDB says of itself, what its statements mean, and why they failed."""
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

import servers
from appkit.databases.mariadb.catalogue import read_catalogue, read_structure, read_tables
from appkit.databases.mariadb.naming import quote
from appkit.databases.mariadb.obstacles import find_obstacle
from appkit.databases.mariadb.reading import read_orphans
from appkit.databases.mariadb.statements import find_drops, find_renames, find_table_renames

NAME = "a %s b `\"' :x é 日"


@pytest.fixture
def url():
    made = servers.new_database(servers.mariadb(), options="CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    yield made
    servers.drop_database(made)


def catalogue(url):
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        return {(entry.kind, entry.table, entry.name): entry.definition for entry in read_catalogue(connection)}


def structure(url):
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        return read_structure(connection)


COLUMNS = [
    ("int unsigned zerofill NOT NULL DEFAULT 7", "int(10) unsigned zerofill NOT NULL DEFAULT 0000000007"),
    ("varchar(20) CHARACTER SET latin1 COLLATE latin1_bin DEFAULT 'it''s'",
     "varchar(20) DEFAULT 'it''s' COLLATE latin1_bin"),
    ("varchar(20) COLLATE utf8mb4_general_ci", "varchar(20)"),
    ("int DEFAULT (1 + 2) COMMENT 'it''s'", "int(11) DEFAULT (1 + 2) COMMENT 'it''s'"),
    ("int AS (id + 1) VIRTUAL INVISIBLE", "int(11) GENERATED ALWAYS AS (`id` + 1) VIRTUAL INVISIBLE"),
    ("int AS (id + 1) PERSISTENT", "int(11) GENERATED ALWAYS AS (`id` + 1) STORED"),
    ("timestamp(3) NULL DEFAULT NULL ON UPDATE current_timestamp(3)", "timestamp(3) ON UPDATE current_timestamp(3)"),
    ("datetime NOT NULL DEFAULT now()", "datetime NOT NULL DEFAULT current_timestamp()"),
    ("enum('a','b''c') NOT NULL", "enum('a','b''c') NOT NULL"),
    ("json", "longtext COLLATE utf8mb4_bin"),
]


@pytest.mark.parametrize("declared, told", COLUMNS)
def test_a_column_is_told_as_the_server_has_it(url, declared, told):
    servers.execute(url, f"CREATE TABLE {quote(NAME)} (id int PRIMARY KEY, {quote(NAME)} {declared})")
    assert catalogue(url)["column", NAME, NAME] == told


OBJECTS = [
    ("UNIQUE KEY u (a(5), b)", "unique", "u", "(a(5), b)"),
    ("KEY k (b DESC) COMMENT 'c'", "index", "k", "(b DESC) COMMENT 'c'"),
    ("FULLTEXT KEY f (a)", "index", "f", "FULLTEXT (a)"),
    ("SPATIAL KEY s (p)", "index", "s", "SPATIAL (p)"),
    ("KEY i (b) IGNORED", "index", "i", "(b) IGNORED"),
    ("UNIQUE KEY long_one (t)", "unique", "long_one", "(t) USING HASH"),
    ("CHECK (b > 0)", "check", "CONSTRAINT_1", "`b` > 0"),
    ("CONSTRAINT ck CHECK (a <> '%')", "check", "ck", "`a` <> '%'"),
    ("CONSTRAINT fk FOREIGN KEY (b) REFERENCES p (id) ON DELETE SET NULL ON UPDATE CASCADE", "foreign key", "fk",
     "(b) REFERENCES p (id) ON DELETE SET NULL ON UPDATE CASCADE"),
    ("CONSTRAINT fk FOREIGN KEY (b) REFERENCES p (id) ON DELETE NO ACTION", "foreign key", "fk",
     "(b) REFERENCES p (id)"),
    ("PRIMARY KEY (b, a)", "primary key", "PRIMARY", "(b, a)"),
]


@pytest.mark.parametrize("declared, kind, name, told", OBJECTS)
def test_a_constraint_or_an_index_is_told(url, declared, kind, name, told):
    servers.execute(url, "CREATE TABLE p (id int PRIMARY KEY)",
                    f"CREATE TABLE c (a varchar(20), b int, p point NOT NULL, t text, {declared})")
    assert catalogue(url)[kind, "c", name] == told


PROGRAMS = [
    ("CREATE TRIGGER tr BEFORE INSERT ON p FOR EACH ROW SET NEW.a = '%'", ("trigger", "p", "tr"),
     "BEFORE INSERT FOR EACH ROW SET NEW.a = '%'"),
    ("CREATE VIEW v AS SELECT id FROM p WHERE a LIKE '%''x`.`'", ("view", "v", "v"),
     "select `p`.`id` AS `id` from `p` where `p`.`a` like '%\\'x`.`'"),
    ("CREATE FUNCTION f(x int) RETURNS int DETERMINISTIC RETURN x + 1", ("function", "f", "f"),
     "(x int(11)) RETURNS int(11) DETERMINISTIC RETURN x + 1"),
    ("CREATE PROCEDURE pr(IN x int, OUT y int) SELECT 1", ("procedure", "pr", "pr"),
     "(x int(11), OUT y int(11)) SELECT 1"),
    ("CREATE EVENT e ON SCHEDULE AT '2030-01-01' DISABLE DO SELECT 1", ("event", "e", "e"),
     "ON SCHEDULE AT 2030-01-01 00:00:00 DISABLED DO SELECT 1"),
    ("CREATE SEQUENCE s START WITH 5 INCREMENT BY 2 CYCLE", ("sequence options", "s", "s"),
     "START WITH 5 MINVALUE 1 MAXVALUE 9223372036854775806 INCREMENT BY 2 CACHE 1000 CYCLE"),
]


@pytest.mark.parametrize("statement, where, told", PROGRAMS)
def test_what_stands_beside_tables_is_told_without_the_database(url, statement, where, told):
    servers.execute(url, "CREATE TABLE p (id int PRIMARY KEY, a varchar(9))", statement)
    assert catalogue(url)[where] == told


@pytest.mark.parametrize("options, told", [
    ("ENGINE=MyISAM COLLATE latin1_bin", "ENGINE=MyISAM COLLATE=latin1_bin"),
    ("ROW_FORMAT=COMPRESSED COMMENT 'it''s'",
     "ENGINE=InnoDB COLLATE=utf8mb4_general_ci row_format=COMPRESSED COMMENT 'it''s'"),
    ("WITH SYSTEM VERSIONING", "ENGINE=InnoDB COLLATE=utf8mb4_general_ci WITH SYSTEM VERSIONING"),
    ("PARTITION BY RANGE (id) (PARTITION x VALUES LESS THAN (5), PARTITION y VALUES LESS THAN MAXVALUE)",
     "ENGINE=InnoDB COLLATE=utf8mb4_general_ci PARTITION BY RANGE (`id`) (x 5, y MAXVALUE)"),
])
def test_a_table_is_told_with_its_options(url, options, told):
    servers.execute(url, f"CREATE TABLE {quote(NAME)} (id int) {options}")
    assert catalogue(url)["table", NAME, NAME] == told


def test_positions_are_those_of_now(url):
    servers.execute(url, "CREATE SEQUENCE s NOCACHE", "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY)")
    seen = []
    for _ in range(3):
        found = catalogue(url)
        seen.append((found["sequence", "t", "AUTO_INCREMENT"], found["sequence", "s", "s"]))
        servers.execute(url, "INSERT INTO t VALUES ()", "SELECT NEXT VALUE FOR s")
    assert seen == [("1", "1"), ("2", "2"), ("3", "3")]


def test_tables_have_their_keys_uniques_parents_and_generated_columns(url):
    servers.execute(url, "CREATE TABLE `b.é` (id int PRIMARY KEY, x int, y varchar(9), UNIQUE (x, y), UNIQUE (y(3)))",
                    "CREATE TABLE a (z int AS (1), w int, v int, PRIMARY KEY (v, w), "
                    "FOREIGN KEY (w) REFERENCES `b.é` (id))",
                    "CREATE VIEW v AS SELECT 1", "CREATE SEQUENCE s")
    first, second = structure(url).tables
    assert (first.name, first.key, first.uniques, first.parents) == ("a", ("v", "w"), (), ("b.é",))
    assert [column.generated for column in first.columns] == [True, False, False]
    assert (second.name, second.uniques, second.schema) == ("b.é", (("x", "y"),), "")


def test_nothing_of_another_database_is_told(url):
    other = servers.new_database(servers.mariadb(), url.database.upper())
    try:
        servers.execute(other, "CREATE TABLE theirs (id int)")
        servers.execute(url, "CREATE TABLE ours (id int)")
        assert {table for _, table, _ in catalogue(url)} == {"ours"}
    finally:
        servers.drop_database(other)


@pytest.mark.parametrize("change, rebuilt", [
    ("ADD COLUMN b int", False), ("MODIFY id bigint", True), ("FORCE", True), ("COMMENT 'c'", False)])
def test_a_rebuilt_table_is_stored_elsewhere(url, change, rebuilt):
    servers.execute(url, f"CREATE TABLE {quote(NAME)} (id int)", "CREATE TABLE other (id int)")
    before = structure(url).storage
    servers.execute(url, f"ALTER TABLE {quote(NAME)} {change}")
    after = structure(url).storage
    assert (before[NAME] != after[NAME], before["other"] == after["other"]) == (rebuilt, True)


def test_what_cannot_be_known_of_storage_counts_as_rebuilt(url):
    servers.execute(url, "CREATE TABLE t (id int) ENGINE=MyISAM", "CREATE TABLE i (id int)",
                    "CREATE OR REPLACE USER weak@'127.0.0.1' IDENTIFIED BY 'w'",
                    f"GRANT SELECT ON {quote(url.database)}.* TO weak@'127.0.0.1'")
    assert structure(url).storage["t"] != structure(url).storage["t"]
    weak = url.set(username="weak", password="w")
    assert structure(weak).storage["i"] != structure(weak).storage["i"]


def test_rows_without_a_parent_are_found(url):
    servers.execute(url, "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b))",
                    f"CREATE TABLE {quote(NAME)} (x int, y int, FOREIGN KEY (x, y) REFERENCES p (a, b))",
                    "CREATE TABLE gone (id int PRIMARY KEY)",
                    "CREATE TABLE lost (x int, FOREIGN KEY (x) REFERENCES gone (id))",
                    "INSERT INTO p VALUES (1, 1)", "SET foreign_key_checks = 0",
                    f"INSERT INTO {quote(NAME)} VALUES (1, 1), (1, 2), (NULL, 3), (2, 1)", "DROP TABLE gone")
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        found = dict(read_orphans(connection))
    assert found[NAME] == "2 rows point at no row of p"
    assert "gone' doesn't exist" in found["lost"]


def test_renames_are_read_from_statements():
    assert find_renames([
        "ALTER TABLE `x y` CHANGE `a,b` `c` varchar(20) DEFAULT ',', RENAME COLUMN d TO e, CHANGE COLUMN f f int",
        "alter table db.t rename column `q``x` to z; ", "ALTER TABLE t MODIFY a int", "UPDATE t SET a = 1"]) == [
            ("x y", {"c": "a,b", "e": "d"}), ("t", {"z": "q`x"})]
    assert find_table_renames([
        "RENAME TABLE A TO b, `c d` TO d.e", "ALTER TABLE b RENAME AS z", "ALTER TABLE q RENAME w",
        "ALTER TABLE o RENAME INDEX a TO b", "RENAME TABLE m TO tmp, n TO m, tmp TO n"]) == {
            "z": "a", "e": "c d", "w": "q", "m": "n", "n": "m"}
    assert find_table_renames(["RENAME TABLE a TO b", "DROP TABLE IF EXISTS b CASCADE"]) == {}


def test_drops_are_read_from_statements():
    assert find_drops(["DROP INDEX `I x` ON t"]) == {("index", "i x"), ("unique", "i x")}
    assert find_drops(["ALTER TABLE t DROP FOREIGN KEY `b`, DROP CHECK d, DROP COLUMN e, DROP PRIMARY KEY, "
                       "DROP f"]) == {
        ("foreign key", "b"), ("check", "d"), ("primary key", "primary")}
    assert ("check", "c") in find_drops(["ALTER TABLE t DROP CONSTRAINT IF EXISTS c"])
    assert find_drops(["DROP TRIGGER IF EXISTS db.tr", "/* c */ DROP VIEW v1, `v,2` CASCADE", "DROP TABLE t"]) == {
        ("trigger", "tr"), ("view", "v1"), ("view", "v,2")}


T = quote(NAME)
OBSTACLES = [
    (f"ALTER TABLE {T} MODIFY `n %s` int NOT NULL", "not null", "n %s", 1, ("id=1",)),
    (f"ALTER TABLE {T} MODIFY a int", "cast", "a", 1, ("id=1",)),
    (f"ALTER TABLE {T} MODIFY COLUMN a varchar(2) NOT NULL", "cast", "a", 1, ("id=1",)),
    (f"ALTER TABLE {T} MODIFY `n %s` tinyint", "cast", "n %s", 1, ("id=2",)),
    (f"ALTER TABLE {T} CHANGE a b datetime", "cast", "a", 3, ("id=1", "id=2", "id=3")),
    (f"ALTER TABLE {T} MODIFY e enum('a')", "cast", "e", 2, ("id=2", "id=3")),
    (f"CREATE UNIQUE INDEX `u` ON {T} (a)", "unique", "a", 2, ("id=2", "id=3")),
    (f"ALTER TABLE {T} ADD CONSTRAINT u UNIQUE (a(2))", "unique", "a", 2, ("id=2", "id=3")),
    (f"ALTER TABLE {T} ADD CONSTRAINT f FOREIGN KEY (p) REFERENCES par (id)", "foreign key", "p", 1, ("id=2",)),
    (f"ALTER TABLE {T} ADD CONSTRAINT c CHECK (`n %s` > 100 and a <> '(')", "check", "`n %s` > 100 and a <> '('", 1,
     ("id=3",)),
    ("DROP TABLE par", "parent", "q", 2, ("id=1", "id=2")),
    ("DELETE FROM par", "parent", "q", 2, ("id=1", "id=2")),
]


@pytest.mark.parametrize("statement, kind, column, count, keys", OBSTACLES)
def test_the_rows_in_the_way_are_counted_and_named(url, statement, kind, column, count, keys):
    servers.execute(url, f"CREATE TABLE {T} (id int PRIMARY KEY, a varchar(50), `n %s` int, e enum('a','b'), p int)",
                    "CREATE TABLE par (id int PRIMARY KEY)", "INSERT INTO par VALUES (7)",
                    f"INSERT INTO {T} VALUES (1, 'abc', NULL, 'a', 7), (2, '12', 300, 'b', 8), (3, '12', 5, 'b', NULL)",
                    "CREATE TABLE child (id int PRIMARY KEY, q int, FOREIGN KEY (q) REFERENCES par (id))",
                    "INSERT INTO child VALUES (1, 7), (2, 7), (3, NULL)")
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        with pytest.raises(DBAPIError) as failed:
            connection.exec_driver_sql(statement.replace("%", "%%"))
        found = find_obstacle(connection, str(failed.value.orig), statement)
    assert (found.kind, found.column, found.rows, found.keys) == (kind, column, count, keys)


def test_what_reads_tables_reads_them_as_the_catalogue_does(url):
    servers.execute(url, f"CREATE TABLE {T} (id int PRIMARY KEY)", "CREATE VIEW v AS SELECT 1")
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        assert read_tables(connection) == structure(url).tables
