"""Whose word a number in the prose of a lesson is: the code's, or that of the work it cites.

A number of the prose stands

- if the lesson prints it, or computes with it (the sizes of a drawing prove nothing);
- if its paragraph cites a work, as [S3], or another lesson; then it stands in the whole lesson;
- if it is one of MT-NLG's, in its preset;
- if a question gives it, for that question and its answer;
- if it belongs to a formula `$a = b$` of numbers alone that is right, as far as its digits go.

Whole numbers up to ten, years, exponents and numbers inside `code` need no proof.
"""

import ast
import math
import re
import warnings

from minimtnlg.config import preset

DRAWING = {"ax", "axes", "fig", "plt", "left", "right", "above", "below", "box"}
SOURCE = r"\[S\d+[^\]]*\]|\b[Ll]essons? \d\d"  # a work of docs/bibliography.md, a lesson
NUMBER = r"(?<![\w.])\d+(?:\.\d+)?(?!\w*\.\w)"
ALLOWED = {  # lesson: numbers of its prose that are neither results nor facts
    "04_a_training_step": {6.02},  # an example of a notation
}
ALLOWED_TYPED = {  # lesson: numbers of its alternative texts that the cell draws but does not print
    "02_the_corpus": {0.6},  # where the S begins to rise
    "03_tokens_and_batches": {25, 3.1},  # tokens of five documents; epochs of Wikipedia
    "04_a_training_step": {0.008, 65504, 7680},  # spacing, largest, a quotient
    "07_data_parallel": {6.5},  # 18.5 - 12
    "08_zero": {30},  # 4 bytes of 7.5 billion
    "11_pipeline": {38.8},  # 80 - 41.2
    "19_evaluation": {55, 69, 73, 150, 210},  # [S3, Figure 5]
}


def unproven(lesson, notebook):
    """Sentences about numbers in the prose of `lesson` that nothing gives; see above.

    `notebook` is the lesson executed: its outputs prove, too.
    """
    paragraphs = [
        paragraph
        for cell in lesson.cells
        if cell.cell_type == "markdown"
        for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", cell.source)
    ]
    proven = printed(notebook) | _of_preset("mtnlg-530b") | ALLOWED.get(lesson.name, set())
    for cell in lesson.cells:
        if cell.cell_type == "code":
            proven |= constants(cell.source)
    for paragraph in paragraphs:
        if re.search(SOURCE, paragraph):
            proven |= numbers(paragraph)
    found, given = [], set()
    for paragraph in paragraphs:
        if "?" in paragraph:
            given = numbers(paragraph)
        elif not re.search(SOURCE, paragraph):
            found += _of_paragraph(paragraph, proven | given)
    return found


def typed(lesson, notebook):
    """Sentences about numbers in alternative texts that are typed and come from nowhere else."""
    proven = printed(notebook) | _of_preset("mtnlg-530b") | ALLOWED_TYPED.get(lesson.name, set())
    for cell in lesson.cells:
        if cell.cell_type == "code":
            proven |= constants(cell.source)
    found = []
    code = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "code")
    for call in ast.walk(ast.parse(code)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "figure":
            texts = [n.value for k in call.keywords for n in ast.walk(k.value)
                     if isinstance(n, ast.Constant) and isinstance(n.value, str)]  # fmt: skip
            found += [line for text in texts for line in _of_paragraph(text, proven)]
    return found


def numbers(text):
    """The numbers in a text, a set."""
    return {float(number) for number in re.findall(NUMBER, _plain(text))}


def _of_paragraph(paragraph, proven):
    paragraph = re.sub(r"(?m)^\s*\d+\. |^#.*$", "", paragraph)  # numbers of items, headings
    paragraph = re.sub(r"(?s)```.*?```|``.+?``|`[^`]+`|\]\([^)]*\)", " ", paragraph)
    known = proven | _arithmetic(paragraph)
    text = _plain(re.sub(r"\^\{?-?\d+\}?", " ", paragraph))
    return [
        f"{match[0]} in {' '.join(text[max(0, match.start() - 40) : match.end() + 30].split())!r}"
        for match in re.finditer(NUMBER, text)
        if float(match[0]) not in known and not re.fullmatch(r"\d|10|(19|20[0-2])\d\d?", match[0])
    ]


def _arithmetic(paragraph):
    """Numbers of formulas `a = b` in $...$ whose sides are numbers and equal, as far as written."""
    known = set()
    for formula, percent in re.findall(r"(?s)\$\$?([^$]+)\$(\s%)?", paragraph):
        sides = [(side, _value(side)) for side in re.split(r"=|\\approx", formula)]
        for (one, value), (other, result) in zip(sides, sides[1:], strict=False):
            if value is None or result is None:
                continue
            value *= 100 if percent else 1
            digits = len(re.search(r"\.?(\d*)[^\d]*$", other)[1]) if "." in other else 0
            if math.isclose(value, result) or abs(value - result) <= 0.5000001 * 10.0**-digits:
                known |= numbers(one + " " + other)
    return known


def _value(side):
    """The number that a side of a formula is, None if it holds more than numbers."""
    text = re.sub(r"\\text\{[^}]*\}|\\[,;!]", "", side).strip(" .,;\n").replace("\\log", "log")
    text = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"((\1)/(\2))", text)
    text = text.replace(r"\cdot", "*").replace(r"\times", "*").replace("^", "**")
    text = text.replace("{", "(").replace("}", ")")
    if not re.search(r"\d", text) or re.search(r"[^\d.\s()+*/-]", text.replace("log", "")):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of a number that is called
            return float(eval(text, {"__builtins__": {}, "log": math.log}))  # no names but log
    except (SyntaxError, TypeError, ZeroDivisionError, OverflowError, ValueError):
        return None


def printed(notebook):
    """The numbers in the outputs of a notebook, figures and their texts left out."""
    proven = set()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if not any(kind.startswith("image/") for kind in data):
                text = _plain(output.get("text", "") + data.get("text/plain", ""))
                proven |= {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text)}
    return proven


def _of_preset(name):
    """The numbers of a preset, its tokens in billions, and what follows of its ranks."""
    config = preset(name)
    fields = [v for part in vars(config).values() for v in vars(part).values()]
    proven = {float(v) for v in fields if isinstance(v, int | float)}
    world = config.parallel.tp * config.parallel.pp * config.parallel.dp
    return proven | {v / 1e9 for v in proven} | {float(world), world / 8}


def constants(source):
    """The numbers in the code of a cell, without those that say how something is drawn.

    Large ones in billions too, and differences and quotients of two numbers.
    """
    proven = set()

    def visit(node):
        if isinstance(node, ast.Call) and _root(node.func) in DRAWING | {"figure"}:
            return
        if isinstance(node, ast.Constant):
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                proven.update((float(node.value), node.value / 1e9))
            elif isinstance(node.value, str):
                proven.update(numbers(node.value))
        if isinstance(node, ast.BinOp) and re.fullmatch(r"[\d._e+*/ -]+", ast.unparse(node)):
            proven.add(round(float(eval(ast.unparse(node), {"__builtins__": {}})), 9))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return proven


def _root(node):
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", None)


def _plain(text):
    """Thousands without what divides them."""
    text = text.replace("{,}", ",").replace(r"\,", " ")
    return re.sub(r"(?<=\d)[ \u00a0\u202f_,](?=\d{3}(?!\d))", "", text)
