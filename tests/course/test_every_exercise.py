"""Every exercise proves itself: its solution passes, its stub and every wrong answer do not."""

import ast
from functools import cache

import nbformat
import pytest

from minimtnlg.course import exercises, pages
from minimtnlg.course.sources import HELP, MARKS, ROOT, exercise_sources, lessons, read_exercise

SOURCES = ROOT / "exercises" / "src"
PATHS = sorted(SOURCES.glob("[0-9_]*.py"))  # the template too
every = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@cache
def load(path):
    return exercises.load(path)


def is_lab(path):
    """Whether the student mends code that has a bug (test_labs.py has more about these)."""
    return "_bug_" in path.stem


def drawings(path):
    """The public variant of an exercise, and others in which every drawn value comes up."""
    draws = read_exercise(path).draws
    most = max(map(len, draws.values()), default=1)
    return [
        {name: options[min(i, len(options) - 1)] for name, options in draws.items()}
        for i in range(most)
    ]


def cases():
    """(path, draws): the last variant; all of them with --full.

    The public one, which is the first, is graded as a class's work in test_graders.py.
    """
    for path in PATHS:
        variants = drawings(path)
        for i, draws in enumerate(variants, 1):
            long = [pytest.mark.long] if i < len(variants) else []
            yield pytest.param(path, draws, id=f"{path.stem}-{i}", marks=long)


drawn = pytest.mark.parametrize("path, draws", list(cases()))


@drawn
def test_solution_passes(path, draws):
    exercise = exercises.load(path, draws=draws)
    outcomes = exercise.grade(exercise.solution)
    assert [(o.check.name, o.kind, o.text) for o in outcomes if o.kind != "passed"] == []
    assert len(outcomes) == len(exercise.checks)


@drawn
def test_stub_says_what_to_do(path, draws):
    exercise = exercises.load(path, draws=draws)
    (outcome,) = exercise.grade(exercise.stub, stop=True)
    if is_lab(path):
        assert outcome.kind == "failed" and "look at" in outcome.text  # it shows the symptom
        return
    assert outcome.kind == "stub"
    assert len(outcome.text) > len("not written yet: ") + 10, "say what to write"


@drawn
def test_wrong_answers_fail_the_check_named_for_them(path, draws, pytestconfig):
    exercise = exercises.load(path, draws=draws)
    checks = {check.name: check for check in exercise.checks}
    scope = exercise.checks[0].run.__globals__
    if "_PATIENCE" in scope and not pytestconfig.getoption("full"):
        scope["_PATIENCE"] = 4  # of some, ranks wait for each other for ever
    assert len(exercise.wrong) >= 3
    wrong = list(exercise.wrong.items())
    if not pytestconfig.getoption("full"):
        wrong = wrong[PATHS.index(path) % 2 :: 2]
    for name, (answer, caught_by) in wrong:
        assert caught_by in checks, f"{name}: there is no check {caught_by!r}"
        outcome = exercise.try_check(checks[caught_by], answer)
        assert outcome.kind in ("failed", "error", "unusable"), f"{name} passes {caught_by}"


@pytest.mark.filterwarnings("ignore")  # they are called with what they were not made for
@every
def test_solutions_of_other_exercises_fail(path, pytestconfig):
    exercise, place = load(path), PATHS.index(path)
    others = PATHS[place + 1 :] + PATHS[:place]
    for other in others if pytestconfig.getoption("full") else others[:4]:
        outcomes = exercise.grade(load(other).solution, stop=True)
        assert outcomes[-1].kind != "passed", f"the solution of {other.stem} passes"


@every
def test_source_is_complete(path):
    exercise = load(path)
    source = exercise.source
    assert len(exercise.hints) == 3
    assert any(check.hidden for check in exercise.checks)
    assert any(not check.hidden for check in exercise.checks)
    assert all(check.title != check.name for check in exercise.checks), "a check has no docstring"
    (oral,) = source.tagged("oral")
    assert oral.source.count("**Q.**") == oral.source.count("**A.**") >= 1
    statement = "\n".join(c.source for c in source.cells if not c.metadata.get("tags"))
    assert "**Target:**" in statement
    if path.stem[0] != "_":
        known = {t for x in lessons() if x.number <= source.number for t in x.introduces}
        assert set(source.needs) <= known
        names = [other.name for other in exercise_sources()]
        assert names.count(source.name) == 1, f"two exercises are called {source.name}"


def test_each_lesson_begins_easily_and_help_fades():
    sources = exercise_sources()
    assert len(sources) >= 24
    for lesson in lessons():
        own = [source for source in sources if source.number == lesson.number]
        assert 1 <= len(own) <= 3, f"lesson {lesson.number} has {len(own)} exercises"
        assert own[0].mark <= 2, f"lesson {lesson.number} begins with mark {own[0].mark}"
        help_given = [HELP.index(source.help) for source in own]
        assert help_given == sorted(help_given), f"lesson {lesson.number}: help grows with the mark"
    assert {source.mark for source in sources} == set(MARKS)


def test_answers_have_names_of_their_own():
    """So that a module tells by what it defines which exercises it answers."""
    targets = [load(path).target for path in PATHS]
    assert sorted(targets) == sorted(set(targets))


@every
def test_student_notebook_holds_no_trace_of_the_answers(path):
    exercise = load(path)
    notebook = pages.exercise_notebook(exercise.source)
    text = "\n".join(cell.source for cell in notebook.cells)
    secrets = [f"def {name}(" for name in [c.name for c in exercise.checks] + list(exercise.wrong)]
    bodies = [n for n in ast.walk(ast.parse(exercise.solution_code)) if hasattr(n, "body")]
    for node in bodies:
        if isinstance(node, ast.FunctionDef):
            secrets.append(ast.get_source_segment(exercise.solution_code, node.body[-1]))
    if is_lab(path):  # of the lines that are right already, nothing is secret
        secrets = [secret for secret in secrets if secret not in exercise.stub_code]
    assert [secret for secret in secrets if secret in text] == []
    assert exercise.stub_code in text
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)


@pytest.mark.parametrize("source", exercise_sources(), ids=lambda source: source.stem)
def test_committed_notebook_is_its_source(source):
    path = ROOT / "exercises" / f"{source.stem}.ipynb"
    assert path.exists(), "run: minimtnlg course build"
    assert nbformat.read(path, as_version=4) == pages.exercise_notebook(source)
