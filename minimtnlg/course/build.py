"""Build, run and hand out the course: what `minimtnlg course build | run | start` calls.

build   sources -> executed notebooks (committed), student exercises, glossary, README's map
run     every lesson executed again, with other parameters if wanted; the table of `make course`
start   copies without outputs in `work/`, where a learner edits
"""

import contextlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat

from minimtnlg.course import pages
from minimtnlg.course.sources import ROOT, exercise_sources, lessons, tags
from minimtnlg.course.start import start as start
from minimtnlg.errors import InputError

CELL_LIMIT = 900  # seconds; a cell that hangs must not hang the course


@dataclass(frozen=True)
class Result:
    """How one lesson went. `state` is "ok", "skipped" or "FAILED"; `text` says why, in one line."""

    name: str
    state: str
    seconds: float = 0.0
    text: str = ""


class LessonFailed(Exception):
    """A cell of a lesson raised; the text names cell and error in one line."""


def build(names=None, execute=True, root=ROOT):
    """Write the notebooks of the lessons `names` (all by default), every exercise and page.

    A lesson's notebook is replaced only when all its cells ran. With `execute=False` only texts
    change: outputs are kept where no code cell changed. Returns a list of Result.
    """
    root = Path(root)
    results = []
    for lesson in select(names, root):
        target = root / "notebooks" / f"{lesson.name}.ipynb"
        notebook = pages.lesson_notebook(lesson, root)
        start = time.perf_counter()
        print(f"{lesson.name} ...", end=" ", flush=True)
        missing = _missing(lesson)
        if execute and missing:
            results.append(Result(lesson.name, "skipped", 0.0, missing))
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
    """Execute the lessons `names` (all by default) into the folder `out`; print a table.

    `parameters` replace values of each lesson's parameters cell. A committed notebook whose cells
    are not those of its source counts as a failure. Returns a list of Result.
    """
    root = Path(root)
    chosen = select(names, root)
    results = []
    for i, lesson in enumerate(chosen, 1):
        print(f"[{i}/{len(chosen)}] {lesson.name} ...", end=" ", flush=True)
        results.append(_run_one(lesson, parameters, root / out / f"{lesson.name}.ipynb", root))
        print(_line(results[-1]))
    print(f"\n{'lesson':<28}{'seconds':>9}  result")
    for result in results:
        print(f"{result.name:<28}{result.seconds:>9.1f}  {result.state}  {result.text}".rstrip())
    print(f"{'all':<28}{sum(r.seconds for r in results):>9.1f}")
    return results


def _run_one(lesson, parameters, out, root):
    notebook = pages.lesson_notebook(lesson, root)
    if drifted := drift(notebook, root / "notebooks" / f"{lesson.name}.ipynb"):
        return Result(lesson.name, "FAILED", 0.0, drifted)
    if missing := _missing(lesson):
        return Result(lesson.name, "skipped", 0.0, missing)
    start = time.perf_counter()
    try:
        run_notebook(notebook, parameters, out)
    except LessonFailed as failure:
        return Result(lesson.name, "FAILED", time.perf_counter() - start, str(failure))
    return Result(lesson.name, "ok", time.perf_counter() - start)


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


def _missing(lesson):
    """What this machine lacks for the lesson, as one line, or ""."""
    there = {
        "megatron": lambda: importlib.util.find_spec("megatron") is not None,
        "deepspeed": lambda: importlib.util.find_spec("deepspeed") is not None,
        "slurm": lambda: shutil.which("sbatch") is not None,
    }
    for need in lesson.requires:
        if need not in there:
            raise InputError(f"{lesson.path}: requires {need!r}; known are {', '.join(there)}")
        if not there[need]():
            return f"{need} is not installed here; `minimtnlg doctor` says how to get it"
    return ""


# ------------------------------------------------------------------------------- execution


def run_notebook(notebook, parameters=None, out=None):
    """Execute a notebook in an empty folder; return it with outputs. Raises LessonFailed.

    `out` keeps the executed file, also of a run that failed.
    """
    import papermill

    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lesson-") as folder, _quiet_environment(folder):
        cwd = Path(folder) / "cwd"
        cwd.mkdir()
        try:
            return papermill.execute_notebook(
                notebook,
                out,
                parameters=parameters or {},
                cwd=cwd,
                progress_bar=False,
                execution_timeout=CELL_LIMIT,
                extra_arguments=["--log-level=ERROR"],  # its warning about TCP says nothing here
            )
        except papermill.PapermillExecutionError as error:
            message = " ".join(f"{error.ename}: {error.evalue}".split())
            raise LessonFailed(f"cell {_cell_name(error)}: {message}") from None
        except Exception as error:  # a dead or hanging kernel
            message = " ".join(str(error).split())
            raise LessonFailed(f"{type(error).__name__}: {message[:300]}") from None


def _cell_name(error):
    first = error.source.strip().splitlines()[0] if error.source.strip() else ""
    return f"{error.cell_index} ({first})"


@contextlib.contextmanager
def _quiet_environment(folder):
    """Kernels inherit it: no progress bars, and a learner's guesses stay out of the outputs."""
    values = {"TQDM_DISABLE": "1", "MINIMTNLG_PROGRESS": str(Path(folder) / "progress.json")}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def clean(notebook, root=ROOT):
    """Take out of an executed notebook what differs from run to run without meaning."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {"tags": tags(cell)} if tags(cell) else {}
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
            for output in cell.outputs:
                _anonymous(output, root)
    return notebook


def _merged(outputs):
    """Neighbouring pieces of one stream as one; what a progress bar overwrote is dropped."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else None
        stream = output.output_type == "stream"
        if stream and last and last.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
    return merged


def _anonymous(output, root):
    """Replace folders, cell file names and addresses in memory by what they stand for."""

    def replaced(text):
        text = re.sub(r"/\S*?/ipykernel_\d+/\d+\.py", "<cell>", text)
        text = re.sub(rf"{re.escape(tempfile.gettempdir())}/lesson-\w+/cwd/?", "", text)
        for folder in (f"{Path(root).resolve()}/", f"{ROOT}/", f"{sys.prefix}/"):
            text = text.replace(folder, "")
        text = text.replace(str(Path.home()), "~")
        return re.sub(r" at 0x[0-9a-f]{6,}", " at 0x...", text)

    if "text" in output:
        output.text = replaced(output.text)
    for kind, value in output.get("data", {}).items():
        if isinstance(value, str) and kind.startswith("text/"):
            output.data[kind] = replaced(value)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _line(result):
    return f"{result.state}, {result.seconds:.1f} s  {result.text}".rstrip()
