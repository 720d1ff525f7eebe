"""What is generated from the sources: notebooks, the course map, the glossary."""

import ast
import re
import tomllib
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minimtnlg.course import drawn
from minimtnlg.course.sources import MARKS, ROOT, exercise_sources, lessons, tags

SETUP = '''\
# Set-up, the same in every lesson. On Colab it fetches the course; elsewhere it sets the style.
import os
import sys

if "google.colab" in sys.modules and not os.path.isdir("/content/minimtnlg"):
    os.system("git clone -q --depth 1 {url} /content/minimtnlg")
    os.system(sys.executable + " -m pip install -q -e '/content/minimtnlg[course]'")
    sys.path.insert(0, "/content/minimtnlg")

from minimtnlg.course import setup

setup()'''

SYMBOLS = (  # symbol, meaning, in the code, in the papers, Megatron's flag, DeepSpeed's name
    ("t", "tensor-parallel size", "`parallel.tp`", "t in both",
     "`--tensor-model-parallel-size`", "`num_mp` of its topology"),
    ("p", "pipeline stages", "`parallel.pp`", "p in both",
     "`--pipeline-model-parallel-size`", "`num_stages` of `PipelineModule`"),
    ("d", "replicas of the model", "`parallel.dp`", "d in S12", "n / (t p)", "n / (t p)"),
    ("v", "model chunks a stage", "`virtual`", "v in S12, m in S13",
     "`--num-layers-per-virtual-pipeline-stage` is L / (p v)", "none"),
    ("m", "micro-batches a replica", "B / (d b)", "m in S12",
     "B / (d b)", "`gradient_accumulation_steps`"),
    ("b", "sequences in a micro-batch", "`train.micro_batch`", "b in both",
     "`--micro-batch-size`", "`train_micro_batch_size_per_gpu`"),
    ("B", "sequences in the global batch", "`train.global_batch`", "B in both",
     "`--global-batch-size`", "`train_batch_size`"),
    ("s", "tokens in a sequence", "`model.seq`", "s in both", "`--seq-length`", "of the model"),
    ("h", "hidden size", "`model.hidden`", "h in both", "`--hidden-size`", "of the model"),
    ("a", "attention heads", "`model.heads`", "a in S13",
     "`--num-attention-heads`", "of the model"),
    ("L", "transformer layers", "`model.layers`", "l in S12, L in S13",
     "`--num-layers`", "of the model"),
    ("V", "vocabulary, padding included", "`model.vocab`", "V in S12, v in S13",
     "padded to `--make-vocab-size-divisible-by` times t", "of the model"),
    ("n", "GPUs", "`Layout.world`", "n in S12", "of the launcher", "of the launcher"),
)  # fmt: skip


# --------------------------------------------------------------------------------- notebooks


def lesson_notebook(lesson, root=ROOT):
    """The notebook of a lesson without outputs: title line, set-up, its cells, its exercises."""
    cells = [_copy(cell) for cell in lesson.cells]
    cells[0].source = f"# {lesson.number} · {cells[0].source[2:]}\n\n{_facts(lesson, root)}"
    cells.insert(1, new_code_cell(setup_code(root)))
    links = [_exercise_line(e) for e in exercise_sources(root) if e.number == lesson.number]
    if links:
        cells[-1].source += "\n\n" + "\n".join(links)
    return notebook_of(cells, lesson.name)


