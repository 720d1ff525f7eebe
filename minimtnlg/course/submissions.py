"""What was handed in: who handed in which file for which exercise, read without running any of it.

Who: by the file's place below the folder that is given.

    NN_name/STUDENT.ipynb            a folder that is named after an exercise holds a file each
    STUDENT/.../NN_name.ipynb        else the first folder; `submitted`, `exercises` and `work` are
                                     passed over, so that nbgrader's folders can be given
    ASSIGNMENT-STUDENT/...           repositories of GitHub Classroom: what follows the part that
                                     all share; with a roster, whoever the name ends with
    NN_name.ipynb                    else the given folder's own name; or STUDENT.ipynb

Which exercise: the file's or folder's name; else `check("name", ...)` in it; else, in a module, the
keys of `ANSWERS = {...}`; else a function or class of the name that an exercise asks for.

Hidden folders, those that begin with `_`, packages (with `__init__.py`), `src` and environments are
not looked at.
"""

import ast
import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from minimtnlg.course import exercises
from minimtnlg.errors import InputError

LARGEST = 20 * 2**20  # bytes of a submission; a notebook with figures has a few
EASY = ("time", "timeit", "capture", "prun")  # cell magics whose cell is Python all the same
PASSED_OVER = ("submitted", "exercises", "work")


@dataclass(frozen=True)
class Submission:
    """One student's file for one exercise."""

    student: str
    exercise: str  # NN_name; "" if it can't be told
    path: Path
    key: str = ""  # the exercise's name in the file's ANSWERS
    trouble: str = ""  # why it can't be graded
    shared: bool = False  # others' files lie in its folder

    def files(self):
        """name -> bytes of what the code may read: the file, or for ANSWERS its whole folder.

        The file alone where others' files lie beside it. InputError for what `read` refuses, and
        for more than LARGEST together.
        """
        if not self.key or self.shared:
            return {self.path.name: read(self.path)}
        found, size = {}, 0
        for path in _files(self.path.parent, packages=True):
            data = read(path)
            size += len(data)
            if size > LARGEST:
                raise InputError(f"{self.path.parent}: more than {LARGEST // 2**20} MB")
            found[path.relative_to(self.path.parent).as_posix()] = data
        return found


def find(paths, sources, students=()):
    """Submissions below `paths`, sorted; InputError for a path that is not there.

    sources   of the exercises that count, ExerciseSource
    students  ids of a roster, by which folders are recognised
    """
    found = []
    names = {name: s.stem for s in sources for name in (s.stem, s.name)}
    targets = {exercises.asked(s)[0]: s.stem for s in sources}
    for root in map(Path, paths):
        if not os.path.lexists(root):
            raise InputError(f"{root}: there is no such file or folder")
        single = not root.is_dir()
        top = root.resolve().parent if single else root.resolve()
        files = [top / root.name] if single else list(_files(top))
        shared = _shared_beginning(top)
        for path in files:
            student, folder = _who(path.relative_to(top), top, names, shared, students)
            for exercise, key, trouble in _which(path, folder, names, targets):
                found.append(Submission(student, exercise, path, key, trouble))
    owners = {}
    for one in found:
        owners.setdefault(one.path.parent, set()).add(one.student)
    found = [replace(one, shared=len(owners[one.path.parent]) > 1) for one in found]
    return sorted(set(found), key=lambda s: (s.student, s.exercise, str(s.path)))


def read(path):
    """The bytes of a plain file. A link would show what its author must not see: InputError.

    InputError for more than LARGEST bytes too.
    """
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a plain file")
    if status.st_size > LARGEST:
        raise InputError(f"{path}: more than {LARGEST // 2**20} MB")
    return Path(path).read_bytes()


def code(name, data):
    """The text of a module, or of a notebook's code cells; "" if it is neither."""
    text = data.decode("utf-8-sig", errors="replace")
    if not name.endswith(".ipynb"):
        return text if name.endswith(".py") else ""
    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n\n".join(python(cell["source"]) for cell in cells)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def python(source):
    """A cell as Python: magics, shell commands and questions in it become `pass`."""
    source = source if isinstance(source, str) else "".join(source)
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        ast.parse(source)
        return source  # a line may begin with `% n` or stand in a text
    magic = re.match(r"\s*%%(\w*)", source)
    if magic and magic[1] not in EASY:
        return "pass"
    return "\n".join(map(_line, source.split("\n")))


