"""flask rehearse: the rehearsal in a terminal, with an exit status."""
import io
import json
import sys
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext


@click.command("rehearse")
@click.argument("to", default="head")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--no-downgrade", is_flag=True, help="Do not try the way back.")
@click.option("--on", metavar="URL", help="A branch, replica or backup to copy, in place of the database.")
@click.option("--in-place", is_flag=True, help="Rehearse right in the database at --on, which is changed by it.")
@click.option("--copy-to", metavar="URL", help="The server to make the copy on.")
@click.option("--patience", default=1.0, show_default=True, help="Seconds that the app's users may wait for a table.")
@with_appcontext
def rehearse(to: str, as_json: bool, no_downgrade: bool, **options: Any) -> None:
    """Run the pending revisions on a private copy, and say what they do.

    The database itself is only read. Exit status: 0 safe, 1 not safe, 2 could not rehearse.
    """
    from appkit.errors import AppkitError, reason_of
    from appkit.rehearsal import rehearse as run  # pandas and DuckDB with it: only when a rehearsal is asked for

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a sign that the terminal lacks is no crash
    try:
        found = run(current_app._get_current_object(), to, downgrade=not no_downgrade, **options)
    except (Exception, KeyboardInterrupt) as reason:  # whatever it is, nothing was found to be safe or not
        told = reason if isinstance(reason, AppkitError) else reason_of(reason)
        click.echo(f"Could not rehearse: {told}", err=True)
        sys.exit(2)
    click.echo(json.dumps(found.to_dict(), indent=2, default=str) if as_json else str(found))
    sys.exit(0 if found.safe else 1)
