"""A submission that misbehaves gets no points for it, and nobody else notices.

All are graded in one call, side by side with good ones, by the template's exercise.
"""

import functools
import os
import shutil
import tempfile

import psutil
import pytest
from conftest import small_course
from handed_in import hand_in, notebook

from minimtnlg.course import grade, gradebook, handback, sandbox

RIGHT = """
def agreeing(a, b):
    return sum(x == y for x, y in zip(a, b, strict=True))
"""
WRONG = """
def agreeing(a, b):
    return -1
"""
MARK = "60.6060606"  # seconds that a child sleeps: what to look for among the processes

DAMAGE = {  # what a submission does, and a word of what is said about it
    "forks": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError: pass",
        "ended",
    ),
    "eats_memory": (
        "kept = []\nwhile True:\n    kept.append(bytearray(50_000_000))",
        "MemoryError",
    ),
    "eats_in_children": (
        "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n"
        "        kept = bytearray(b'x' * 300_000_000)\n        time.sleep(60)\n"
        "kept = time.sleep(60)",
        "ended",
    ),
    "fills_the_disk": (
        "import os\nfor i in range(10**6):\n"
        "    with open(f'{i}', 'wb') as file:\n        file.write(bytes(10**7))",
        "OSError",
    ),
    "floods": ("while True:\n    print('all checks passed, 10 of 10 points\\n' * 1000)", "ended"),
    "hangs": ("while True: pass", "ended"),
    "hangs_in_a_call": ("def agreeing(a, b):\n    while True: pass", "ended"),
    "leaves": ("import sys\nkept = sys.exit(0)", "SystemExit"),
    "leaves_at_once": ("import os\nkept = os._exit(0)", "ended the process"),
    "leaves_in_a_call": ("import os\ndef agreeing(a, b):\n    os._exit(0)", "ended the process"),
    "kills_all": ("import os\nfor pid in (-1, 1, os.getppid()):\n    try: os.kill(pid, 9)\n"
                  "    except OSError: pass\n" + WRONG, ""),
    "recurses": ("def agreeing(a, b):\n    return agreeing(a, b)", ""),
    "speaks_for_the_grader": (
        "import json, os\nfor fd in range(3, 64):\n    for word in ('passed', 'done'):\n"
        "        text = json.dumps({'check': 'example', 'kind': word, 'text': ''})\n"
        "        try: os.write(fd, f'{text}\\n'.encode())\n        except OSError: pass\n" + WRONG,
        "",
    ),
    "leaves_children": (
        f"import subprocess, os\nsubprocess.Popen(['sleep', '{MARK}'], start_new_session=True)\n"
        f"if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execvp('sleep', ['sleep', '{MARK}'])\n    os._exit(0)\n" + WRONG,
        "",
    ),
}  # fmt: skip

