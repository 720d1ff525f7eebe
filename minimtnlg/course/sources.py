"""Sources of lessons and exercises: one py:percent file each, with a front matter in comments.

A lesson is `notebooks/src/NN_name.py`, an exercise `exercises/src/NN_name.py`; NN is the lesson's
number. Names that begin with an underscore are templates. Nothing is listed anywhere: a file that
is there is part of the course.
"""

import io
import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jupytext
from ruamel.yaml import YAML, YAMLError

import minimtnlg
from minimtnlg.errors import InputError

ROOT = Path(minimtnlg.__file__).resolve().parents[1]  # the repository, when it is there

HEADINGS = (
    "Question", "Predict", "Trouble", "Idea", "Code", "You might think",
    "Proof", "Cost", "MT-NLG", "Check yourself", "Exercises",
)  # fmt: skip
MARKS = {1: "read and change", 2: "fill one function", 3: "build the mechanism", 4: "open"}
HELP = ("worked", "half", "empty")  # how much of the answer an exercise begins with; it fades


@dataclass(frozen=True)
class Lesson:
    """A lesson as its source says it. `cells` are notebook cells without outputs."""

    path: Path
    title: str
    question: str
    needs: list  # terms that earlier lessons introduce
    introduces: dict  # term -> its definition in one line
    proves: str  # what its Proof shows, in one sentence
    minutes: int  # reading and doing
    seconds: int  # executing, on two cores
    requires: list = field(default_factory=list)  # engines or Slurm, without which it is skipped
    cells: list = field(default_factory=list, repr=False)

    @property
    def name(self):
        """`NN_name`, the stem of all its files."""
        return self.path.stem

    @property
    def number(self):
        """`NN`, two digits."""
        return self.path.stem[:2]


@dataclass(frozen=True)
class ExerciseSource:
    """An exercise as its source says it; `exercises.load` brings it to life."""

    path: Path
    title: str
    mark: int  # 1 to 4, see MARKS
    minutes: int
    needs: list
    help: str = "empty"  # of HELP
    draws: dict = field(default_factory=dict)  # name -> values for a class, the public one first
    cells: list = field(default_factory=list, repr=False)

    @property
    def stem(self):
        """`NN_name`, the stem of all its files."""
        return self.path.stem

    @property
    def number(self):
        """`NN`, the lesson that it belongs to."""
        return self.path.stem[:2]

    @property
    def name(self):
        """The name that `check(name, ...)` takes."""
        return self.path.stem.split("_", 1)[1]

    def tagged(self, tag):
        """Its cells with this tag, in order."""
        return [cell for cell in self.cells if tag in tags(cell)]


def home():
    """The class's repository that the working directory is in, marked by class.toml; else ROOT."""
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / "class.toml").is_file()), ROOT)


def class_id(root=None):
    """The id of the class whose repository `root` or `home` is; None in the public course."""
    marker = Path(root or home()) / "class.toml"
    return tomllib.loads(marker.read_text(encoding="utf-8"))["id"] if marker.is_file() else None


def lessons(root=ROOT):
    """All lessons of the course, in order."""
    return [read_lesson(path) for path in _sources(root, "notebooks")]


def exercise_sources(root=ROOT):
    """All exercises of the course: by lesson, and in a lesson by mark, the most helped first."""
    sources = [read_exercise(path) for path in _sources(root, "exercises")]

    def place(s):  # a find-the-bug lab after its equals, of which it asks what they build
        return s.number, s.mark, HELP.index(s.help), "BUG" in s.draws, s.stem

    return sorted(sources, key=place)


def _sources(root, folder):
    return sorted((Path(root) / folder / "src").glob("[0-9][0-9]_*.py"))


def read_lesson(path):
    """Read one lesson. Raises InputError naming file and field if the front matter is wrong."""
    front, cells = _read(Path(path))
    kinds = {
        "question": str,
        "needs": list,
        "introduces": dict,
        "proves": str,
        "minutes": int,
        "seconds": int,
        "requires": list,
    }
    _check_front(path, front, kinds, optional={"requires"})
    return Lesson(path=Path(path), title=_title(path, cells), cells=cells, **front)


def read_exercise(path):
    """Read one exercise. Raises InputError naming file and field if the front matter is wrong."""
    front, cells = _read(Path(path))
    kinds = {"mark": int, "minutes": int, "help": str, "needs": list, "draws": dict}
    _check_front(path, front, kinds, optional={"help", "draws"})
    if front["mark"] not in MARKS:
        raise InputError(f"{path}: mark is {front['mark']}; write 1, 2, 3 or 4")
    if front.get("help", "empty") not in HELP:
        raise InputError(f"{path}: help is {front['help']!r}; write {', '.join(HELP)}")
    for name, options in front.get("draws", {}).items():
        listed = isinstance(options, list) and options
        if not re.fullmatch("[A-Z][A-Z0-9_]*", name) or not listed:
            raise InputError(f"{path}: draws must be lines of 'NAME: [value, ...]', not {name!r}")
    return ExerciseSource(path=Path(path), title=_title(path, cells), cells=cells, **front)


def tags(cell):
    """The tags of a notebook cell."""
    return cell.metadata.get("tags", [])


def _read(path):
    """(front matter, cells) of a source file."""
    text = path.read_text(encoding="utf-8")
    match = re.match(r"# ---\n((?:#.*\n)*?)# ---\n", text)
    if not match:
        raise InputError(f"{path}: the front matter is missing; begin with '# ---' lines around it")
    yaml = re.sub(r"^# ?", "", match[1], flags=re.MULTILINE)
    try:
        front = _front(yaml)
    except YAMLError as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path}: the front matter is not YAML: {line}") from None
    if not isinstance(front, dict):
        raise InputError(f"{path}: the front matter must be lines of 'name: value'")
    return front, list(_cells(text[match.end() :].lstrip()))


@cache
def _front(yaml):
    """The front matter; kept as well: a course is read once for each of its notebooks."""
    return YAML(typ="safe").load(io.StringIO(yaml))


@cache
def _cells(text):
    """Notebook cells of a source without front matter; kept, for parsing takes a tenth of a second.

    Nobody may change them: pages.py copies.
    """
    notebook = jupytext.reads(text, fmt="py:percent")
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    return notebook.cells


def _check_front(path, front, kinds, optional=()):
    for name in front:
        if name not in kinds:
            raise InputError(f"{path}: unknown field {name!r}; known are {', '.join(kinds)}")
    for name, kind in kinds.items():
        if name not in front:
            if name in optional:
                continue
            raise InputError(f"{path}: field {name!r} is missing from the front matter")
        if not isinstance(front[name], kind):
            found = type(front[name]).__name__
            raise InputError(f"{path}: field {name!r} is {found}, {kind.__name__} is needed")


def _title(path, cells):
    first = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    if not first.startswith("# "):
        raise InputError(f"{path}: the first cell must be markdown that begins with '# Title'")
    return first.splitlines()[0][2:].strip()
