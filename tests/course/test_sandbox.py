"""A submission that misbehaves gets no points for it, and nobody else notices.

All are graded in one call, side by side with good ones, by the template's exercise.
"""

import os
import re
import shutil
import tempfile

import psutil
import pytest
from conftest import small_course
from handed_in import hand_in, notebook

from minimtnlg.course import grade

RIGHT = """
def agreeing(a, b):
    return sum(x == y for x, y in zip(a, b, strict=True))
"""
WRONG = """
def agreeing(a, b):
    return -1
"""
KINDS = re.compile("minimtnlg-(grade|submission)-")  # folders of the grader
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
    "pretends_a_file": (
        "kept = exec(compile('import sys\\ndef agreeing(a, b): return sys._getframe(1)"
        ".f_globals[\"PLACES\"]', '{stdlib}/inspect.py', 'exec'))", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    course = small_course(tmp_path_factory.mktemp("course"))
    folder = tmp_path_factory.mktemp("submitted")
    for name, (code, _) in (DAMAGE | TRICKS).items():
        code = code.replace("{root}", str(course)).replace("{stdlib}", os.path.dirname(os.__file__))
        cells = [code] if "def agreeing" in code or "agreeing =" in code else [code, RIGHT]
        if name in ("reads_the_source", "pretends_a_file", "eats_in_children"):
            cells = [code]
        hand_in(folder, name, "00_template", notebook(*cells))
    for name in ("ada", "kurt", "zuse"):  # before, among and after the others
        cells = "print('an experiment')", RIGHT, "agreeing([1], [1])", "check('template', agreeing)"
        hand_in(folder, name, "00_template", notebook(*cells))
    before = set(os.listdir(tempfile.gettempdir()))
    free = shutil.disk_usage(folder).free
    told = []
    results = grade.grade([folder], root=course, jobs=2, kept=None, tell=told.append, seconds=6,
                          memory=1000)  # fmt: skip
    return {
        "results": {r.student: r for r in results},
        "told": told,
        "new": {n for n in set(os.listdir(tempfile.gettempdir())) - before if KINDS.match(n)},
        "taken": free - shutil.disk_usage(folder).free,
    }


@pytest.mark.parametrize("name", [*DAMAGE, *TRICKS])
def test_no_points_for(graded, name):
    result = graded["results"][name]
    if name in ("fills_the_disk", "eats_memory", "leaves"):  # stopped; then a right answer
        assert result.points in (0, grade.FULL)
        return
    assert result.points == 0
    assert all(check["kind"] != "passed" for check in result.checks[:1])
    word = (DAMAGE | TRICKS)[name][1]
    assert word in result.trouble, (result.trouble, result.checks, result.flags)


def test_the_others_get_theirs(graded):
    for name in ("ada", "kurt", "zuse"):
        assert graded["results"][name].points == grade.FULL, graded["results"][name]


def test_nothing_is_left_behind(graded):
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if line and MARK in line]
    assert graded["new"] == set()
    assert graded["taken"] < 50e6


def test_attempts_are_told_to_the_teacher(graded):
    results = graded["results"]
    assert "tried: sys._getframe" in results["looks_at_frames"].flags
    assert "tried: tb_frame" in results["looks_at_a_traceback"].flags
    assert "torch.allclose = ..." in results["replaces_allclose"].flags
    assert results["ada"].flags == []