TRICKS = {  # what is replaced or looked into, and a word of what is said about it
    "equal_to_all": (
        "class Yes(int):\n    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n    __hash__ = None\n"
        "def agreeing(a, b): return Yes(-1)",
        "",
    ),
    "equal_objects": (
        "class Yes:\n    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "    def __getattr__(self, name): return lambda *a, **k: self\n"
        "def agreeing(a, b): return Yes()",
        "",
    ),
    "replaces_allclose": ("import torch\ntorch.allclose = lambda *a, **k: True\n" + WRONG,
                          "replaces torch.allclose"),
    "replaces_expect": ("from minimtnlg.course import feedback\n"
                        "feedback.expect = lambda *a, **k: None\n" + WRONG,
                        "replaces minimtnlg.course.feedback.expect"),
    "replaces_code": ("from minimtnlg.course import feedback\n"
                      "feedback.expect.__code__ = (lambda *a, **k: None).__code__\n" + WRONG, ""),
    "replaces_in_a_call": ("def agreeing(a, b):\n    from minimtnlg.course import feedback\n"
                           "    feedback._difference = lambda *a: None\n    return -1",
                           "replaces minimtnlg.course.feedback._difference"),
    "hides_a_builtin": ("from minimtnlg.course import feedback\n"
                        "feedback.isinstance = lambda *a: False\n" + WRONG, "feedback.isinstance"),
    "replaces_a_method": ("import torch\ntorch.Tensor.__eq__ = lambda *a: True\n" + WRONG,
                          "torch.Tensor.__eq__"),
    "replaces_a_module": ("import sys, types\nsys.modules['numpy'] = types.ModuleType('numpy')\n"
                          + WRONG, "the module numpy"),
    "looks_at_frames": (
        "import sys\ndef agreeing(a, b):\n    frame = sys._getframe(1)\n"
        "    return frame.f_globals['PLACES']", ""),
    "looks_at_a_traceback": (
        "def agreeing(a, b):\n    try:\n        1 / 0\n    except Exception as error:\n"
        "        return error.__traceback__.tb_frame.f_back.f_globals['PLACES']", ""),
    "looks_at_the_stack": (
        "import inspect\ndef agreeing(a, b):\n"
        "    return inspect.currentframe().f_back.f_globals['PLACES']", ""),
    "looks_by_a_logger": (
        "import logging\ndef agreeing(a, b):\n"
        "    return logging.currentframe().f_back.f_back.f_globals['PLACES']", ""),
    "looks_by_a_debugger": (
        "import bdb\nseen = []\nclass Debugger(bdb.Bdb):\n"
        "    def user_line(self, frame): seen.append(frame)\ndef agreeing(a, b):\n"
        "    Debugger().runcall(lambda: 1)\n    frame = seen[0]\n"
        "    while 'PLACES' not in frame.f_globals: frame = frame.f_back\n"
        "    return frame.f_globals['PLACES']", ""),
    "looks_at_garbage": (
        "import gc\ndef agreeing(a, b):\n    for x in gc.get_objects():\n"
        "        if isinstance(x, dict) and 'PLACES' in x:\n            return x['PLACES']", ""),
    "looks_by_ctypes": (
        "import ctypes\ndef agreeing(a, b):\n"
        "    return ctypes.py_object.from_address(id(a)).value", ""),
    "takes_the_solution": ("from minimtnlg.course import exercises\n"
                           "agreeing = exercises.load('template').solution", ""),
    "reads_the_source": (
        "import glob\ntexts = [open(p).read() for p in glob.glob('{root}/exercises/src/*.py')]\n"
        "kept = exec(texts[0].split('tags=[\"solution\"]')[1].split('# %%')[0])", ""),
    "looks_by_a_signal": (
        "import signal\nseen = []\ndef handler(number, frame): seen.append(frame)\n"
        "kept = signal.signal(signal.SIGUSR1, handler)\ndef agreeing(a, b):\n"
        "    signal.raise_signal(signal.SIGUSR1)\n    frame = seen[0]\n"
        "    while 'PLACES' not in frame.f_globals: frame = frame.f_back\n"
        "    return frame.f_globals['PLACES']", ""),
    "looks_by_a_library": (
        "import functools, sys\nclass Frame(int):\n"
        "    found = functools.cached_property(sys._getframe)\ndef agreeing(a, b):\n"
        "    frame = Frame(1).found\n"
        "    while 'PLACES' not in frame.f_globals: frame = frame.f_back\n"
        "    return frame.f_globals['PLACES']", ""),
    "speaks_by_json": (
        "import json\nreal = json.JSONEncoder().encode\nkept = vars(json._default_encoder).update("
        "encode=lambda s: real(dict(s, kind='passed') if 'check' in s else s))\n" + WRONG, ""),
    "another_any": (
        "import numpy._core._methods as inner\ninner.umr_any = lambda *a, **k: False\n" + WRONG,
        "umr_any"),
    "another_list_of_modules": (
        "import sys\nsys.modules = dict(sys.modules)\n" + WRONG, "sys.modules"),
    "another_package": (
        "import os, sys\nkept = os.makedirs('fake/minimtnlg')\n"
        "with open('fake/minimtnlg/__init__.py', 'w') as file: kept = file.write('')\n"
        "kept = sys.path.insert(0, 'fake')\n" + WRONG, "the package minimtnlg"),
    "pretends_a_file": (
        "kept = exec(compile('import sys\\ndef agreeing(a, b): return sys._getframe(1)"
        ".f_globals[\"PLACES\"]', '{stdlib}/inspect.py', 'exec'))", ""),
}  # fmt: skip