def exercise_notebook(source, root=ROOT):
    """The student's notebook: statement, stub, check and folded hints; nothing of the answers."""
    name, values = source.name, drawn.values(source)

    def filled(cell):
        copy = _copy(cell)
        copy.source = drawn.fill(copy.source, values)
        return copy

    stub = [filled(cell) for cell in source.tagged("stub")]
    given = [filled(cell) for cell in source.cells if not tags(cell)]
    code = "\n".join(c.source for c in [*given, *stub] if c.cell_type == "code")
    if numbers := drawn.assignments(code, values):
        given.insert(1, new_code_cell(numbers))
    lesson = next((x for x in lessons(root) if x.number == source.number), None)
    facts = f"Mark {source.mark} of 4 ({MARKS[source.mark]}), about {source.minutes} minutes."
    if lesson:
        facts += f" Lesson [{lesson.number} {lesson.title}](../notebooks/{lesson.name}.ipynb)."
    title, _, rest = given[0].source.partition("\n")
    given[0].source = f"{title}\n\n{facts}\n{rest}".rstrip()
    target = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", stub[-1].source, flags=re.MULTILINE)[-1]
    check = f'from minimtnlg.course.check import check, hint, solution\n\ncheck("{name}", {target})'
    hints = [
        f"<details><summary>Hint {i}</summary>\n\n{filled(cell).source}\n\n</details>"
        for i, cell in enumerate(source.tagged("hint"), 1)
    ]
    cells = [
        given[0],
        new_code_cell(setup_code(root)),
        *given[1:],
        *stub,
        new_code_cell(check),
        new_markdown_cell("\n\n".join(hints)),
    ]
    if source.tagged("solution"):  # a class's copy has none
        cells.append(new_markdown_cell("The solution opens after your first attempt."))
        cells.append(new_code_cell(f'# solution("{name}")'))
    return notebook_of(cells, source.stem)


def setup_code(root=ROOT):
    """The set-up cell, with the repository's address from pyproject.toml."""
    return SETUP.format(url=repository(root))


def repository(root=ROOT):
    """The address of the course's repository, from pyproject.toml."""
    pyproject = tomllib.loads((Path(root) / "pyproject.toml").read_text(encoding="utf-8"))
    return pyproject["project"]["urls"]["Repository"]


def notebook_of(cells, stem):
    """A notebook that is the same at each build: numbered ids, one kernel name, nothing else."""
    for i, cell in enumerate(cells):
        cell.id = f"{stem[:55]}-{i:03d}"  # 64 characters at most
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return new_notebook(cells=cells, metadata=metadata)


def _copy(cell):
    make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
    kept = [tag for tag in tags(cell) if tag in ("parameters", "predict", "deeper")]
    return make(cell.source, metadata={"tags": kept} if kept else {})


def _facts(lesson, root):
    """The line under the title: minutes, what is new, what is needed and where it was."""
    where = {term: other for other in lessons(root) for term in other.introduces}
    parts = [f"About {lesson.minutes} minutes.", f"New here: {', '.join(lesson.introduces)}."]
    needed = []
    for term in lesson.needs:
        of = where.get(term)
        needed.append(f"{term} ([{of.number}]({of.name}.ipynb))" if of else term)
    if needed:
        parts.append(f"You need: {', '.join(needed)}.")
    if lesson.requires:
        parts.append(f"It runs only with {' and '.join(lesson.requires)}.")
    return " ".join(parts)


def _exercise_line(source):
    link = f"[{source.title}](../exercises/{source.stem}.ipynb)"
    return f"- {link}: {MARKS[source.mark]}, about {source.minutes} minutes"


# ---------------------------------------------------------------------- course map, glossary


def course_map(root=ROOT):
    """Rows of the course map, a dict a lesson: its front matter and its ExerciseSources."""
    exercises = exercise_sources(root)
    return [
        {
            "number": lesson.number,
            "name": lesson.name,
            "title": lesson.title,
            "question": lesson.question,
            "needs": lesson.needs,
            "introduces": lesson.introduces,
            "proves": lesson.proves,
            "minutes": lesson.minutes,
            "seconds": lesson.seconds,
            "requires": lesson.requires,
            "exercises": [e for e in exercises if e.number == lesson.number],
        }
        for lesson in lessons(root)
    ]


def course_map_table(root=ROOT, notebooks="notebooks/", exercises=None):
    """The course map as a Markdown table; links begin with the given folders. None: no column."""
    head, line = "Lesson | Question | Minutes | What is proven", "--- | --- | ---: | ---"
    lines = [head, line] if exercises is None else [f"{head} | Exercises", f"{line} | ---"]
    for row in course_map(root):
        cells = [
            f"[{row['number']} {row['title']}]({notebooks}{row['name']}.ipynb)",
            row["question"],
            str(row["minutes"]),
            row["proves"],
        ]
        if exercises is not None:
            links = [f"[{e.title}]({exercises}{e.stem}.ipynb)" for e in row["exercises"]]
            cells.append("; ".join(links))
        lines.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    return "\n".join(f"| {line} |" for line in lines)


