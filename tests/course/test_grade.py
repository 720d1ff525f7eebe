"""Who handed in what, points, what is kept, and the command line."""

import csv
import json
import os

import commands
import pytest
from handed_in import hand_in, notebook

from minimtnlg.course import grade, submissions
from minimtnlg.course.sources import exercise_sources
from minimtnlg.errors import InputError

RIGHT = """
def agreeing(a, b):
    return sum(x == y for x, y in zip(a, b, strict=True))
"""
LENIENT = """
def agreeing(a, b):
    return sum(x == y for x, y in zip(a, b))
"""
ANYTHING = notebook(RIGHT)


@pytest.fixture
def sources(course):
    return exercise_sources(course)


def found(folder, sources, students=()):
    """{(student, exercise, key, in trouble)} of what is found."""
    listed = submissions.find([folder], sources, students)
    return {(s.student, s.exercise, s.key, bool(s.trouble)) for s in listed}


@pytest.mark.parametrize(
    "place, student",
    [
        ("ada/00_template.ipynb", "ada"),
        ("ada/template.py", "ada"),
        ("ada/exercises/00_template.ipynb", "ada"),
        ("00_template/ada.ipynb", "ada"),
        ("00_template/ada/solved.ipynb", "ada"),
        ("submitted/ada/week2/00_template.ipynb", "ada"),
        ("ada.ipynb", "ada"),
        ("00_template.ipynb", "class"),
        ("work/00_template.ipynb", "class"),
    ],
)
def test_who_handed_it_in(tmp_path, sources, place, student):
    path = tmp_path / "class" / place
    path.parent.mkdir(parents=True)
    path.write_text(notebook(RIGHT) if path.suffix == ".ipynb" else RIGHT)
    assert found(tmp_path / "class", sources) == {(student, "00_template", "", False)}


def test_repositories_of_a_classroom(tmp_path, sources):
    for name in ("bits-ada", "bits-kurt-g"):
        (tmp_path / name / ".git").mkdir(parents=True)
        hand_in(tmp_path, name, "00_template", ANYTHING)
    assert {s for s, *_ in found(tmp_path, sources)} == {"ada", "kurt-g"}
    assert {s for s, *_ in found(tmp_path, sources, {"g", "bits-ada"})} == {"bits-ada", "g"}


def test_folders_that_only_look_alike_keep_their_names(tmp_path, sources):
    for name in ("s-01", "s-02"):
        hand_in(tmp_path, name, "00_template", ANYTHING)
    assert {s for s, *_ in found(tmp_path, sources)} == {"s-01", "s-02"}


@pytest.mark.parametrize(
    "name, text, exercise, key",
    [
        ("my work.ipynb", notebook(RIGHT, 'check("template", agreeing)'), "00_template", ""),
        ("my work.ipynb", notebook(RIGHT), "00_template", ""),
        ("broken.ipynb", notebook("def agreeing(:"), "00_template", ""),
        ("adapters.py", 'ANSWERS = {"template": "own.bits:agree"}', "00_template", "template"),
        ("functions.py", RIGHT, "00_template", ""),
    ],
)
def test_which_exercise_it_answers(tmp_path, sources, name, text, exercise, key):
    hand_in(tmp_path, "ada", name, text)
    assert found(tmp_path, sources) == {("ada", exercise, key, False)}


def test_what_is_not_searched(tmp_path, sources):
    for folder in ("src", ".hidden", "package", "environment"):
        hand_in(tmp_path, f"ada/{folder}", "00_template.py", RIGHT)
    (tmp_path / "ada/package/__init__.py").touch()
    (tmp_path / "ada/environment/pyvenv.cfg").touch()
    hand_in(tmp_path, "ada", "helpers.py", "def f(): pass")
    assert found(tmp_path, sources) == set()


def test_what_can_not_be_graded_is_listed(tmp_path, sources, course):
    hand_in(tmp_path, "ada", "notes.ipynb", "no notebook")
    (tmp_path / "kurt").mkdir()
    (tmp_path / "kurt/00_template.py").symlink_to(course / "exercises/src/00_template.py")
    os.mkfifo(tmp_path / "kurt/template.ipynb")
    assert found(tmp_path, sources) == {
        ("ada", "", "", True),
        ("kurt", "00_template", "", True),
    }
    (ada, *kurt) = grade.grade([tmp_path], root=course, kept=None)
    assert "can't be told" in ada.trouble and ada.points == 0
    assert [(r.points, "not a plain file" in r.trouble) for r in kurt] == [(0, True)]


@pytest.mark.parametrize("path", ["nowhere", "nowhere.ipynb"])
def test_a_path_that_is_not_there_is_refused(tmp_path, sources, path):
    with pytest.raises(InputError, match="no such file"):
        submissions.find([tmp_path / path], sources)


# ------------------------------------------------------------------------------------- points


@pytest.fixture
def handed_in(tmp_path):
    """A folder of five students, one of them with two files."""
    folder = tmp_path / "submitted"
    magics = "%matplotlib inline\n!ls\nx = !ls"
    hand_in(folder, "ada", "00_template", notebook(magics, RIGHT, "1 / 0"))
    hand_in(folder, "kurt", "00_template", notebook(LENIENT))
    hand_in(folder, "grace", "00_template", notebook("x = 1 / 0", "def agreeing(a, b: pass"))
    hand_in(folder, "alan", "00_template", notebook("def agreeing(a, b):\n    return None"))
    hand_in(folder, "alan", "adapters.py", 'ANSWERS = {"template": "own.bits:agree"}')
    hand_in(folder, "alan/own", "__init__.py", "")
    hand_in(folder, "niels", "00_template", "no notebook")
    hand_in(folder, "alan/own", "bits.py", RIGHT.replace("agreeing", "agree"))
    return folder


