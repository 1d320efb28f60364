"""Verdicts: one rehearsal on several databases, side by side."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from flask import Flask

from appkit.errors import AppkitError
from appkit.rehearsal import rehearse
from appkit.result import Rehearsal

# What a database does to a revision, by the finding, else by its severity; the gravest first. No other warning counts.
_VERBS = {"failure": "fails", "loss": "loses", "outage": "locks", "table-rewritten": "rewrites",
          "full-scan-under-lock": "scans"}


def compare_databases(apps: Mapping[str, Flask], to: str = "head", **options: Any) -> pd.DataFrame:
    """Rehearse the same revisions on several databases, and put the verdicts side by side.

    Parameters
    ----------
    apps
        For each database the name to show, and an app that uses it; all with the same history.
    to
        The revision to rehearse to, as `flask db upgrade` takes it.
    options
        As `rehearse` takes them: downgrade, patience, ….

    Returns
    -------
    DataFrame, one row per revision, in the order in which they would run
        Columns: revision, then one of texts for each database: 'safe'; or what was found, by the ids of the findings
        ('fails', 'loses: values-changed post.price', 'locks: readers-wait post', 'rewrites: post', 'scans: post'),
        joined by '; '; 'not reached' after a revision that fails; 'not pending' where it has been applied; 'not
        rehearsed: …' with the reason where the rehearsal itself could not be made.

    Raises
    ------
    AppkitError
        When a database is to be shown as 'revision', or none could be rehearsed.
    """
    if "revision" in apps:
        raise AppkitError("'revision' is the name of the first column: give the database another one.")
    results = {name: _rehearse(app, to, options) for name, app in apps.items()}
    rehearsals = [result for result in results.values() if isinstance(result, Rehearsal)]
    refused = [result for result in results.values() if isinstance(result, AppkitError)]
    if refused and not rehearsals:
        raise refused[0]
    # The database that lags furthest behind gives the order.
    revisions = list(dict.fromkeys(revision for rehearsal in sorted(rehearsals, key=lambda each: -len(each.revisions))
                                   for revision in rehearsal.revisions))
    verdicts = {name: [_verdict(result, revision) for revision in revisions] for name, result in results.items()}
    return pd.DataFrame({name: pd.array(values, dtype="string")
                         for name, values in {"revision": revisions, **verdicts}.items()})


def _rehearse(app: Flask, to: str, options: dict[str, Any]) -> Rehearsal | AppkitError:
    try:
        return rehearse(app, to, **options)
    except AppkitError as reason:
        return reason


def _verdict(result: Rehearsal | AppkitError, revision: str) -> str:
    if isinstance(result, AppkitError):
        return f"not rehearsed: {result}"
    if revision not in result.revisions:
        return "not pending"
    failed = result.findings.query("finding == 'fails'")["revision"]
    if any(revision in result.revisions[result.revisions.index(stop) + 1:] for stop in failed):
        return "not reached"
    return "; ".join(_told(result.findings[result.findings["revision"] == revision].itertuples())) or "safe"


def _told(findings: Iterable[Any]) -> list[str]:
    """Say what a database does, and to what: a text per verb."""
    found: dict[str, list[str]] = {verb: [] for verb in _VERBS.values()}
    for row in findings:
        if verb := _VERBS.get(row.finding) or _VERBS.get(row.severity):
            found[verb].append(_object(row))
    return [": ".join(filter(None, (verb, ", ".join(dict.fromkeys(filter(None, objects))))))
            for verb, objects in found.items() if objects]


def _object(finding: Any) -> str:
    """Give what stands after the verb, where that does not say it all."""
    if finding.finding == "fails":
        return ""
    return finding.where if finding.finding in _VERBS else f"{finding.finding} {finding.where}".strip()
