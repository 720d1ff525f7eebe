"""The find-the-bug labs: what the student is shown, and what is put into the package.

That the suspects as they stand fail the first check, and the solution passes all, is shown in
test_every_exercise.py, for each bug that may be drawn.
"""

import ast
import dataclasses
import linecache
import sys

import pytest

from minimtnlg.course import drawn, pages
from minimtnlg.course.feedback import Feedback
from minimtnlg.course.labs import Lab, excerpt
from minimtnlg.course.mutants import MUTANTS, PACKAGE
from minimtnlg.course.sources import ROOT, read_exercise
from minimtnlg.parallel.zero import Zero

PATHS = sorted((ROOT / "exercises" / "src").glob("*_bug_*.py"))
VARIANTS = [(path, bug) for path in PATHS for bug in read_exercise(path).draws["BUG"]]
every = pytest.mark.parametrize("path, bug", VARIANTS, ids=[bug for _, bug in VARIANTS])
LANDING = Lab("parallel/zero.py", ["Zero._leave", "Zero._land"])
COUNTING = Lab("parallel/tensor.py", ["_local", "VocabularyEmbedding"])


def text_of(lab, bug=None):
    return excerpt(lab.file, lab.suspects, bug)


def cell(text, name="VocabularyEmbedding"):
    """What a cell with this text defines, as a notebook or a grader runs it."""
    file, scope = f"<cell {hash(text)}>", {"__name__": "student"}
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    exec(compile(text, file, "exec"), scope)
    return scope[name]


def test_there_are_six_with_two_variants_each():
    assert len(PATHS) == len({path.stem[:2] for path in PATHS}) == 6
    assert all(len(read_exercise(path).draws["BUG"]) >= 2 for path in PATHS)


@every
def test_the_student_sees_the_bug_and_not_its_name(path, bug):
    source = dataclasses.replace(read_exercise(path), draws={"BUG": [bug]})
    values = drawn.values(source)
    text = "\n".join(c.source for c in pages.exercise_notebook(source).cells)
    assert values["PLANTED"] in text and values["RIGHT"] not in text
    assert not [name for name in MUTANTS if name in text]
    assert MUTANTS[bug].belief not in text and "mutant" not in text
    assert ast.dump(ast.parse(values["PLANTED"])) != ast.dump(ast.parse(values["RIGHT"]))
    assert '"""' not in values["PLANTED"]


@every
def test_the_suspects_are_a_cell_that_runs(path, bug):
    """They define what they should, and every name in them is known."""
    values = drawn.values(read_exercise(path), {"BUG": bug})
    lab = Lab(values["FILE"], values["SUSPECTS"])
    for text in (values["PLANTED"], values["RIGHT"]):
        answer = cell(text, lab.names[-1])
        compile(lab.source(answer), lab.file, "exec")
    right = ast.dump(_bare(ast.parse((PACKAGE / lab.file).read_text())))
    assert ast.dump(_bare(ast.parse(lab.source(answer)))) == right


def _bare(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            del node.body[0]
    return tree


def test_all_suspects_come_from_the_cell():
    text = text_of(COUNTING, "vocabulary_counted_from_zero")
    assert "row = tokens\n" in COUNTING.source(cell(text))
    text = text_of(COUNTING, "foreign_tokens_not_zeroed")
    assert "masked_fill(elsewhere[..., None], 0)" not in COUNTING.source(cell(text))


def test_new_methods_and_other_methods():
    helped = text_of(LANDING) + "\n\n    def helper(self):\n        return 3\n"
    tree = ast.parse(LANDING.source(cell(helped, "Zero")))
    (zero,) = (node for node in tree.body if getattr(node, "name", "") == "Zero")
    names = [node.name for node in zero.body if isinstance(node, ast.FunctionDef)]
    assert names.count("_land") == 1 and names[-1] == "helper" and "publish" in names


@pytest.mark.parametrize(
    "answer, what",
    [
        (Zero, "no such function there"),  # the package's own has no bug
        (type("Zero", (), {}), "no such function there"),
        (type("Zero", (Zero,), {"_land": lambda self, b, part, work: None}), "no such function"),
        (lambda *a: None, "got +<function"),
        (None, "got +None"),
    ],
)
def test_what_is_no_mended_cell_is_refused(answer, what):
    with pytest.raises(Feedback, match=what):
        LANDING.source(answer)


def test_other_arguments_are_refused():
    text = text_of(LANDING).replace("part, work):", "work):")
    with pytest.raises(Feedback, match=r"_land\(self, b, part, work\)\ngot +_land\(self, b, w"):
        LANDING.source(cell(text, "Zero"))


def test_a_rank_that_fails_is_put_into_words():
    answer, path = cell(text_of(LANDING), "Zero"), list(sys.path)
    with pytest.raises(Feedback, match="rank 0 of 1 raised ZeroDivisionError"):
        LANDING.run(answer, lambda: 1 / 0, 1)
    assert sys.path == path


def test_compare_says_what_differs(capsys):
    COUNTING.compare(cell(text_of(COUNTING, "foreign_tokens_not_zeroed")), "parallel.tp=2")
    told = capsys.readouterr().out
    assert told.startswith("parallel.tp=2\n  loss       differs by ") and "28 parameters" in told
    COUNTING.compare(cell(text_of(COUNTING)), "parallel.tp=1")
    assert capsys.readouterr().out.count("equal") == 5
