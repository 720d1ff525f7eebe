"""Numbers and rules that are drawn for a class, and where an exercise shows them.

The front matter of an exercise lists what may be drawn, the public value first:

    draws:
      RANKS: [4, 3, 5]
      ROUND: [right, left]

Cells tagged `target` compute more names from these, without the solution. All are globals of the
exercise's code, and `{{RANKS}}` in its text is replaced by the value.
"""

import ast
import re

from minimtnlg.errors import InputError


def values(source, draws=None):
    """All names with their values: the public ones, but for those that `draws` replaces.

    InputError for a name or a value in `draws` that the exercise does not list.
    """
    chosen = {name: options[0] for name, options in source.draws.items()}
    for name, value in (draws or {}).items():
        if name not in chosen:
            known = ", ".join(chosen) or "none"
            raise InputError(f"{source.path}: {name!r} is not drawn; there are {known}")
        if value not in source.draws[name]:
            raise InputError(f"{source.path}: {name} is one of {source.draws[name]}, not {value!r}")
        chosen[name] = value
    scope = dict(chosen)
    for cell in source.tagged("target"):
        exec(compile(cell.source, str(source.path), "exec"), scope)
    return {name: scope[name] for name in scope if re.fullmatch("[A-Z][A-Z0-9_]*", name)}


def fill(text, known):
    """`text` with each `{{NAME}}` of a known name replaced by its value."""

    def value(match):
        return str(known[match[1]]) if match[1] in known else match[0]

    return re.sub(r"\{\{([A-Z][A-Z0-9_]*)\}\}", value, text)


def assignments(code, known):
    """Lines `NAME = value` for the known names that `code` uses and does not set itself."""
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    used = {node.id for node in names} - own
    return "\n".join(f"{name} = {value!r}" for name, value in known.items() if name in used)
