"""Cells stay cells, whatever they hold."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.study.tables import comma_separated, latex, latex_text, markdown

CELLS = st.lists(st.text(max_size=12), min_size=2, max_size=2)


@given(st.lists(CELLS, max_size=4))
def test_markdown_keeps_its_columns(rows):
    lines = markdown(["a", "b"], rows).split("\n")
    assert len(lines) == len(rows) + 3
    for line in lines[:-1]:
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3
        assert "<" not in line


@given(st.text(alphabet="\\&%$#_{}~^<>ab \n", max_size=20))
def test_latex_has_nothing_to_act_on(text):
    made = latex_text(text)
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}"):
        made = made.replace(known, "")
    for escaped in ("\\&", "\\%", "\\$", "\\#", "\\_", "\\{", "\\}"):
        made = made.replace(escaped, "")
    assert set(made) <= set("ab ")


def test_latex_rules_and_caption():
    made = latex(["", "x"], [["a", "1"], [], ["b", "2"]], "100% sure")
    assert made.count(r"\midrule") == 2
    assert r"\caption{100\% sure}" in made
    assert made.startswith(r"\begin{table}")
    assert made.endswith("\\end{table}\n")


def test_csv_reads_back_and_holds_no_formula():
    made = comma_separated(["a", "b"], [['x,"y"', None], ["=1+1", 2.5]])
    assert list(csv.reader(io.StringIO(made))) == [["a", "b"], ['x,"y"', ""], ["'=1+1", "2.5"]]