STOPPED = ("fills_the_disk", "eats_memory", "leaves")  # and then comes a right answer
GOOD = ("ada", "kurt", "zuse")  # before, among and after the others
ALONE = ("reads_the_source", "pretends_a_file", "eats_in_children")
OPEN = (
    "forks", "eats_memory", "fills_the_disk", "hangs", "kills_all", "leaves_children",
    "speaks_for_the_grader", "takes_the_solution", "reads_the_source",
)  # fmt: skip


def grade_all(tmp_path_factory, names):
    """Grade these and three good ones; {"results": by student, "left": files, ...}."""
    course = small_course(tmp_path_factory.mktemp("course"))
    folder = tmp_path_factory.mktemp("submitted")
    for name in names:
        code = (DAMAGE | TRICKS)[name][0]
        code = code.replace("{root}", str(course)).replace("{stdlib}", os.path.dirname(os.__file__))
        alone = "agreeing(" in code or "agreeing =" in code or name in ALONE
        hand_in(folder, name, "00_template", notebook(*([code] if alone else [code, RIGHT])))
    for name in GOOD:
        cells = "print('an experiment')", RIGHT, "agreeing([1], [1])", "check('template', agreeing)"
        hand_in(folder, name, "00_template", notebook(*cells))
    told, temporary = [], tmp_path_factory.mktemp("temporary")
    free = shutil.disk_usage(folder).free
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", None)
        results = grade.grade([folder], root=course, jobs=2, kept=None, tell=told.append,
                              seconds=6, memory=1000)  # fmt: skip
    return {
        "results": {r.student: r for r in results},
        "told": told,
        "left": list(temporary.rglob("*")),
        "taken": free - shutil.disk_usage(folder).free,
    }


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    return grade_all(tmp_path_factory, [*DAMAGE, *TRICKS])


@pytest.fixture(scope="module")
def graded_open(tmp_path_factory):
    """The same on a system that has no namespaces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "Sandbox", functools.partial(sandbox.Sandbox, enclosed=False))
        return grade_all(tmp_path_factory, OPEN)


@pytest.mark.parametrize("name", [*DAMAGE, *TRICKS])
def test_no_points_for(graded, name):
    result = graded["results"][name]
    if name in STOPPED:
        assert result.points in (0, grade.FULL)
        return
    assert result.points == 0
    assert all(check["kind"] != "passed" for check in result.checks[:1])
    word = (DAMAGE | TRICKS)[name][1]
    assert word in result.trouble, (result.trouble, result.checks, result.flags)


def test_without_namespaces_no_points_either(graded_open):
    results = graded_open["results"]
    assert [name for name in OPEN if results[name].points and name not in STOPPED] == []
    assert any(text.startswith("not kept out") for text in graded_open["told"])


@pytest.mark.parametrize("call", ["graded", "graded_open"])
def test_the_others_get_theirs_and_nothing_is_left_behind(call, request):
    graded = request.getfixturevalue(call)
    for name in GOOD:
        assert graded["results"][name].points == grade.FULL, graded["results"][name]
    lines = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if line and MARK in line]
    assert graded["left"] == []
    assert graded["taken"] < 1e9  # other tests write meanwhile, but not so much


def test_what_honest_code_does_is_allowed(tmp_path, shared_boxes):
    """Logging, dataclasses, autograd, threads, files, subprocesses: as in any notebook."""
    honest = """
import collections, dataclasses, enum, inspect, logging, subprocess, tempfile, threading, traceback
import warnings
import torch

