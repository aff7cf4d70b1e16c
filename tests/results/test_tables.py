"""Cells stay cells, whatever they hold, in every format."""

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.results.tables import FORMATS, Document, Table, finite, markdown_table, render

CELLS = st.lists(st.text(max_size=12), min_size=2, max_size=2)


def one_table(header, rows, title="", **rest):
    table = Table(title, header, rows, **rest)
    return Document([table], table)


@given(st.lists(CELLS, max_size=4))
def test_markdown_keeps_its_columns(rows):
    lines = markdown_table(["a", "b"], rows).split("\n")
    assert len(lines) == len(rows) + 2
    for line in lines:
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3
        assert "<" not in line


def test_markdown_makes_no_html_link_or_image_of_a_name():
    evil = "<img src=x onerror=alert(1)> ![pixel](https://tracker) [click](javascript:x)"
    document = one_table([evil, "b"], [[evil, 1]], title=evil, notes=[evil])
    text = render(
        Document(document.tables, document.values, problems=[evil], conclusions=[evil], title=evil), "markdown"
    )
    assert text.count("&lt;img") == 7
    assert "<" not in text
    assert "](" not in text


@given(st.text(alphabet="\\&%$#_{}~^<>|ab \n", max_size=20))
def test_latex_has_nothing_to_act_on(text):
    made = render(one_table(["x"], [["a" + text]]), "latex").split("\\midrule\n")[1].split(" \\\\\n\\bottomrule")[0]
    for known in ("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"):
        made = made.replace(f"\\{known}{{}}", "")
    for escaped in ("\\&", "\\%", "\\$", "\\#", "\\_", "\\{", "\\}"):
        made = made.replace(escaped, "")
    assert set(made) <= set("ab ")


def test_latex_rules_and_caption():
    made = render(one_table(["", "x"], [["a", "1"], [], ["b", "2"]], "100% sure"), "latex")
    assert made.count(r"\midrule") == 2
    assert r"\caption{100\% sure}" in made
    assert made.startswith(r"\begin{table}")
    assert made.endswith("\\end{table}\n")


@pytest.mark.parametrize("name", ["[99cm]x", "*x", "[t]"])
def test_latex_reads_no_option_or_star_at_the_start_of_a_row(name):
    r"""After `\\\\` and `\midrule`, LaTeX looks for `[` and for `*` beyond the end of the line."""
    made = render(one_table([name, "x"], [["a", "1"], [name, "2"], [], [name, "3"]]), "latex")
    rows = [line for line in made.splitlines() if name in line]
    assert len(rows) == 3
    assert all(row.startswith("{}" + name) for row in rows)


def test_a_latex_comment_ends_with_its_line_and_no_sooner():
    document = one_table(["x"], [["1"]], notes=["note\n\\input{secret}"])
    document = Document(
        document.tables, document.values, problems=["a\r\\input{secret}"], conclusions=["b\x0b\\input{secret}"]
    )
    hits = [line for line in re.split(r"[\n\r\x0b\x0c\x85\u2028]", render(document, "latex")) if "secret" in line]
    assert len(hits) == 3
    assert all(line.startswith("% ") for line in hits)


def test_csv_reads_back_and_holds_no_formula():
    made = render(one_table(["a", "b"], [['x,"y"', None], ["=1+1", 2.5], [], ["nan", float("nan")]]), "csv")
    assert list(csv.reader(io.StringIO(made))) == [["a", "b"], ['x,"y"', ""], ["'=1+1", "2.5"], ["nan", ""]]


@pytest.mark.parametrize(
    "text",
    ["=1", "+1+2", "-2+3+cmd|' /C calc'!A0", "@x", "\t=1", "\n=1", "\r@x", " =1", "-x", "＝1", "=cmd|' /C calc'!A0"],
)
def test_no_csv_cell_is_a_formula(text):
    ((header, cell),) = csv.reader(io.StringIO(render(one_table([text, text], []), "csv")))
    assert header == cell == "'" + text.replace("\r", " ")


@pytest.mark.parametrize("text", ["-1.5", "+3", "-0.25e-3", "1-2", "a=b", ""])
def test_csv_leaves_numbers_and_other_text_alone(text):
    ((_, cell),) = csv.reader(io.StringIO(render(one_table(["x", text], []), "csv")))
    assert cell == text


def test_the_terminal_reads_no_markup_and_no_control_sequences():
    evil = "[/x] [bold]b[/] \x1b[2Jc"
    text = render(one_table(["", evil], [[evil, 1]], evil, notes=[evil]), "table")
    assert text.count("[/x] [bold]b[/] [2Jc") >= 3
    assert "\x1b" not in text


def test_the_terminal_cuts_no_digit_in_80_columns():
    rows = [["single_object", *["80.2 (72.1 to 88.3)"] * 4]]
    header = ["", "difference", "p (corrected)", "smallest visible", "only base / only lora"]
    shown = "".join(render(one_table(header, rows), "table", width=80).split())
    assert "…" not in shown
    # A cell that is too wide goes on in the next line, so every digit is there.
    assert sum(map(str.isdigit, shown)) == 4 * 9


def test_json_holds_the_record_without_nan():
    document = Document([], Table("", [], []), {"low": float("nan"), "rows": ({"x": float("inf")}, 1.5)})
    assert json.loads(render(document, "json")) == {"low": None, "rows": [{"x": None}, 1.5]}
    assert finite({1: True, "n": 10**400}) == {"1": True, "n": 10**400}


def test_another_format():
    with pytest.raises(ValueError, match="expected one of table, markdown, latex, csv, json, got 'pdf'"):
        render(one_table([], []), "pdf")
    assert FORMATS == ("table", "markdown", "latex", "csv", "json")
