"""Build, run and hand out the course: what `minimtnlg course build | run | start` calls.

build   sources -> executed notebooks (committed), student exercises, adapters.py, glossary,
        README's map
run     every lesson executed again, with other parameters if wanted; the table of `make course`
start   copies without outputs in `work/`, where a learner edits
"""

import importlib.util
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat

from minimtnlg.course import pages
from minimtnlg.course.execute import LessonFailed, clean, run_notebook
from minimtnlg.course.need import need
from minimtnlg.course.sources import ROOT, exercise_sources, lessons, tags
from minimtnlg.course.start import start as start
from minimtnlg.errors import InputError
from minimtnlg.files import appearing

BUDGET = 15 * 60  # seconds for all lessons on two cores


@dataclass(frozen=True)
class Result:
    """How one lesson went. `state` is "ok", "skipped" or "FAILED"; `text` says why, in one line."""

    name: str
    state: str
    seconds: float = 0.0
    text: str = ""


def build(names=None, execute=True, root=ROOT):
    """Write the notebooks of the lessons `names` (all by default), every exercise and page.

    A lesson's notebook is replaced only when all its cells ran. With `execute=False` only texts
    change: outputs are kept where no code cell changed. Returns a list of Result.
    """
    root = Path(root)
    results = []
    chosen = select(names, root)
    if execute:
        _make_needed(chosen)
    for lesson in chosen:
        target = root / "notebooks" / f"{lesson.name}.ipynb"
        notebook = pages.lesson_notebook(lesson, root)
        start = time.perf_counter()
        print(f"{lesson.name} ...", end=" ", flush=True)
        absent = missing(lesson)
        if execute and absent:
            results.append(Result(lesson.name, "skipped", 0.0, absent))
        else:
            try:
                if execute:
                    notebook = clean(run_notebook(notebook), root)
                else:
                    _keep_outputs(notebook, target)
                _write(notebook, target)
                results.append(Result(lesson.name, "ok", time.perf_counter() - start))
            except LessonFailed as failure:
                seconds = time.perf_counter() - start
                results.append(Result(lesson.name, "FAILED", seconds, str(failure)))
        print(_line(results[-1]))
    _write_pages(root)
    return results


def run(names=None, parameters=None, out="build/notebooks", root=ROOT):
    """Execute the lessons `names` (all by default) into the folder `out` of root; print a table.

    `parameters` replace values of each lesson's parameters cell. A committed notebook whose cells
    are not those of its source counts as a failure. Returns a list of Result.
    """
    root = Path(root)
    chosen = select(names, root)
    results = []
    _make_needed(chosen)
    for i, lesson in enumerate(chosen, 1):
        print(f"[{i}/{len(chosen)}] {lesson.name} ...", end=" ", flush=True)
        results.append(_run_one(lesson, parameters, root / out / f"{lesson.name}.ipynb", root))
        print(_line(results[-1]))
    _print_table(chosen, results)
    return results


def _print_table(chosen, results):
    """How each lesson went, beside the seconds that its source promises on two cores."""
    print(f"\n{'lesson':<28}{'seconds':>9}{'of':>6}  result")
    for lesson, result in zip(chosen, results, strict=True):
        told = f"{result.name:<28}{result.seconds:>9.1f}{lesson.seconds:>6}"
        print(f"{told}  {result.state}  {result.text}".rstrip())
    budget = min(BUDGET, sum(lesson.seconds for lesson in chosen))
    print(f"{'all':<28}{sum(result.seconds for result in results):>9.1f}{budget:>6}")


def _run_one(lesson, parameters, out, root):
    notebook = pages.lesson_notebook(lesson, root)
    if drifted := drift(notebook, root / "notebooks" / f"{lesson.name}.ipynb"):
        return Result(lesson.name, "FAILED", 0.0, drifted)
    if absent := missing(lesson):
        return Result(lesson.name, "skipped", 0.0, absent)
    start = time.perf_counter()
    try:
        run_notebook(notebook, parameters, out)
    except LessonFailed as failure:
        return Result(lesson.name, "FAILED", time.perf_counter() - start, str(failure))
    return Result(lesson.name, "ok", time.perf_counter() - start)


def _make_needed(chosen):
    """Make what these lessons ask of `need` before they run, so that each pays for itself alone."""
    text = "\n".join(cell.source for lesson in chosen for cell in lesson.cells)
    for name in sorted(set(re.findall(r"""\bneed\(["'](\w+)["']\)""", text))):
        try:
            need(name)
        except InputError as mistake:  # the lessons that need it will fail, the others run
            print(f"{name}: {mistake}")


def select(names, root=ROOT):
    """The lessons that `names` mean ("04" or "04_a_training_step"); InputError for others."""
    known = lessons(root)
    chosen = []
    for name in names or [lesson.name for lesson in known]:
        found = [lesson for lesson in known if name in (lesson.name, lesson.number)]
        if not found:
            there = ", ".join(lesson.name for lesson in known) or "none"
            raise InputError(f"no lesson {name!r}; there are {there}")
        chosen += found
    return chosen


def drift(notebook, committed):
    """One line that says how the file `committed` differs from `notebook`, or ""."""
    name = committed.stem
    remedy = f"run: minimtnlg course build {name}"
    if not committed.exists():
        return f"{committed.name} is not built; {remedy}"
    cells = [_identity(c) for c in nbformat.read(committed, as_version=4).cells]
    wanted = [_identity(c) for c in notebook.cells]
    if cells == wanted:
        return ""
    pairs = zip(cells, wanted, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(cells), len(wanted)))
    return f"{committed.name} is not what its source says (first at cell {first}); {remedy}"


def _identity(cell):
    return cell.id, cell.cell_type, cell.source, tuple(tags(cell))


def missing(lesson):
    """What this machine lacks for the lesson, as one line, or "".

    InputError if the lesson requires something that is not known.
    """
    there = {
        "megatron": lambda: importlib.util.find_spec("megatron") is not None,
        "deepspeed": lambda: importlib.util.find_spec("deepspeed") is not None,
        "slurm": lambda: shutil.which("sbatch") is not None,
    }
    for name in lesson.requires:
        if name not in there:
            raise InputError(f"{lesson.path}: requires {name!r}; known are {', '.join(there)}")
        if not there[name]():
            return f"{name} is not installed here; `minimtnlg doctor` says how to get it"
    return ""


def _keep_outputs(notebook, path):
    """Take over outputs from the file `path` if its code cells are the same, in the same order."""
    if not path.exists():
        return
    old = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    new = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.source for c in old] == [c.source for c in new]:
        for mine, theirs in zip(new, old, strict=True):
            mine.outputs, mine.execution_count = theirs.outputs, theirs.execution_count


def _write_pages(root):
    for source in exercise_sources(root):
        path = root / "exercises" / f"{source.stem}.ipynb"
        _write(pages.exercise_notebook(source, root), path)
    _replace(root / "exercises" / "adapters.py", pages.adapters(root))
    (root / "docs").mkdir(exist_ok=True)
    _replace(root / "docs" / "glossary.md", pages.glossary(root))
    path = root / "README.md"
    if path.exists():
        _replace(path, pages.readme(path.read_text(encoding="utf-8"), root))


def _write(notebook, path):
    nbformat.validate(notebook)
    _replace(path, nbformat.writes(notebook, version=4) + "\n")


def _replace(path, text):
    """Write aside, then replace: nobody sees half a file; an equal file stays as it is."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with appearing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _line(result):
    return f"{result.state}, {result.seconds:.1f} s  {result.text}".rstrip()
