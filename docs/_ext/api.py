"""The API pages: each public module of a package, read from its source without importing it.

`{package} minimtnlg.parallel` becomes a section for each module: its docstring, then its public
functions and classes with signature, docstring, and the fields of dataclasses with their comments,
which is where this package says units and sources.
"""

import ast
import inspect
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

# "name   text" or "name: text", which docstrings have for parameters and fields
ROW = re.compile(r" *(?!- |\d+\. )(\S(?:.*?\S)??(?=  )|[\w., ]+?(?=: ))(?:  +|: )(\S.*)")


def modules(package, root):
    """{dotted name: path} of the public modules of a package, the package itself first."""
    folder = Path(root, *package.split("."))
    names = {package: folder / "__init__.py"}
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            names[f"{package}.{path.stem}"] = path
    return {name: path for name, path in names.items() if path.exists()}


# ------------------------------------------------------------------------- docstring -> Markdown


def markdown(docstring):
    """A docstring as Markdown: rows of name and text become a list, other indented text code."""
    out = []
    for paragraph in re.split(r"\n *\n", inspect.cleandoc(docstring or "")):
        lines = paragraph.splitlines() or [""]
        if re.fullmatch(r"\w.*:", lines[0]) and len(lines) > 1 and _indent(lines[1]):
            out.append(_plain(lines.pop(0)))  # "Parameters:", and here they are
        out.append("\n".join(_block(lines)))
    return "\n\n".join(out).strip()


def _block(lines):
    """A paragraph, which is a list, code, or text."""
    base = _indent(lines[0]) if lines else 0
    prose = len(lines) == 1 and base == 0 and "  " not in lines[0]
    if lines and not prose and all(_indent(x) > base or ROW.fullmatch(x) for x in lines):
        return [
            f"- {_code(ROW.fullmatch(x)[1])}: {_plain(ROW.fullmatch(x)[2])}"
            if _indent(x) == base
            else "  " + _plain(x.strip())
            for x in lines
        ]
    if base >= 4:
        return ["```text", *(x[base:] for x in lines), "```"]
    return [_plain(x) for x in lines]


def _indent(line):
    return len(line) - len(line.lstrip())


def _code(name):
    return name if "`" in name else f"`{name}`"


def _plain(line):
    """A line of plain text with code in backticks: what else Markdown would read is escaped."""
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(p if p.startswith("`") else re.sub(r"([<*_$|~])", r"\\\1", p) for p in parts)


# --------------------------------------------------------------------------- source -> Markdown


class Page:
    """The Markdown of one module."""

    def __init__(self, path, name, address):
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)
        self.name = name
        self.address = address  # of the file on the web

    def markdown(self):
        """All of it, but for the heading."""
        parts = [f"```{{py:module}} {self.name}\n```", f"[Source]({self.address})"]
        parts.append(markdown(ast.get_docstring(self.tree, clean=False)))
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                parts.append(self._function(node, "function", node.name, 3))
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                parts.append(self._class(node))
        return "\n\n".join(parts)

    def _function(self, node, kind, name, ticks):
        arguments = ast.unparse(node.args)
        decorators = {ast.unparse(d).split(".")[-1].split("(")[0] for d in node.decorator_list}
        if decorators & {"property", "cached_property"}:
            kind, arguments = "property", None
        elif kind == "method" and "staticmethod" not in decorators:
            arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
        options = ":classmethod:\n" if "classmethod" in decorators else ""
        options += ":staticmethod:\n" if "staticmethod" in decorators else ""
        signature = name if arguments is None else f"{name}({arguments})"
        body = f"{markdown(ast.get_docstring(node, clean=False))} {self._source(node)}"
        return _directive(f"py:{kind}", signature, options, body, ticks)

    def _class(self, node):
        fields = self._fields(node)
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        init = next((n for n in methods if n.name == "__init__"), None)
        signature = node.name
        if init:
            signature += f"({re.sub(r'^self(, )?', '', ast.unparse(init.args))})"
        parts = [f"{markdown(ast.get_docstring(node, clean=False))} {self._source(node)}"]
        if init and ast.get_docstring(init):
            parts.append(markdown(ast.get_docstring(init, clean=False)))
        if fields:
            parts.append("\n".join(fields))
        for method in methods:
            if not method.name.startswith("_") and ast.get_docstring(method):
                parts.append(self._function(method, "method", f"{node.name}.{method.name}", 3))
        return _directive("py:class", signature, "", "\n\n".join(parts), 5)

    def _fields(self, node):
        """A list item for each annotated field: its name, type, default, and its comment."""
        items = []
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or field.target.id.startswith("_"):
                continue
            end = self.lines[field.end_lineno - 1][field.end_col_offset :]
            comment = end.partition("#")[2].strip()
            declared = ast.unparse(field)
            items.append(f"- `{declared}`" + (f": {_plain(comment)}" if comment else ""))
        return items

    def _source(self, node):
        return f"[\\[source\\]]({self.address}#L{node.lineno})"


def _directive(kind, signature, options, body, ticks):
    fence = "`" * ticks
    while fence in body:
        fence += "`"
    return f"{fence}{{{kind}}} {signature}\n{options}\n{body}\n{fence}"


class Package(SphinxDirective):
    """`{package} NAME`: a section for each public module."""

    required_arguments = 1

    def run(self):
        """The sections."""
        theme, root = self.config.html_theme_options, Path(self.env.srcdir)
        web = f"{theme['repository_url']}/blob/{theme['repository_branch']}"
        sections = []
        for name, path in modules(self.arguments[0], root).items():
            self.env.note_dependency(str(path))
            title = name.removeprefix("minimtnlg.")
            section = nodes.section(ids=[nodes.make_id(name)], names=[name])
            section += nodes.title("", title)
            self.state.document.note_explicit_target(section)
            page = Page(path, name, f"{web}/{path.relative_to(root).as_posix()}")
            lines = StringList(page.markdown().splitlines(), source=str(path))
            self.state.nested_parse(lines, 0, section)
            sections.append(section)
        return sections


def setup(app):
    """What Sphinx calls."""
    app.add_directive("package", Package)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
