"""What in a submission's code a teacher may want to look at: it is read, not run."""

import ast

SUSPICIOUS = {
    "_getframe", "_current_frames", "tb_frame", "f_back", "f_globals", "f_locals", "gi_frame",
    "gc", "ctypes", "get_objects", "get_referrers", "settrace", "setprofile", "addaudithook",
    "__code__", "__closure__", "__globals__", "cell_contents", "__subclasses__",
    "__torch_function__", "__torch_dispatch__", "__eq__", "__ne__", "_exit", "fork",
    "system", "Popen", "subprocess", "setattr", "signal", "exec", "__import__",
    "import_module", "__dict__", "getclosurevars", "linecache", "update_wrapper",
}  # fmt: skip
USUAL = (".course.setup", ".course.check", ".ranks", ".course.adapters")
PHRASES = ("exercises.load", "exercises/src", "course.exercises", "course.feedback", "/proc/")


def scan(code, given=""):
    """What in the code a teacher may want to look at, sorted.

    given: code that every student has; the package's modules that it names may be imported.
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ["code that can't be read"]
    names = {getattr(node, field, None) for node in nodes for field in ("id", "attr", "name")}
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules |= set(inside) if node.module == "minimtnlg.course" else {node.module}
    names |= modules
    found = {name for name in names if isinstance(name, str) and name in SUSPICIOUS}
    found |= {phrase for phrase in PHRASES if phrase in code}
    for name in modules:  # the package has its own version of much that is asked
        if name.startswith("minimtnlg.") and name not in given and not name.endswith(USUAL):
            found.add(f"imports {name}")
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in nodes:  # torch.allclose = ...
        found |= {_foreign(target, imported) for target in getattr(node, "targets", [])}
    return sorted(found - {""})


def _foreign(target, imported):
    """`torch.allclose = ...` if a target is an attribute of what the code imports, else ""."""
    parts, root = [], target
    while isinstance(root, ast.Attribute):
        parts.insert(0, root.attr)
        root = root.value
    if not parts or not isinstance(root, ast.Name) or root.id not in imported:
        return ""
    return ".".join([root.id, *parts])[:200] + " = ..."