def test_points_and_words(handed_in, course, shared_boxes):
    results = {r.student: r for r in grade.grade([handed_in], root=course, kept=None, jobs=1)}
    points = {student: result.points for student, result in results.items()}
    passed = [check["kind"] for check in results["kurt"].checks]
    assert passed[0] == "passed" and "passed" not in passed[1:]
    part = round(10 / len(passed), 2)
    assert points == {"ada": 10, "kurt": part, "grace": 0, "alan": 10, "niels": 0}
    *raised, broken = results["grace"].trouble.splitlines()
    assert raised == [
        "there is no function or class agreeing",
        "ZeroDivisionError: division by zero",
        "in your cell 1, line 1: x = 1 / 0",
    ]
    assert broken.startswith("cell 2 is not Python: ") and broken.endswith("(a, b: pass")
    assert "is not a notebook" in results["niels"].trouble
    assert results["alan"].path.endswith("adapters.py")


def test_a_second_call_grades_only_what_changed(handed_in, course, tmp_path, shared_boxes):
    told = []

    def again(**more):
        told.clear()
        results = grade.grade([handed_in], root=course, kept=tmp_path / "kept", tell=told.append,
                              jobs=1, **more)  # fmt: skip
        return {r.student: r.points for r in results}

    first = again()
    assert told[0].startswith("6 to grade")
    assert (again(), told) == (first, [])
    hand_in(handed_in, "kurt", "00_template", notebook(RIGHT))
    assert again()["kurt"] == 10 and told[0].startswith("1 to grade")
    source = course / "exercises/src/00_template.py"
    source.write_text(source.read_text().replace("agrees as well", "agrees too"))
    again()
    assert told[0].startswith("6 to grade")
    again(named=["template"], afresh=True)
    assert told[0].startswith("6 to grade")


def test_an_exercise_that_is_broken_is_the_graders_fault(handed_in, course, shared_boxes):
    source = course / "exercises/src/00_template.py"
    source.write_text(source.read_text().replace("def example(", "1 / 0\n\n\ndef example("))
    results = grade.grade([handed_in], root=course, kept=None, jobs=1)
    assert all(r.lost and "ZeroDivisionError" in r.trouble for r in results)


# ------------------------------------------------------------------------------- command line


def test_the_command_writes_all_it_is_asked_for(
    handed_in, course, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class.csv").write_text("id,name,email\nada,Ada L.,ada@x\nemmy,Emmy N.,\n")
    status, out, err = commands.call(
        monkeypatch, capsys, "grade", handed_in, "--course", course, "--roster", "class.csv",
        "--csv", "out/book.csv", "--json", "all.json", "--feedback", "pages", "--jobs", 2,
    )  # fmt: skip
    assert status == 1
    assert "ada" in out and "not in the roster" in out and "Traceback" not in err
    rows = list(csv.DictReader(open("out/book.csv")))
    assert [row["id"] for row in rows] == ["ada", "emmy", "alan", "grace", "kurt", "niels"]
    assert (rows[0]["name"], rows[0]["00_template"], rows[0]["total"]) == ("Ada L.", "10", "10")
    assert (rows[1]["00_template"], rows[1]["total"]) == ("0", "0")
    assert "not in the roster" in rows[2]["to look at"]
    everything = json.loads(open("all.json").read())
    assert len(everything["students"]) == 6
    assert sorted(os.listdir("pages")) == [
        f"{name}.html" for name in ("ada", "alan", "emmy", "grace", "kurt", "niels")
    ]
    assert "nothing handed in" in open("pages/emmy.html").read()


def test_exit_status_of_one_repository(course, tmp_path, monkeypatch, capsys, shared_boxes):
    monkeypatch.chdir(tmp_path)
    hand_in(tmp_path, "exercises", "00_template", notebook(RIGHT))
    call = ("grade", ".", "--course", course, "--exercise", "template")
    status, out, _ = commands.call(monkeypatch, capsys, *call, "--gradescope", "results.json")
    assert status == 0 and "00_template  10" in out
    results = json.loads(open("results.json").read())
    assert results["score"] == 10
    assert {t["visibility"] for t in results["tests"]} == {"visible", "after_due_date"}
    hand_in(tmp_path, "exercises", "00_template", notebook(LENIENT))
    status, out, _ = commands.call(monkeypatch, capsys, *call)
    assert status == 1 and "not yet" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], "no such file"),
        ([".", "--exercise", "nothing"], "no exercise 'nothing'"),
        ([".", "--roster", "roster.csv"], "must be id,name"),
        (["."], "no submission"),
        ([".", "--course", "."], "there are no exercises"),
    ],
)
def test_a_users_mistake_is_one_line(course, tmp_path, monkeypatch, capsys, arguments, words):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "roster.csv").write_text("number,surname\n1,Ada\n")
    more = [] if "--course" in arguments else ["--course", course]
    status, _, err = commands.call(monkeypatch, capsys, "grade", *arguments, *more)
    assert status == 2
    assert words in err and err.count("\n") == 1
