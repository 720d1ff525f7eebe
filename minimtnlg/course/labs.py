"""Find-the-bug labs: code of the package with a bug in it, what it does, and whether it is mended.

    suspects = ["Zero.zero", "Zero._leave", "Zero._land"]
    excerpt("parallel/zero.py", suspects, "sums_sent_again")    # the stub; without a name: right
    lab = Lab("parallel/zero.py", suspects)
    lab.compare(Zero, "parallel.dp=2", "parallel.zero=2")    # prints what differs, for bisecting
    lab.run(Zero, program, 2)    # ranks have a copy of the package with these definitions in it

All suspects stand in one cell; the last is what is handed in. Its text is put into the copy, and
the text of the others, which are found among its globals. Suspects come without their comments and
docstrings: these would say what ought to be there.
"""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from functools import cache
from pathlib import Path

from minimtnlg import run
from minimtnlg.course.feedback import Feedback
from minimtnlg.course.mutants import PACKAGE, copied, find, on_ranks
from minimtnlg.ranks import RankError

SMALL = ("model.layers=2", "model.hidden=16", "model.heads=4", "model.seq=8", "model.vocab=32")
PATIENCE = 60  # seconds; a job takes one or two, and a deadlock is waited for


def excerpt(file, suspects, bug=None):
    """The suspects' source with what it imports, and with the mutant `bug` if one is named."""
    text = find(bug).source() if bug else (PACKAGE / file).read_text()
    lines, nodes, parts = _without_words(text), ast.parse(text).body, {}
    for node in nodes:
        if _name(node) in suspects:
            parts[node.name] = _lines(lines, node)
        elif _name(node) in _names(suspects):
            methods = [x for x in node.body if f"{node.name}.{_name(x)}" in suspects]
            bodies = "\n\n".join(_lines(lines, x) for x in methods)
            parts[node.name] = f"{lines[node.lineno - 1]}\n{bodies}"
    code = "\n\n\n".join(parts[name] for name in _names(suspects))
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    imports = []
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [x for x in node.names if (x.asname or x.name) in used]
            imports += [ast.unparse(node)] if node.names else []
    if others := sorted({_name(node) for node in nodes} & used - set(parts)):
        module = file.removesuffix(".py").replace("/", ".")
        imports.append(f"from minimtnlg.{module} import {', '.join(others)}")
    return "\n".join(imports) + "\n\n\n" + code


class Lab:
    """Some definitions of one file of the package.

    file      in the package, "parallel/zero.py"
    suspects  functions and classes, "RowParallel", or methods, "Zero._land"; in the cell of the
              student they stand in this order, the methods of a class as in the file
    """

    def __init__(self, file, suspects):
        self.file, self.suspects = file, suspects
        self.names = _names(suspects)

    def source(self, answer):
        """The whole file with the suspects as the student has them; Feedback if one is missing."""
        tree = ast.parse((PACKAGE / self.file).read_text())
        for i, ours in enumerate(tree.body):
            if _name(ours) not in self.names:
                continue
            theirs = answer if ours.name == self.names[-1] else _globals(answer).get(ours.name)
            if isinstance(ours, ast.FunctionDef):
                tree.body[i] = _definition(theirs, ours)
            else:
                self._put_methods(theirs, ours)
        return ast.unparse(tree)

    def _put_methods(self, theirs, ours):
        """The suspect methods of the student's class, and new ones, into the syntax tree `ours`."""
        if not inspect.isclass(theirs):
            raise Feedback(ours.name, "a class", repr(theirs), "hand in the cell's last definition")
        whole = ours.name in self.suspects
        for i, part in enumerate(ours.body):
            if isinstance(part, ast.FunctionDef):
                if whole or f"{ours.name}.{part.name}" in self.suspects:
                    ours.body[i] = _definition(getattr(theirs, part.name, None), part)
        known = {_name(part) for part in ours.body}
        for name, value in vars(theirs).items():
            if name not in known and (node := _tree(value)):
                ours.body.append(node)

    def run(self, answer, program, ranks, *args):
        """run(program, ranks, *args) with the student's suspects in the package of the ranks.

        Feedback in words if a rank fails. Equal jobs run once, so `args` must be hashable.
        """
        found = _ran(self.file, self.source(answer), program, ranks, args)
        return _ended(found, f"{ranks} ranks", self.file)

    def verify(self, answer, *overrides):
        """What `verify` says of the layout with these overrides, on a model that takes a second.

        Feedback in words if a rank fails.
        """
        found = _verified(self.file, self.source(answer), overrides)
        return _ended(found, " ".join(overrides), self.file)

    def compare(self, answer, *overrides):
        """Print in which respects a layout differs from one process that computes it rightly."""
        try:
            found = self.verify(answer, *overrides)
        except Feedback as words:
            print(words)
            return
        print(" ".join(overrides) or "one process")
        for kind, value in found["max_abs_diff"].items():
            print(f"  {kind:10} {_say(value)}")
        gradients = found["gradients"]
        if wrong := [name for name, value in gradients.items() if _differs(value)]:
            some = "all" if len(wrong) == len(gradients) else f"{len(wrong)} of"
            print(f"  gradients of {some} {len(gradients)} parameters differ in the first step")
            if len(wrong) <= len(gradients) // 2:
                print(f"  namely {', '.join(wrong)}")

    def expect_equal(self, answer, *overrides, look_at):
        """Feedback, with `look_at`, unless the layout equals one process in all respects."""
        differences = self.verify(answer, *overrides)["max_abs_diff"]
        unequal = [f"{kind} {_say(x)}" for kind, x in differences.items() if _differs(x)]
        if unequal:
            what = f"three steps with {' '.join(overrides)}"
            expected = "loss, gradient, its norm and the weights of one process"
            raise Feedback(what, expected, ", ".join(unequal), look_at)


