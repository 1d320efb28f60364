"""What is measured on every server: reading a table, and watching a history of small revisions."""
from collections.abc import Callable

from measure import Row, compete, measure
from subject import make_app, upgrading, write_history

_CREATE = 'op.create_table("t{0}", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String(20)))'


def execute(url: str, statements: list[str]) -> Callable[[], None]:
    """Run statements, each committed by itself."""
    from sqlalchemy import create_engine

    def work() -> None:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.replace("%", "%%"))
        engine.dispose()
    return work


def ours(url: str) -> Callable[[], int]:
    """Read by appkit.read_table."""
    import appkit
    from appkit.databases import database_of
    from sqlalchemy import create_engine

    read = appkit.read_table
    assert database_of(create_engine(url)).read_ordered  # which is imported when it is first asked for
    return lambda: len(read(url, "account"))


def pandas(url: str) -> Callable[[], int]:
    """Read by pandas.read_sql_table, through Python's driver."""
    from pandas import read_sql_table
    from sqlalchemy import create_engine

    engine = create_engine(url)
    return lambda: len(read_sql_table("account", engine))


def write(folder: str, revisions: int) -> Callable[[], None]:
    """Write a history in which every revision makes a table."""
    return lambda: write_history(folder, [(_CREATE.format(number), "pass") for number in range(revisions)])


def plain(folder: str, server: str, revisions: int) -> Callable[[], int]:
    """Upgrade an empty database; give how many revisions ran."""
    upgrade = upgrading(folder, _empty(server, "plain"))

    def work() -> int:
        upgrade()
        return revisions
    return work


def watched(folder: str, server: str, revisions: int) -> Callable[[], int]:
    """Upgrade an empty database, watched as in a rehearsal; give how many statements of revisions were seen."""
    from appkit.databases import database_of, engine_of
    from appkit.watching import Watch

    app = make_app(folder, _empty(server, "watched"))
    engine = engine_of(app)

    def work() -> int:
        import flask_migrate

        with app.app_context(), Watch(database_of(engine), engine, []) as watch:
            flask_migrate.upgrade()
            engine.dispose()
        return len(watch.statements)
    return work


def rehearsed(folder: str, server: str, revisions: int) -> Callable[[], int]:
    """Rehearse the whole history on a copy of an empty database; give how many revisions ran."""
    import appkit

    app, rehearse = make_app(folder, _empty(server, "rehearsed")), appkit.rehearse
    return lambda: int(rehearse(app, downgrade=False).ledger["revision"].nunique())


def _empty(server: str, name: str) -> str:
    """Make an empty database beside a server's own."""
    execute(server, [f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}"])()
    return database_at(server, name)


def database_at(server: str, name: str) -> str:
    """Give the URL of another database of a server."""
    from sqlalchemy import make_url

    return make_url(server).set(database=name).render_as_string(hide_password=False)


def run_history(what: str, folder: str, server: str, revisions: int, runs: int) -> list[Row]:
    """Measure what watching costs, and give the lines of the table."""
    measure(write, folder, revisions)
    found = compete(runs, [plain, watched, rehearsed], folder, server, revisions)
    size, name = f"{revisions} revisions on {what}", "flask_migrate.upgrade"
    return [Row(f"watch {size}", "s", found["watched"].seconds, found["plain"].seconds, name, 2.0),
            Row(f"rehearse {size}", "s", found["rehearsed"].seconds, found["plain"].seconds, name)]
