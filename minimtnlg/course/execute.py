"""One notebook executed in a kernel of its own, and cleaned of what differs from run to run."""

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

from minimtnlg.course.sources import ROOT, tags

CELL_LIMIT = 900  # seconds; a cell that hangs must not hang the course


class LessonFailed(Exception):
    """A cell of a lesson raised, or its kernel died or hung; the text says which in one line."""


def run_notebook(notebook, parameters=None, out=None):
    """Execute a notebook in an empty folder; return it with outputs. Raises LessonFailed.

    `parameters` replace values of its parameters cell. `out` keeps the executed file, also of a run
    that failed.
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
    """Take out of an executed notebook what differs from run to run without meaning; return it."""
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