def _differs(value):
    from minimtnlg.train.verify import LIMIT  # loads torch, which reading an exercise need not

    return not value <= LIMIT


def _say(value):
    return f"differs by {value:.0e} (absolute)" if _differs(value) else "equal"


@cache  # several checks look at one job, and a deadlock is waited for once
def _verified(file, source, overrides):
    from minimtnlg.train.verify import configure, verify

    config = configure("nano", [*SMALL, *overrides])
    with copied(file, source) as folder, on_ranks(folder):
        try:
            return verify(config, timeout=PATIENCE)
        except RankError as error:
            return error


@cache
def _ran(file, source, program, ranks, args):
    with copied(file, source) as folder, on_ranks(folder):
        try:
            return run(program, ranks, *args, timeout=PATIENCE)
        except RankError as error:
            return error


def _ended(found, what, file):
    """What a job found; Feedback if that is how it failed."""
    if not isinstance(found, RankError):
        return found
    frames = re.findall(rf'{re.escape(file)}", line \d+, in (\S+)\n *(.+)', found.traceback)
    got, look_at = str(found).splitlines()[0], "in {}: {}".format(*frames[-1]) if frames else ""
    if found.type == "NameError":
        look_at = "names that you use must be known in the file"
    if found.type == "TimeoutError":
        got, look_at = "a deadlock", "all ranks of a group make the same calls in one order"
    raise Feedback(what, "every rank ends its steps", got, look_at)


def _definition(found, ours):
    """The syntax tree of the student's function in place of `ours`; Feedback if it is none."""
    node, wanted = _tree(found), [x.arg for x in ours.args.args]
    if node is None or [x.arg for x in node.args.args][: len(wanted)] != wanted:
        what, signature = "in the cell of the suspects", f"{ours.name}({ast.unparse(ours.args)})"
        got = f"{node.name}({ast.unparse(node.args)})" if node else "no such function there"
        raise Feedback(what, signature, got, "mend the cell: what stands there keeps its name")
    node.name = ours.name  # a wrong answer has a name of its own
    return node


def _tree(found):
    """The syntax tree of a function; None for what is none, or is the package's own."""
    code = getattr(inspect.unwrap(found), "__code__", None) if callable(found) else None
    if code is None or Path(code.co_filename).is_relative_to(PACKAGE):  # it has no bug to mend
        return None
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
    except (OSError, SyntaxError, IndexError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None


def _globals(answer):
    """The names that the code of a function or class sees."""
    functions = vars(answer).values() if inspect.isclass(answer) else [answer]
    functions = (inspect.unwrap(getattr(f, "__func__", f)) for f in functions)  # static, decorated
    return next((f.__globals__ for f in functions if hasattr(f, "__globals__")), {})


def _names(suspects):
    """The functions and classes that a cell of these suspects defines, in their order."""
    return list(dict.fromkeys(suspect.partition(".")[0] for suspect in suspects))


def _without_words(text):
    """The lines of a source without comments and docstrings; None for lines of nothing else."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() or None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno, node.body[0].end_lineno
            last += not lines[last].strip()  # the empty line below
            lines[first - 1 : last] = [None] * (last - first + 1)
    return lines


def _lines(lines, node):
    first = min(x.lineno for x in [node, *node.decorator_list])
    return "\n".join(x for x in lines[first - 1 : node.end_lineno] if x is not None)


def _name(node):
    """What a statement defines; None for others."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return getattr(node, "name", None)
