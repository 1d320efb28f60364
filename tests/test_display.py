"""What a rehearsal shows: as text, as HTML, and that both say the same."""
from html.parser import HTMLParser

import pandas as pd
import pytest
from apps import make_app, write_revision

import appkit
from appkit.display import count_severities, html_of, json_of, text_of

HOSTILE = '<img src=x onerror=alert(1)> "b" & \'c\' $x$ {y} %s\x1b[31m\nLOSS'
FINDING = ["revision", "severity", "finding", "where", "evidence", "effect", "advice"]


class Page(HTMLParser):
    """The words of a page outside of what is folded away, its tags, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.tags, self.styles, self._open = [], set(), "", []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self._open.append(tag)
        self.tags.add(tag)
        self.styles += dict(attributes).get("style", "")
        assert {name for name, _ in attributes} <= {"style", "class"}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "details" not in self._open:
            self.words += data.split()


def finding(**fields: str) -> pd.DataFrame:
    row = dict.fromkeys(FINDING, "some text") | {"severity": "loss"} | fields
    return pd.DataFrame([row], dtype="string")


def ledger_of(table: str) -> dict[str, pd.DataFrame]:
    counts = {name: [1] for name in ("before", "after", "kept", "changed", "lost", "added")}
    return {"Rows that differ:": pd.DataFrame({"revision": ["1"], "table": [table], **counts})}


NONE = finding().head(0), {}


@pytest.fixture
def rehearsal(tmp_path):
    """A rehearsal with a loss, a failure, rows that differ, a note, and names that mean something to HTML."""
    app = make_app(tmp_path, """CREATE TABLE "<b>&t" (id INTEGER PRIMARY KEY, "<i>" TEXT);
        INSERT INTO "<b>&t" VALUES (1, '<script>alert(1)</script>'), (2, NULL);""")
    write_revision(app, "1", "op.drop_column('<b>&t', '<i>')", "raise ValueError('<u>no</u> way  back')")
    write_revision(app, "2", "op.execute('DELETE FROM \"<b>&t\" WHERE id = 1')", follows="1")
    write_revision(app, "3", "op.execute('INSERT INTO \"<b>&t\" VALUES (7)')", follows="2")
    write_revision(app, "4", "raise ValueError('<svg>')", follows="3")
    write_revision(app, "<5>", follows="4")
    return appkit.rehearse(app)


def test_both_forms_say_the_same_words_in_the_same_order(rehearsal):
    assert {"loss", "failure"} <= set(rehearsal.findings["severity"]) and "unknown: <5>" in str(rehearsal)
    assert Page(rehearsal._repr_html_()).words == str(rehearsal).split()


def test_both_forms_hold_every_field_of_every_finding(rehearsal):
    html = " ".join(Page(rehearsal._repr_html_()).words)
    text = " ".join(str(rehearsal).split())
    for row in rehearsal.findings.itertuples(index=False):
        for value in (row.severity.upper(), *row[2:]):
            assert " ".join(value.split()) in html and " ".join(value.split()) in text


def test_names_and_values_are_escaped(rehearsal):
    tags = Page(rehearsal._repr_html_()).tags
    assert not tags & {"script", "b", "i", "u", "svg", "img"}
    assert "<b>&t.<i>" in Page(rehearsal._repr_html_()).words


@pytest.mark.parametrize("field", FINDING)
def test_each_field_of_a_finding_is_escaped(field):
    html = html_of("title", finding(**{field: HOSTILE}), ledger_of("t"), pd.DataFrame(), [])
    assert "img" not in Page(html).tags and "<img" in " ".join(Page(html).words).lower().split()


def test_title_notes_ledger_and_statements_are_escaped():
    statements = pd.DataFrame({"revision": ["1"], "statement": [HOSTILE]}, dtype="string")
    html = html_of(HOSTILE, finding(), ledger_of(HOSTILE), statements, [HOSTILE])
    assert "img" not in Page(html).tags and html.count("&lt;img") == 4


def test_what_cannot_be_seen_is_spelled_out_in_both_forms():
    told = HOSTILE, finding(where=HOSTILE, evidence=HOSTILE), ledger_of(HOSTILE)
    text, html = text_of(*told, [HOSTILE]), html_of(*told, pd.DataFrame(), [HOSTILE])
    assert "\x1b" not in text + html and "\nLOSS\n" not in text
    assert text.count("\\x1b[31m\\nLOSS") == html.count("\\x1b[31m\\nLOSS") == 5


def test_the_text_is_the_same_in_every_folder_and_names_none(tmp_path):
    def told(folder):
        folder.mkdir()
        app = make_app(folder, "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('x'), ('x'), (NULL)")
        write_revision(app, "1", "op.execute('DELETE FROM t')")
        return str(appkit.rehearse(app))
    assert told(tmp_path / "one") == told(tmp_path / "two")
    assert str(tmp_path) not in told(tmp_path / "three")


def test_the_html_names_no_folder_and_has_no_id_and_no_colour(rehearsal, tmp_path):
    html = rehearsal._repr_html_()
    assert str(tmp_path) not in html and "id=" not in html.replace("id=1", "")
    assert "color" not in Page(html).styles and "background" not in Page(html).styles


def test_pandas_options_change_nothing(rehearsal):
    text, html = str(rehearsal), rehearsal._repr_html_()
    with pd.option_context("display.max_colwidth", 5, "display.max_rows", 1, "display.max_columns", 2,
                           "display.width", 20, "display.html.border", 3):
        assert (str(rehearsal), rehearsal._repr_html_()) == (text, html)


def test_lines_of_text_are_short_and_hang_under_their_label():
    text = text_of("title", finding(advice="word " * 60), NONE[1], ["note " * 60])
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[5:7] == ["  do:     " + "word " * 17 + "word", "          " + "word " * 17 + "word"]


def test_a_long_word_stays_whole_to_be_copied():
    name = "x" * 150
    assert f"          {name}" in text_of("title", finding(advice=f"use {name}"), NONE[1], []).splitlines()


def test_long_text_wraps_in_html_and_keeps_the_spaces_of_values():
    html = html_of("title", finding(evidence="'two  spaces'"), NONE[1], pd.DataFrame(), [])
    assert "overflow-wrap: anywhere" in Page(html).styles and "white-space: pre-wrap" in Page(html).styles
    assert "'two  spaces'" in html.replace("&#x27;", "'")


def test_statements_are_folded_away_without_empty_columns_and_not_too_many():
    count = 25
    statements = pd.DataFrame({"statement": pd.array(["SELECT 1"] * count, dtype="string"),
                               "seconds": pd.array([0.01, 2.345] + [None] * (count - 2), dtype="Float64"),
                               "locks": pd.array([None] * count, dtype="string"),
                               "rewritten": pd.array([""] * count, dtype="string")})
    html = html_of("title", *NONE, statements, [])
    assert "<summary>25 statements</summary>" in html and "and 5 more" in html and html.count("SELECT 1") == 20
    assert "&lt; 0.1" in html and "2.3" in html and "locks" not in html and "rewritten" not in html


def test_numbers_stand_right_and_names_left():
    html = html_of("title", NONE[0], ledger_of("t"), pd.DataFrame(), [])
    assert '<th style="text-align: left">table</th>' in html and '<th style="text-align: right">kept</th>' in html


def test_severities_are_counted_gravest_first():
    findings = pd.concat([finding(severity=name) for name in ("warning", "loss", "failure", "loss", "outage", "warning")])
    assert count_severities(findings) == "2 losses, 1 outage, 1 failure, 2 warnings"
    assert count_severities(NONE[0]) == "nothing found"


def test_json_has_plain_values_and_none_for_what_is_missing():
    frame = pd.DataFrame({"text": pd.array(["a", None], dtype="string"), "count": pd.array([1, None], dtype="Int64"),
                          "seconds": [0.5, float("nan")]})
    assert json_of(frame) == [{"text": "a", "count": 1, "seconds": 0.5}, {"text": None, "count": None, "seconds": None}]