def _line(line):
    """A line of a cell, or `pass` in place of a magic, a shell command or a question."""
    other = re.match(r"(\s*)(?:[%!?]|\w+\s*=\s*[%!]\s*\w)", line)
    if other or re.fullmatch(r"\s*[\w.]+\?{1,2}\s*", line):
        return re.match(r"\s*", line)[0] + "pass"
    return line


def _files(top, packages=False):
    """Notebooks and modules below a folder; all files if `packages`."""
    for folder, folders, names in os.walk(top):
        kept = [name for name in sorted(folders) if name[0] not in "._"]
        if not packages:
            kept = [
                name
                for name in kept
                if name != "src"
                and not os.path.exists(os.path.join(folder, name, "__init__.py"))
                and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
            ]
        folders[:] = kept
        for name in sorted(names):
            if name[0] != "." and (packages or name.endswith((".ipynb", ".py"))):
                yield Path(folder, name)


def _shared_beginning(top):
    """What all repositories in a folder begin with, up to a hyphen: "rings-" of rings-ada."""
    folders = [path.name for path in top.iterdir() if (path / ".git").exists()]
    shared = os.path.commonprefix(folders) if len(folders) > 1 else ""
    return shared[: shared.rfind("-") + 1]


def _who(path, top, names, shared, students):
    """(student, exercise that a folder is named after or "") of a path below `top`."""
    *folders, file = path.parts
    while folders and folders[0] in PASSED_OVER:
        folders.pop(0)
    stem = Path(file).stem
    if not folders and top.name in names:
        folders = [top.name]
    if folders and folders[0] in names:
        return (folders[1] if len(folders) > 1 else stem), names[folders[0]]
    if not folders:
        own = stem in names or stem == "adapters"
        home = top.parent if top.name in PASSED_OVER else top
        return (_name(home.name, "", students) if own else stem), ""
    return _name(folders[0], shared, students), ""


def _name(folder, shared, students):
    """The student whom a folder's name means."""
    if folder in students:
        return folder
    ends = [student for student in students if folder.endswith(f"-{student}")]
    return max(ends, key=len) if ends else folder.removeprefix(shared) or folder


def _which(path, folder, names, targets):
    """Yields (exercise, key in ANSWERS, trouble) of a file."""
    named = folder or names.get(path.stem, "")
    try:
        data = read(path)
    except (InputError, OSError) as error:
        if named or path.suffix == ".ipynb":
            yield named, "", str(error)
        return
    text = code(path.name, data)
    if named:
        yield named, "", ""
        return
    asked = {names[n] for n in re.findall(r"\bcheck\(\s*[\"'](\w+)[\"']", text) if n in names}
    if asked:
        yield from ((exercise, "", "") for exercise in sorted(asked))
        return
    keys, defined = _defined(text) if path.suffix == ".py" else ([], _in_cells(text))
    if answered := {names[key]: key for key in keys if key in names}:
        yield from ((exercise, key, "") for exercise, key in answered.items())
        return
    if known := {targets[name] for name in defined if name in targets}:
        yield from ((exercise, "", "") for exercise in sorted(known))
    elif path.suffix == ".ipynb":
        yield "", "", "which exercise it answers can't be told: name the file after it"


def _defined(text):
    """(keys of ANSWERS, names of functions and classes) of a module's text."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], _in_cells(text)
    keys = []
    for node in body:
        names = [getattr(t, "id", "") for t in getattr(node, "targets", ())]
        if "ANSWERS" in names and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            keys = [
                key.value
                for key, value in pairs
                if isinstance(key, ast.Constant) and not _is_none(value)
            ]
    return keys, _in_cells(text)


def _is_none(node):
    return isinstance(node, ast.Constant) and node.value is None


def _in_cells(text):
    """Names that stand behind `def` or `class` at the start of a line, whatever else is there."""
    return re.findall(r"^(?:def|class)\s+(\w+)", text, flags=re.MULTILINE)
