"""What every lesson keeps, as a function from a lesson to a list of sentences about breaches."""

import ast
import re

from minimtnlg.course.sources import HEADINGS, tags

TAGS = {"parameters", "predict", "deeper"}
NOT_COMMONMARK = {
    r"</?(?!details\b|summary\b)[a-zA-Z][\w-]*(?:\s[^>]*)?/?>": "HTML other than <details>",
    r"(?m)^\s*\|.*\|\s*$": "a pipe table (print it from code)",
    r"\[\^": "a footnote",
    r"~~": "strike-through",
    r"(?m)^>\s*\[!": "an alert",
    r"(?m)^\s*[-*] \[[ x]\]": "a task list",
    r"\\[(\[]|\\begin\{": "mathematics outside $...$",
    r"!\[": "an image (figures come from code)",
    r"!(?!\[)": "an exclamation mark",
    r"[\U0001F000-\U0001FFFF]": "an emoji",
}
MYST = r"(?m)^\s*(```|:::)\s*\{|\{[a-z-]+\}`"  # a directive or a role


def breaches(lesson, earlier):
    """Sentences about what `lesson` breaks; `earlier` are the lessons before it."""
    found = []
    for rule in (headings, outline, front, predictions, questions, prose, code, deeper):
        found += rule(lesson, earlier)
    return found


def headings(lesson, earlier):
    there = [c.source.splitlines()[0][3:] for c in markdown(lesson) if c.source.startswith("## ")]
    everywhere = re.findall(r"(?m)^## (.*)$", "\n".join(c.source for c in markdown(lesson)))
    if there == list(HEADINGS) and everywhere == there:
        return []
    return [f"headings are {everywhere}, each to begin its cell: {list(HEADINGS)}"]


def outline(lesson, earlier):
    """What a screen reader walks by: headings by level, links with words, named folds."""
    text = "\n\n".join(cell.source for cell in markdown(lesson))
    text = re.sub(r"(?s)```.*?```", "", text)
    levels = [len(marks) for marks in re.findall(r"(?m)^(#+) \S", text)]
    found = []
    if levels.count(1) != 1 or levels[:1] != [1]:
        found.append("the title is not the one heading of the first level")
    skips = [b for a, b in zip(levels, levels[1:], strict=False) if b > a + 1]
    found += [f"a heading of level {level} skips one" for level in skips]
    for words in re.findall(r"(?<!!)\[([^\]]*)\]\(", text):
        if not re.search(r"[^\W\d_]{2}", words) or re.fullmatch(r"here|this|https?:\S*", words):
            found.append(f"the link [{words}] does not say where it leads")
    if re.findall(r"</?details>|<summary>(?=[^<\s])", text) != [
        "<details>", "<summary>", "</details>"
    ] * text.count("<details>"):  # fmt: skip
        found.append("a fold is not <details><summary>name</summary> ... </details>")
    return found


def front(lesson, earlier):
    found = []
    known = {term for other in earlier for term in other.introduces}
    missing = [term for term in lesson.needs if term not in known]
    found += [f"needs {term!r}: no earlier lesson has it" for term in missing]
    found += [f"introduces {term!r} again" for term in lesson.introduces if term in known]
    if not lesson.introduces:
        found.append("introduces nothing")
    for term, definition in lesson.introduces.items():
        if not re.fullmatch(r"[A-Z$`].*[.]", str(definition)):
            found.append(f"the definition of {term!r} is not one sentence in one line")
    if not re.fullmatch(r"[A-Z].{10,150}[.]", lesson.proves):
        found.append("what it proves is not one short sentence")
    if not lesson.question.endswith("?"):
        found.append("the question ends without a question mark")
    if not 25 <= lesson.minutes <= 40:
        found.append(f"{lesson.minutes} minutes; the core of a lesson takes 25 to 40")
    if not 0 < lesson.seconds <= 120:
        found.append(f"{lesson.seconds} seconds; at most 120")
    return found


def predictions(lesson, earlier):
    found, guessed, told = [], [], []
    for cell in code_cells(lesson):
        for call in calls(cell, "predict"):
            guessed.append(name_of(call))
            if not (len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
                    and call.args[1].value is None):  # fmt: skip
                found.append(f"predict({name_of(call)!r}, ...) does not leave the guess at None")
        for call in calls(cell, "measured"):
            told.append(name_of(call))
            if name_of(call) not in guessed:
                found.append(f"measured({name_of(call)!r}) comes without or before its predict")
            if "predict" not in tags(cell):
                found.append(f"the cell that measures {name_of(call)!r} has no tag predict")
    found += [f"{name!r} is predicted and never measured" for name in guessed if name not in told]
    others = {name_of(c) for o in earlier for cell in code_cells(o) for c in calls(cell, "predict")}
    for name in guessed:
        if name in others or guessed.count(name) > 1:
            found.append(f"the prediction {name!r} is there twice")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
            found.append(f"the prediction {name!r} is not snake_case")
    if len(guessed) < 2:
        found.append(f"{len(guessed)} predictions, at least two are needed")
    return found


