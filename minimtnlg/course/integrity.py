"""What a submission may not touch: the names that checks rely on, and the inside of the grader.

A check and an answer share a process, so the answer could replace torch.allclose, read the checks
or speak for the grader. Two measures, none of them perfect (`docs/grading.md`):

    picture()  all that the checks rely on, compared after the submission was loaded and after
               each check: what was replaced is named, and there are no points
    refuse()   an audit hook: what leads to the grader's variables or to the exercises' sources
               raises PermissionError in the student's code

What code looks as though it tried is listed for the teacher by `suspicion.py`.
"""

import _signal
import ast
import builtins
import importlib.machinery
import os
import signal
import symtable
import sys
import sysconfig
import types

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Modules whose names checks use, beside minimtnlg's own and those that a check's globals hold.
RELIED_ON = (
    "builtins", "copy", "functools", "inspect", "itertools", "json", "linecache", "math",
    "operator", "os", "pickle", "random", "re", "statistics", "time", "traceback", "types",
    "ast", "dataclasses", "textwrap", "numpy._core._methods", "numpy.core._methods",
    "cloudpickle", "numpy", "numpy.linalg", "numpy.random", "torch", "torch.autograd",
    "torch.distributed", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.testing",
)  # fmt: skip
CLASSES = ("torch.Tensor", "torch.nn.Module", "torch.nn.Parameter", "torch.autograd.Function")


def picture(functions, modules=()):
    """A function that returns "" as long as nothing is replaced, then its name.

    functions  the checks; the modules that their globals hold are looked at as well
    modules    names of more
    """
    scopes = {}  # name -> a namespace, at which identity is compared
    for name, module in list(sys.modules.items()):
        if name in RELIED_ON or name in modules or name.partition(".")[0] == "minimtnlg":
            scopes[name] = vars(module)
    for function in functions:
        scopes["the checks"] = function.__globals__
        for value in function.__globals__.values():
            if isinstance(value, types.ModuleType):
                scopes[value.__name__] = vars(value)
    classes = {name: _named(name) for name in CLASSES}
    for name, scope in list(scopes.items()):
        for key, value in scope.items():
            own = isinstance(value, type) and value.__module__ == name
            if own and (name.startswith("minimtnlg") or name == "the checks"):
                classes[f"{name}.{key}"] = value
    before = {name: dict(scope) for name, scope in scopes.items()}
    inside = {name: (cls, dict(vars(cls)), set(dir(cls))) for name, cls in classes.items()}
    code = [
        (f"{name}.{key}", value, _body(value))
        for name, scope in before.items()
        if name.startswith("minimtnlg") or name == "the checks"
        for key, value in scope.items()
        if isinstance(value, types.FunctionType)
    ]
    modules_now, loaded = sys.modules, dict(sys.modules)
    usual = set(vars(builtins))
    finders = list(sys.meta_path), list(sys.path_hooks)

    def replaced():
        if sys.modules is not modules_now:
            return "sys.modules"
        for name, scope in before.items():
            now = scopes[name]
            for key, value in scope.items():
                if now.get(key) is not value and _is_fixed(name, key, value):
                    return f"{name}.{key}"
            for key in now.keys() - scope.keys():
                if key in usual and not key.startswith("__"):  # it would hide the real one
                    return f"{name}.{key}"
        for name, (cls, scope, known) in inside.items():
            now = vars(cls)
            for key, value in scope.items():
                if now.get(key) is not value and not key.startswith(("_abc_", "__abstract")):
                    return f"{name}.{key}"
            for key in now.keys() - scope.keys():
                if key in known:  # it would hide an inherited one
                    return f"{name}.{key}"
        for name, function, body in code:
            if not all(a is b for a, b in zip(_body(function), body, strict=True)):
                return name
        for name, module in loaded.items():
            if name != "__main__" and sys.modules.get(name) is not module:
                return f"the module {name}"
        if finders != (sys.meta_path, sys.path_hooks):
            return "the way in which modules are found"
        return "the package minimtnlg" if another_package() else ""

    return replaced


