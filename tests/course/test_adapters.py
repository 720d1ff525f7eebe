"""Answers in a package of one's own are found by name and checked; wrong names are one line."""

import subprocess
import sys

import pytest

from minimtnlg.course import pages
from minimtnlg.course.adapters import resolve
from minimtnlg.course.sources import ROOT, exercise_sources
from minimtnlg.errors import InputError


def test_committed_adapters_name_every_exercise():
    text = (ROOT / "exercises" / "adapters.py").read_text(encoding="utf-8")
    assert text == pages.adapters(), "run: minimtnlg course build"
    scope = {"__name__": "adapters"}
    exec(text, scope)
    assert list(scope["ANSWERS"]) == [source.name for source in exercise_sources()]


@pytest.mark.parametrize(
    "answer, words",
    [
        ("math.floor", 'write "package.module:function"'),
        ("nowhere.at_all:f", "no module 'nowhere'"),
        ("math:no_such", "math has no 'no_such'"),
    ],
)
def test_names_that_lead_nowhere(answer, words):
    with pytest.raises(InputError, match=words):
        resolve("top_p", answer)


def test_functions_and_names_of_functions():
    assert resolve("x", "os.path:join") is resolve("x", resolve("x", "os.path:join"))
    assert resolve("x", "collections:OrderedDict.fromkeys")([1]) == {1: None}


def test_what_their_module_cannot_import_is_their_error(tmp_path, monkeypatch):
    (tmp_path / "own_module_of_a_student.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        resolve("x", "own_module_of_a_student:f")


def test_the_script_checks_what_is_named(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "pareto.py").write_text("def frontier(layouts):\n    return sorted(layouts)\n")
    named = '"the_frontier": "mine.pareto:frontier"'
    text = pages.adapters().replace('"the_frontier": None', named)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "adapters.py").write_text(text)

    def call(*names):
        command = [sys.executable, "work/adapters.py", *names]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = call()
    assert "the_frontier: 1 of 8" in done.stdout and done.returncode == 0, done.stderr
    refused = call("will_it_fit")
    assert refused.returncode == 1 and refused.stderr.strip() == (
        "will_it_fit: nothing stands for it in ANSWERS"
    )