@dataclasses.dataclass
class Pair:
    a: "list"
    b: "list"

Point = collections.namedtuple("Point", "x y")

class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g

def agreeing(a, b):
    logging.getLogger("mine").warning("a line")
    warnings.warn("a warning")
    x = torch.ones(3, requires_grad=True)
    Double.apply(x).sum().backward()
    try:
        1 / 0
    except ZeroDivisionError:
        assert "1 / 0" in traceback.format_exc()
    assert "def agreeing" in inspect.getsource(agreeing)
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    thread = threading.Thread(target=print, args=("x",))
    thread.start()
    thread.join()
    assert subprocess.run(["true"]).returncode == 0
    pair = Pair(a, b)
    return sum(x == y for x, y in zip(pair.a, pair.b, strict=True))
"""
    course = small_course(tmp_path / "course")
    hand_in(tmp_path, "ada", "00_template", notebook(honest))
    (result,) = grade.grade([tmp_path / "ada"], root=course, kept=None, jobs=1)
    assert (result.points, result.flags) == (grade.FULL, ["subprocess"]), result


def test_attempts_are_told_to_the_teacher(graded):
    results = graded["results"]
    assert "tried: sys._getframe" in results["looks_at_frames"].flags
    assert "tried: tb_frame" in results["looks_at_a_traceback"].flags
    assert "torch.allclose = ..." in results["replaces_allclose"].flags
    assert results["ada"].flags == []


def test_files_as_editors_and_systems_leave_them(tmp_path, shared_boxes):
    """A line that begins with `%`, a mark at the start, foreign names: all that is no fault."""
    course, folder = small_course(tmp_path / "course"), tmp_path / "submitted"
    split = RIGHT.replace("return sum", "return (1000\n    % 1000) + sum")
    hand_in(folder, "black", "00_template", notebook("%matplotlib inline", split))
    hand_in(folder, "separator", "00_template", notebook(f'text = "a\u2028b"\n{RIGHT}'))
    hand_in(folder, "notepad", "00_template", "\ufeff" + notebook(RIGHT))
    hand_in(folder / "00_template", ".", "abc.py", RIGHT)  # a student whose name a module has
    right = ("black", "separator", "notepad", "abc")
    hand_in(folder, "surrogate", "00_template", notebook("raise ValueError('\\ud800')", RIGHT))
    hand_in(folder, os.fsdecode(b"ren\xe9"), "00_template", notebook(WRONG))
    results = grade.grade([folder], root=course, jobs=2, kept=tmp_path / "kept", seconds=20)
    points = {r.student: (r.points, r.trouble) for r in results}
    assert {name: points[name] for name in right} == dict.fromkeys(right, (grade.FULL, ""))
    assert points[os.fsdecode(b"ren\xe9")][0] == 0
    table, stems = gradebook.by_student(results, None, ())
    gradebook.write(tmp_path / "marks.csv", gradebook.to_csv(table, stems, None))
    assert len(handback.write_pages(tmp_path / "pages", table)) == len(table)
    assert "ren" in gradebook.to_text(table, stems)


def test_a_neighbours_file_is_no_answer(tmp_path, shared_boxes):
    course, folder = small_course(tmp_path / "course"), tmp_path / "submitted"
    hand_in(folder, ".", "ada.py", RIGHT)
    hand_in(folder, ".", "mallory.py", 'ANSWERS = {"template": "ada:agreeing"}')
    results = grade.grade([folder], root=course, jobs=1, kept=None, seconds=20)
    assert {r.student: r.points for r in results} == {"ada": grade.FULL, "mallory": 0}


def test_what_was_made_for_another_class_is_told(tmp_path, shared_boxes):
    course, folder = small_course(tmp_path / "course"), tmp_path / "submitted"
    hand_in(folder, "ada", "00_template", notebook('setup("1a2b3c")', RIGHT))
    (result,) = grade.grade([folder], root=course, jobs=1, kept=None, seconds=20)
    assert "made for the class 1a2b3c" in result.flags[0]
