"""Graders can't be fooled: for every exercise, the same hostile submissions through the sandbox.

The solution gets all points, what is no answer gets exactly none. All of them are graded in two
calls, as a teacher's folder would be; the second has little patience, for what never ends. Each
third exercise; all of them with --full.
"""

import os

import pytest
from handed_in import given, hand_in, notebook, solution, untouched

from minimtnlg.course import exercises, grade
from minimtnlg.course.sources import ROOT, exercise_sources

SOURCES = exercise_sources()
FEW = SOURCES[::3]

# NAME is what the exercise asks for; a class answers whatever is asked of it.
FUNCTION = "def NAME(*a, **k):\n    BODY"
CLASS = """class NAME:
    def __init__(self, *a, **k):
        self.given = a

    def __getattr__(self, name):
        return lambda *a, **k: answer(*(a or self.given), **k)

def answer(*a, **k):
    BODY"""

ANSWERS = {  # what the body of the function does
    "exits": "raise SystemExit(0)",
    "exits_at_once": "__import__('os')._exit(0)",
    "prints": "print('all checks passed\\nSolved.')",  # and returns nothing
    "input": "return a[0] if a else None",
    "zeros": "return nothing_like(*a)",
    "yes": "return Yes()",
}
HELPERS = """
def nothing_like(*a):
    for x in a:
        if hasattr(x, "new_zeros"):
            return x.new_zeros(x.shape)
        if isinstance(x, (list, tuple, dict, str, float)):
            return type(x)()
    return 0

class Yes:  # is equal to everything, and has whatever is asked for
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __bool__(self): return True
    def __hash__(self): return 0
    def __iter__(self): return iter(())
    def __len__(self): return 0
    def __getattr__(self, name): return lambda *a, **k: self
    def __call__(self, *a, **k): return self
"""
PATCHES = """
import torch, math
from minimtnlg.course import check, feedback
torch.allclose = torch.equal = math.isclose = lambda *a, **k: True
feedback.expect = check.expect = lambda *a, **k: None
"""
STEALS = """
try:
    from minimtnlg.course import exercises
    NAME = exercises.load("EXERCISE").solution
except Exception:
    with open("SOURCE") as file:
        text = file.read().split('tags=["solution"]')[1].split("# %%")[0]
    kept = exec(text)
"""


def is_class(source):
    """Whether the exercise asks for a class."""
    name = exercises.asked(source)[0]
    return any(f"class {name}" in cell.source for cell in source.tagged("stub"))


def hostile(source):
    """student -> cells, for one exercise."""
    name = exercises.asked(source)[0]
    start = given(source)
    shape = CLASS if is_class(source) else FUNCTION

    def answer(body):
        return [*start, HELPERS, shape.replace("NAME", name).replace("BODY", body)]

    steals = STEALS.replace("NAME", name).replace("EXERCISE", source.name)
    return {
        "empty": start,
        "untouched": untouched(source),
        "broken": [*start, f"def {name}(:\n    return"],
        "patches": [*start, PATCHES, *answer("return None")[-2:]],
        "steals": [*start, steals.replace("SOURCE", str(source.path))],
        **{student: answer(body) for student, body in ANSWERS.items()},
    }


@pytest.fixture(scope="module")
def students(pytestconfig):
    """exercise -> who hands something in, beside the solution.

    All with --full. Else who does nothing, and a third of the others, by turns.
    """
    full = pytestconfig.getoption("full")
    others = [name for name in hostile(SOURCES[0]) if name != "untouched"]

    def chosen(i):
        if full:
            return ["untouched", *others, "loops"]
        return ["untouched", *others[i % 3 :: 3], *["loops"] * (i % 6 == 0)]

    return {source.stem: chosen(i) for i, source in enumerate(SOURCES if full else FEW)}


@pytest.fixture(scope="module")
def graded(tmp_path_factory, students, boxes):
    """(student, exercise) -> Result."""
    folder, slow = tmp_path_factory.mktemp("submitted"), tmp_path_factory.mktemp("slow")
    for source in (source for source in SOURCES if source.stem in students):
        hand_in(folder, "solution", source.stem, notebook(*given(source), *solution(source)))
        for student, cells in hostile(source).items():
            if student in students[source.stem]:
                hand_in(folder, student, source.stem, notebook(*cells))
        loops = "while True: pass"
        if not is_class(source) and "BUG" not in source.draws:  # labs look at the code first
            loops = FUNCTION.replace("NAME", exercises.asked(source)[0]).replace("BODY", loops)
        if "loops" in students[source.stem]:
            hand_in(slow, "loops", source.stem, notebook(*given(source), loops))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "Sandbox", boxes)
        results = grade.grade([folder], kept=None, jobs=os.cpu_count(), seconds=120)
        results += grade.grade([slow], kept=None, jobs=os.cpu_count(), seconds=1.5)
    return {(r.student, r.exercise): r for r in results}


every = pytest.mark.parametrize(
    "source",
    [
        pytest.param(source, id=source.stem, marks=[pytest.mark.long] * (source not in FEW))
        for source in SOURCES
    ],
)


@every
def test_the_solution_gets_all_points(graded, source):
    result = graded["solution", source.stem]
    failed = [check for check in result.checks if check["kind"] != "passed"]
    assert (result.points, failed, result.trouble) == (grade.FULL, [], "")


@every
def test_no_points_for_what_is_no_answer(graded, students, source):
    assert [s for s in students[source.stem] if graded[s, source.stem].points != 0] == []


@every
def test_who_does_nothing_is_not_suspected(graded, source):
    assert graded["untouched", source.stem].flags == []


@every
def test_they_are_told_why(graded, students, source):
    told = {
        "empty": "no function or class TARGET",
        "broken": "not Python",
        "loops": "was not done after 1.5 s",
        "patches": "your code replaces",
        "steals": "no function or class TARGET",
    }
    for student in told.keys() & set(students[source.stem]):
        words = told[student].replace("TARGET", exercises.asked(source)[0])
        assert words in graded[student, source.stem].trouble, student
    assert all(not result.lost for result in graded.values())


def test_every_exercise_is_there(graded, students):
    assert len(graded) == sum(len(names) + 1 for names in students.values())
    assert set(hostile(SOURCES[0])) | {"loops"} == set().union(*students.values())
    assert len(SOURCES) == len(list((ROOT / "exercises" / "src").glob("[0-9][0-9]_*.py")))