def questions(lesson, earlier):
    text = section(lesson, "Check yourself")
    answers = re.findall(r"(?s)<details><summary>[^<]+</summary>\n\n(.+?)\n\n</details>", text)
    if not 3 <= len(answers) <= 5 or text.count("<details>") != len(answers):
        return [f"{len(answers)} folded answers under Check yourself, 3 to 5 are needed"]
    return []


def prose(lesson, earlier):
    found = []
    for cell in markdown(lesson):
        if match := re.search(MYST, cell.source):
            found.append(f"prose holds MyST: {match[0].strip()!r}")
        text = re.sub(r"```.*?```|``.+?``|`[^`\n]+`", "", cell.source, flags=re.DOTALL)
        text = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", "", text, flags=re.DOTALL)
        for pattern, name in NOT_COMMONMARK.items():
            if match := re.search(pattern, text):
                found.append(f"prose holds {name}: {match[0].strip()!r}")
        if text.count("$"):
            found.append(f"a lone $ in {cell.source[:40]!r}")
    return found


def code(lesson, earlier):
    found = []
    for cell in lesson.cells:
        found += [f"unknown tag {tag!r}" for tag in tags(cell) if tag not in TAGS]
    for cell in code_cells(lesson):
        if tree(cell) is None:
            found.append(f"not Python (no magics): {cell.source[:40]!r}")
            continue
        if "plt.show(" in cell.source:
            found.append("plt.show; call figure(fig, alt=...) instead")
        if "parameters" in tags(cell):
            body = tree(cell).body
            if not all(isinstance(s, ast.Assign | ast.AnnAssign) for s in body):
                found.append("the cell of parameters holds more than assignments")
    if sum("parameters" in tags(c) for c in lesson.cells) > 1:
        found.append("more than one cell of parameters")
    return found


def deeper(lesson, earlier):
    """Nothing outside a deeper part uses a name bound only there."""
    found, before = [], False
    for cell in lesson.cells:
        is_deeper, begins = "deeper" in tags(cell), cell.source.startswith("### Deeper: ")
        if begins != is_deeper and (begins or not before):
            found.append(f"'### Deeper: ' and its tag do not agree at {cell.source[:40]!r}")
        before = is_deeper
    inside = [c for c in code_cells(lesson) if "deeper" in tags(c)]
    outside = [c for c in code_cells(lesson) if "deeper" not in tags(c)]
    bound = {name for c in inside for name in names(c, ast.Store)}
    bound -= {name for c in outside for name in names(c, ast.Store)}
    used = bound & {name for c in outside for name in names(c, ast.Load)}
    return found + [f"{name!r} is bound in a deeper part and used outside" for name in sorted(used)]


def committed(notebook):
    """Sentences about what is wrong with an executed, committed notebook."""
    found = []
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.execution_count for c in cells] != list(range(1, len(cells) + 1)):
        found.append("the cells were not executed once, in order")
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{cell.id} ends in {output.ename}")
            for kind in output.get("data", {}):
                alt = output.metadata.get(kind, {}).get("alt", "")
                if kind.startswith("image/") and len(alt) < 20:
                    found.append(f"{cell.id} has a figure without alternative text")
            if output.get("name") == "stderr":
                found.append(f"{cell.id} writes to stderr: {output.text[:60]!r}")
    return found


def markdown(lesson):
    return [c for c in lesson.cells if c.cell_type == "markdown"]


def code_cells(lesson):
    return [c for c in lesson.cells if c.cell_type == "code"]


def section(lesson, heading):
    text = "\n\n".join(c.source for c in markdown(lesson))
    match = re.search(rf"(?ms)^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text)
    return match[1] if match else ""


def tree(cell):
    """The parsed code of a cell, None if it is not Python."""
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return None


def calls(cell, function):
    return [
        node
        for node in ast.walk(tree(cell) or ast.Module([]))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == function
    ]


def name_of(call):
    return call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None


def names(cell, context):
    """Names stored or loaded in a cell, functions, classes and imports included."""
    found = set()
    for node in ast.walk(tree(cell) or ast.Module([])):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            found.add(node.id)
        elif context is ast.Store and isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif context is ast.Store and isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif context is ast.Store and isinstance(node, ast.arg):
            found.add(node.arg)
    return found
