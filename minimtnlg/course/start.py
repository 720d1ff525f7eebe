"""The learner's own copies in `work/`: an edited one is never overwritten."""

import hashlib
import itertools
import json
from pathlib import Path

import nbformat

from minimtnlg.course import pages
from minimtnlg.course.sources import ROOT, exercise_sources, lessons
from minimtnlg.files import appearing


def start(folder="work", root=ROOT):
    """Copy lessons, student exercises and adapters.py into `folder` of root; print what was done.

    Notebooks have no outputs. A copy that was not edited is refreshed; beside an edited one the
    newer version is laid as `NAME.new.*`. Returns the path of the course map, which `make lab`
    opens.
    """
    folder = Path(root) / folder
    record_file = folder / ".copies.json"
    record = json.loads(record_file.read_text()) if record_file.exists() else {}
    counts = {"new": 0, "refreshed": 0, "unchanged": 0, "edited": 0}
    for name, content in _handed_out(root):
        counts[_copy(folder, name, content, record)] += 1
        with appearing(record_file) as aside:
            aside.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    edited = counts.pop("edited")
    print(f"{folder}: " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    if edited:
        print(f"{edited} that you edited have a newer version beside them (NAME.new.*)")
    return folder / "course_map.ipynb"


def _handed_out(root):
    """(path below the learner's folder, notebook or text) of everything that is handed out."""
    yield "course_map.ipynb", pages.course_map_notebook(root)
    for lesson in lessons(root):
        notebook = pages.lesson_notebook(lesson, root)
        yield f"{lesson.name}.ipynb", _relinked(notebook, {"../exercises/": "exercises/"})
    for source in exercise_sources(root):
        notebook = pages.exercise_notebook(source, root)
        yield f"exercises/{source.stem}.ipynb", _relinked(notebook, {"../notebooks/": "../"})
    yield "exercises/adapters.py", pages.adapters(root)


def _relinked(notebook, folders):
    """The notebook with links into `folders` as they are in the learner's folder."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for there, here in folders.items():
                cell.source = cell.source.replace(f"]({there}", f"]({here}")
    return notebook


def _copy(folder, name, content, record):
    """Bring one copy up to date; record[name] is the hash of what the learner was last given."""
    path = folder / name
    new = _hash(content)
    state = "unchanged"
    if not path.exists():
        state = "new"
    elif record.get(name) != new:  # there is a newer version
        edited = _hash_of_file(path) not in (record.get(name), new)
        state = "edited" if edited else "refreshed"
    if state != "unchanged":
        target = _beside(path, record.get(name), new) if state == "edited" else path
        text = content if isinstance(content, str) else nbformat.writes(content, version=4) + "\n"
        with appearing(target) as aside:
            aside.write_text(text, encoding="utf-8")
    record[name] = new
    return state


def _beside(path, *given):
    """NAME.new.ipynb, or NAME.new2.ipynb and so on where the learner edited that one too."""
    for i in itertools.count(1):
        target = path.with_suffix(f".new{i if i > 1 else ''}{path.suffix}")
        if not target.exists() or _hash_of_file(target) in given:
            return target


def _hash_of_file(path):
    try:
        text = path.read_text(encoding="utf-8")
        return _hash(nbformat.reads(text, as_version=4) if path.suffix == ".ipynb" else text)
    except Exception:  # not a notebook any more: the learner's all the same
        return "edited"


def _hash(content):
    """Of what a person types: running a notebook does not make it an edited one."""
    text = content
    if not isinstance(content, str):
        text = json.dumps([[cell.cell_type, cell.source] for cell in content.cells])
    return hashlib.sha256(text.encode()).hexdigest()