def another_package():
    """Whether `import minimtnlg` would now find another one than this."""
    found = importlib.machinery.PathFinder.find_spec("minimtnlg")
    return found is None or os.path.dirname(found.origin or "") != PACKAGE


def changed_copy():
    """What is not as its file says in a loaded copy of the package, or "".

    For the labs, whose ranks import a copy. The one file that the lab has changed is left out.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "minimtnlg" or not getattr(module, "__file__", None):
            continue
        with open(module.__file__, "rb") as file:
            text = file.read()
        ours = os.path.join(PACKAGE, *module.__file__.rpartition("minimtnlg" + os.sep)[2:])
        with open(ours, "rb") as file:
            if file.read() != text:
                continue
        written, tree = _codes(compile(text, module.__file__, "exec")), ast.parse(text)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        scopes = [(name, tree.body, vars(module))]
        scopes += [(f"{name}.{c.name}", c.body, vars(vars(module)[c.name])) for c in classes]
        for place, body, scope in scopes:
            for node in body:
                plain = isinstance(node, ast.FunctionDef) and not node.decorator_list
                if plain and node.name != "__torch_dispatch__":  # that one torch wraps
                    value = scope.get(node.name)
                    if type(value) in (staticmethod, classmethod):  # __new__ becomes one
                        value = value.__func__
                    if type(value) is not types.FunctionType or value.__code__ not in written:
                        return f"{place}.{node.name}"
        sets = symtable.symtable(text.decode(), name, "exec")
        for key in vars(builtins).keys() & vars(module).keys():
            if not key.startswith("__") and not (
                key in sets.get_identifiers() and sets.lookup(key).is_local()
            ):  # it hides the real one
                return f"{name}.{key}"
    return ""


def _codes(code):
    """The code object of a file with all that are in it."""
    inside = [x for x in code.co_consts if isinstance(x, types.CodeType)]
    return {code}.union(*map(_codes, inside))


def _is_fixed(module, key, value):
    """Whether a name stays what it is in honest use: functions, classes, modules, constants."""
    if key.startswith("__") and key != "__import__":
        return False
    ours = module == "the checks" or module.startswith("minimtnlg")
    return ours or callable(value) or isinstance(value, types.ModuleType)


def _body(function):
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _named(name):
    module, _, key = name.rpartition(".")
    return getattr(importlib.import_module(module), key)


# ------------------------------------------------------------------------- what is refused

# Events of the interpreter; https://docs.python.org/3/library/audit_events.html
FRAMES = ("sys._getframe", "sys._current_frames", "sys._current_exceptions")
TRACING = ("sys.settrace", "sys.setprofile", "sys.monitoring.register_callback", "sys.addaudithook")
GARBAGE = ("gc.get_objects", "gc.get_referrers", "gc.get_referents")
INSIDE = {"tb_frame", "gi_frame", "cr_frame", "ag_frame", "__code__", "f_locals", "f_globals"}
PROGRAMS = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "os.forkpty", "os.kill", "os.killpg", "signal.pthread_kill",
)  # fmt: skip
HELPERS = {  # functions of the standard library that do these things for who calls them
    "inspect.py": {"currentframe", "stack", "trace", "getouterframes", "getinnerframes"},
    "traceback.py": {"walk_stack", "walk_tb", "_walk_tb_with_full_positions"},
    "bdb.py": {"get_stack"},
    "asyncio/base_tasks.py": {"_task_get_stack"},
    "logging/__init__.py": {"<lambda>", "currentframe"},
    "ctypes/__init__.py": {"__getattr__", "__getitem__", "__init__", "LoadLibrary"},
    "subprocess.py": {"__init__", "run", "call", "check_output", "check_call", "_execute_child"},
}
LOOPBACK = ("127.", "::1", "localhost")


def trusted(source):
    """A function of a file's name: whether its code is Python's, a library's or the exercise's."""
    kept = sysconfig.get_paths()
    folders = {kept[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.add(PACKAGE)
    folders |= {os.path.realpath(folder) for folder in folders}
    starts = (*(folder + os.sep for folder in folders), "<frozen ", "<__array_function__")
    tags = ("", "stub", "check", "hidden")
    own = {str(source.path), *(f"<{source.stem}, {tag}>" for tag in tags)}

    def known(name):
        return name.startswith(starts) or name in own

    return known


def refuse(known, enclosed, secret=()):
    """Refuse from now on, in this process and its forks, what no answer needs.

    known     as from `trusted`
    enclosed  whether other processes are out of reach; else none may be started or ended either
    secret    folders that nobody may open

    Returns a list that grows by what was tried.
    """
    tried, busy = [], []
    given = INSIDE.union(*HELPERS.values(), (event.partition(".")[2] for event in FRAMES + GARBAGE))
    getframe, helpers = sys._getframe, HELPERS
    secret = tuple(os.path.realpath(folder) for folder in secret)
    names = {name for folder in secret if os.path.isdir(folder) for name in os.listdir(folder)}
    watched = {*FRAMES, *TRACING, *GARBAGE, "object.__getattr__", "object.__setattr__", "compile"}
    watched |= {"code.__new__", "open", "os.listdir", "os.scandir", "os.link", "os.symlink"}
    watched |= {"socket.connect", "socket.bind", "socket.sendto"}
    watched |= set() if enclosed else set(PROGRAMS)

    def hook(event, arguments):
        if (event in watched or event.startswith("ctypes.")) and not busy:
            busy.append(event)
            try:
                frame = getframe(1)
                what = forbidden(event, arguments, frame)
                del frame
            finally:
                busy.pop()
            if what:
                tried.append(what)
                raise PermissionError(f"a submission may not use {what}")

    def names_one(code):
        """Whether it asks for frames itself, and isn't handed a function that does."""
        texts = [const for const in code.co_consts if type(const) is str]
        return not given.isdisjoint([*code.co_names, *texts])

    def students(frame, gives=False):
        """Whether the student's code does it, also by a helper of the standard library.

        gives: of what hands something out, any library's function helps that was given a function
        """
        while frame and known(frame.f_code.co_filename):
            name = "/".join(frame.f_code.co_filename.split(os.sep)[-2:])
            short = name.partition("/")[2]
            own = helpers.get(name, helpers.get(short, ()))
            if frame.f_code.co_name not in own and not (gives and not names_one(frame.f_code)):
                return False
            frame = frame.f_back
        return frame is not None

    def forbidden(event, arguments, frame):
        if event in ("open", "os.listdir", "os.scandir", "os.link", "os.symlink"):
            return hidden(arguments[0], frame)
        if event in TRACING:  # a debugger of the standard library hands out frames, too
            return event
        gives = event in FRAMES + GARBAGE or arguments[1:2] and arguments[1] in INSIDE
        if not students(frame, gives):
            return ""
        if event in ("object.__getattr__", "object.__setattr__"):
            return arguments[1] if arguments[1] in INSIDE else ""
        if event in ("compile", "code.__new__"):
            return "a false file name" if known(str(arguments[1])) else ""
        if event.startswith("socket."):
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) and address else ""
            return "" if str(host).startswith(LOOPBACK) or not host else "the network"
        return event.partition(".")[0] if event.startswith(("ctypes", "gc")) else event

    def hidden(path, frame):
        if isinstance(path, int) or path is None:
            return ""
        path = os.fsdecode(path)
        if path.startswith("/proc/") and path.rpartition("/")[2] in ("mem", "environ", "maps"):
            return path if students(frame) else ""
        if not secret:
            return ""
        real = os.path.realpath(path)
        inside = any(real == s or real.startswith(s + os.sep) for s in secret)
        if inside or (os.path.basename(path) in names and not os.path.isabs(path)):
            if frame.f_code.co_filename.endswith("linecache.py"):
                raise PermissionError("the source of an exercise is not shown")
            return "the exercises' sources"
        return ""

    def handler(*_):
        tried.append("signal.signal")
        raise ValueError("a submission may not handle signals")  # as asyncio expects in a thread

    signal.signal = _signal.signal = handler  # a handler is given the frame; no event tells of it
    sys.addaudithook(hook)
    return tried
