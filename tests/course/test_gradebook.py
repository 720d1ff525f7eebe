"""The gradebook, Gradescope's file and the page of a student."""

import csv
import html.parser
import io
import json

import pytest

from minimtnlg.course import gradebook, handback
from minimtnlg.course.grade import Result, judge
from minimtnlg.course.sources import ROOT, read_exercise
from minimtnlg.errors import InputError


def result(student="ada", exercise="06_ring", points=5.0, **more):
    checks = [
        {"name": "core", "title": "The sum", "hidden": False, "kind": "passed", "text": ""},
        {"name": "odd", "title": "Odd <lengths>", "hidden": True, "kind": "failed",
         "text": "expected  4711"},
    ]  # fmt: skip
    return Result(student, exercise, "A ring", "ada/06.ipynb", points, checks, **more)


def test_gradebook_has_a_row_a_student_and_a_column_an_exercise():
    results = [result(), result(exercise="07_sum", points=10.0), result("kurt", flags=["gc"])]
    table, stems = gradebook.by_student(results)
    rows = list(csv.reader(io.StringIO(gradebook.to_csv(table, stems))))
    assert rows == [
        ["id", "name", "email", "06_ring", "07_sum", "total", "to look at"],
        ["ada", "", "", "5", "10", "15", ""],
        ["kurt", "", "", "5", "", "5", "06_ring: gc"],
    ]


def test_no_cell_is_a_formula():
    table, stems = gradebook.by_student([result("=cmd()", flags=["@x"])])
    row = list(csv.reader(io.StringIO(gradebook.to_csv(table, stems))))[1]
    assert row[0] == "'=cmd()"


def test_roster(tmp_path):
    path = tmp_path / "class.csv"
    path.write_text("\ufeffID,Name,Email\n7,Ada L.,a@x\n", encoding="utf-8")
    roster = gradebook.read_roster(path)
    assert roster == {"7": {"id": "7", "name": "Ada L.", "email": "a@x"}}
    table, stems = gradebook.by_student([result("kurt")], roster)
    assert table["7"]["06_ring"].trouble == "nothing handed in"
    assert gradebook.flags(table["kurt"]) == ["06_ring: not in the roster"]
    assert not gradebook.is_full(table)


@pytest.mark.parametrize("text", ["", "id\n1\n", "id,name\n1,A\n1,B\n", "id,name\n,A\n"])
def test_a_roster_that_cannot_be_meant_is_refused(tmp_path, text):
    (tmp_path / "class.csv").write_text(text)
    with pytest.raises(InputError, match="class.csv"):
        gradebook.read_roster(tmp_path / "class.csv")


def test_gradescope_adds_up_and_hides_what_is_hidden():
    table, _ = gradebook.by_student([result()])
    written = json.loads(gradebook.to_gradescope(table))
    assert written["score"] == sum(test["score"] for test in written["tests"]) == 5
    assert sum(test["max_score"] for test in written["tests"]) == 10
    assert [test["visibility"] for test in written["tests"]] == ["visible", "after_due_date"]
    assert "4711" not in json.dumps(written)


def test_gradescope_is_for_one_student():
    table, _ = gradebook.by_student([result(), result("kurt")])
    with pytest.raises(InputError, match="one student; here are 2"):
        gradebook.to_gradescope(table)


def test_page_tells_what_failed_but_not_what_hidden_checks_expect():
    failed = {"name": "x", "title": "Its <type>", "hidden": False, "kind": "failed",
              "text": "got  <script>alert(1)</script>"}  # fmt: skip
    one = result()
    page = handback.page("<b>Ada</b>", {"06_ring": result(trouble="a <i> b")})
    assert "4711" not in page and "Odd &lt;lengths&gt;" in page and "(hidden)" in page
    assert "a &lt;i&gt; b" in page and "<b>Ada" not in page
    one.checks.append(failed)
    page = handback.page("Ada", {"06_ring": one})
    assert "&lt;script&gt;" in page and "<script" not in page
    assert "src=" not in page and "href=" not in page
    html.parser.HTMLParser().feed(page)


def test_pages_of_names_that_no_file_can_have(tmp_path):
    table, _ = gradebook.by_student([result("a/b"), result("a_b"), result("..")])
    paths = handback.write_pages(tmp_path / "pages", table)
    assert sorted(path.name for path in paths) == ["_.html", "a_b.html", "a_b_.html"]
    assert all(path.exists() for path in paths)


# ------------------------------------------------------------------------------------- judging


class Handed:
    student, exercise, path = "ada", "00_template", "x.ipynb"


@pytest.fixture
def source():
    return read_exercise(ROOT / "exercises" / "src" / "_template.py")


def said(source, *kinds, **end):
    from minimtnlg.course.exercises import asked

    names = [name for name, *_ in asked(source)[1]]
    lines = [
        {"check": name, "kind": kind, "text": ""} for name, kind in zip(names, kinds, strict=False)
    ]
    return {"said": [*lines, end], "ended": ""}


def test_no_points_unless_the_first_check_passes(source):
    assert judge(Handed, source, said(source, "failed", "passed", done=True)).points == 0
    assert judge(Handed, source, said(source, "passed", "failed", done=True)).points == 5
    assert judge(Handed, source, said(source, "passed", "passed", done=True)).points == 10


def test_whoever_replaces_something_has_no_points(source):
    found = judge(Handed, source, said(source, "passed", replaced="torch.allclose"))
    assert found.points == 0 and "replaces torch.allclose" in found.trouble


def test_an_early_end_keeps_what_was_passed(source):
    found = judge(Handed, source, said(source, "passed"))
    assert found.points == 5 and "ended the process" in found.trouble