BEGIN, END = "<!-- course map: generated -->", "<!-- end of course map -->"


def readme(text, root=ROOT):
    """README's text with the course map between its two marks replaced; unchanged without marks."""
    if BEGIN not in text or END not in text:
        return text
    rows = course_map(root)
    hours = sum(row["minutes"] for row in rows) / 60
    size = f"{len(rows)} lessons, about {hours:.0f} hours together; "
    size += f"{sum(len(row['exercises']) for row in rows)} [exercises](exercises/README.md)."
    before, rest = text.split(BEGIN, 1)
    table = course_map_table(root)
    return f"{before}{BEGIN}\n{table}\n\n{size}\n{END}{rest.split(END, 1)[1]}"


def course_map_notebook(root=ROOT):
    """The page that JupyterLab opens, for a learner's folder."""
    minutes = sum(row["minutes"] for row in course_map(root))
    text = (
        "# The course\n\n"
        "Open a lesson, guess before you run, and change what you like: these are your copies.\n\n"
        f"{course_map_table(root, notebooks='', exercises='exercises/')}\n\n"
        f"All lessons together take about {minutes / 60:.0f} hours.\n\n"
        "How far you are, and what comes next, is kept on this machine alone:"
    )
    code = "from minimtnlg.course.status import status\n\nstatus()"
    return notebook_of([new_markdown_cell(text), new_code_cell(code)], "course_map")


ADAPTERS = '''\
"""For those who write in a package of their own instead of notebooks: name what you wrote here.

    ANSWERS = {{"{name}": "my_package.my_module:my_function", ...}}

    python adapters.py                    checks all that are named
    python adapters.py {name}        checks this one
    minimtnlg grade adapters.py           points, as a teacher would see them

Generated by `minimtnlg course build`; `minimtnlg course start` lays a copy into work/, once.
"""

ANSWERS = {{
{lines}
}}

if __name__ == "__main__":
    import sys

    from minimtnlg.course.adapters import check_all

    check_all(ANSWERS, sys.argv[1:])
'''


def adapters(root=ROOT):
    """exercises/adapters.py: every exercise with the signature that its answer must have."""
    sources, lines = exercise_sources(root), []
    for source in sources:
        stub = drawn.fill(source.tagged("stub")[-1].source, drawn.values(source))
        kinds = (ast.FunctionDef, ast.ClassDef)
        *_, last = (node for node in ast.parse(stub).body if isinstance(node, kinds))
        call = f"({ast.unparse(last.args)})" if isinstance(last, ast.FunctionDef) else ", a class"
        lines.append(f"    # {source.number} {source.title}: {last.name}{call}")
        lines.append(f'    "{source.name}": None,')
    return ADAPTERS.format(name=sources[0].name if sources else "name", lines="\n".join(lines))


def glossary(root=ROOT):
    """docs/glossary.md: the symbols, then every term with the lesson that introduces it."""
    header = ("Symbol", "Meaning", "In the code", "In the papers", "Megatron", "DeepSpeed")
    table = [header, ("---",) * 6, *(("$" + row[0] + "$", *row[1:]) for row in SYMBOLS)]
    terms = [
        (term, definition, lesson)
        for lesson in lessons(root)
        for term, definition in lesson.introduces.items()
    ]
    lines = [
        f"**{term}.** {definition} "
        f"Lesson [{lesson.number}](../notebooks/{lesson.name}.ipynb)."
        for term, definition, lesson in sorted(terms, key=lambda entry: entry[0].lower())
    ]
    return "\n".join(
        [
            "# Glossary",
            "",
            "<!-- Generated from the lessons by `minimtnlg course build`. -->",
            "",
            "## Symbols",
            "",
            "One notation in all lessons. S12 is Narayanan et al. 2021 (arXiv 2104.04473), S13 is",
            "Korthikanti et al. 2022 (arXiv 2205.05198).",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            "## Terms",
            "",
            "\n\n".join(lines),
            "",
        ]
    )
