"""A comparison that fails in words: what was checked, expected, got, and which idea to look at.

Values are compared here and not with torch.allclose or numpy.testing: their answers speak to
programmers, and a student's code could replace them. Nor is a student's object ever asked whether
it is equal: it may say yes to everything.
"""

import dataclasses
import linecache
import sys
import traceback
import types

import numpy as np

SCALARS = frozenset([bool, int, float, complex, str, bytes, type(None), *np.sctypeDict.values()])
# Relative to the largest expected magnitude: several roundings of the type, not one more digit.
TOLERANCE = types.MappingProxyType(
    {"float64": 1e-9, "float32": 1e-5, "float16": 1e-3, "bfloat16": 1.6e-2}
)


class Feedback(Exception):
    """A check failed. Its text is the block of words that the learner reads."""

    def __init__(self, what, expected, got, look_at=""):
        self.what, self.expected, self.got, self.look_at = what, expected, got, look_at
        rows = [("what", what), ("expected", _short(expected)), ("got", _short(got))]
        if look_at:
            rows.append(("look at", look_at))
        super().__init__("\n".join(f"{name:<9} {text}" for name, text in rows))


def expect(got, expected, what, look_at="", tol=None):
    """Raise Feedback unless `got` equals `expected`.

    Parameters:
        got       what the student's code gave; any sequence may stand for a list or a tuple
        expected  number, string, tuple, list, dict, set, dataclass, array or tensor, computed
                  without the student's code
        what      which quantity this is, in words
        look_at   the idea or lesson section to read again when it fails
        tol       relative to the largest expected magnitude, in a list, tuple or dict to that of
                  each item; by default exact for integers and TOLERANCE of the expected type for
                  floating-point numbers
    """
    found = _difference(got, expected, tol)
    if found:
        place, wanted, given = found
        raise Feedback(f"{what}{place}", wanted, given, look_at)


def _difference(got, expected, tol):
    """None, or (where, expected there, got there) of the first difference."""
    if got is None and expected is not None:
        return "", expected, "None (does the function return its result?)"
    if isinstance(expected, dict):
        return _mapping(got, expected, tol)
    if isinstance(expected, list | tuple):
        return _sequence(got, expected, tol)
    if _is_array(expected) or isinstance(expected, float | int | complex | np.generic):
        return _array(got, expected, tol)
    try:
        same = _same(got, expected)
    except Exception:  # a type that cannot be compared is not equal
        same = False
    return None if same else ("", expected, got)


def _same(got, expected):
    """Whether two values are equal, with the same types all the way down."""
    kind = type(expected)
    if kind in SCALARS:
        return type(got) in SCALARS and bool(expected == got)
    if kind in (set, frozenset):
        return type(got) in (set, frozenset) and _alike(got, expected) and expected == got
    if type(got) is not kind:
        return False
    if kind in (list, tuple):
        return len(got) == len(expected) and all(map(_same, got, expected))
    if dataclasses.is_dataclass(expected) and not isinstance(expected, type):
        names = [field.name for field in dataclasses.fields(expected) if field.compare]
        return all(_same(getattr(got, name), getattr(expected, name)) for name in names)
    return bool(expected == got)


def _alike(got, expected):
    """Whether the items of a set, or the keys of a dict, are of types that are expected there."""
    kinds = SCALARS.union(type(item) for item in expected)
    return all(
        _alike(item, expected) if type(item) is tuple else type(item) in kinds for item in got
    )


def _mapping(got, expected, tol):
    if not isinstance(got, dict):
        return "", f"a dict with keys {_short(list(expected))}", got
    got = dict(got)
    if not _alike(got, expected) or set(got) != set(expected):
        return ", its keys", sorted(map(str, expected)), sorted(map(str, got))
    for key, value in expected.items():
        if found := _difference(got[key], value, tol):
            return f", key {key!r}{found[0]}", *found[1:]
    return None


def _sequence(got, expected, tol):
    try:
        items = list(got)
    except TypeError:
        return "", expected, got
    if isinstance(got, str | dict):
        return "", expected, got
    if len(items) != len(expected):
        wanted, given = (f"{len(x)} items: {_short(x)}" for x in (expected, items))
        return ", its length", wanted, given
    for i, value in enumerate(expected):
        if found := _difference(items[i], value, tol):
            return f", item {i}{found[0]}", *found[1:]
    return None


def _array(got, expected, tol):
    wanted, kind = _numbers(expected)
    try:
        given, given_kind = _numbers(got)
    except (TypeError, ValueError):
        return "", expected, got
    if given.shape != wanted.shape:
        return ", its shape", _shape(wanted), _shape(given)
    if tol is None and wanted.dtype.kind in "fc":
        tol = TOLERANCE.get(kind, 1e-9)
    wrong = given != wanted
    if tol:
        finite = np.abs(wanted[np.isfinite(wanted)])
        limit = tol * finite.max() if finite.size else 0.0
        with np.errstate(invalid="ignore"):  # inf - inf
            wrong &= ~(np.abs(given * 1.0 - wanted * 1.0) <= limit)
        wrong &= ~(np.isnan(given * 1.0) & np.isnan(wanted * 1.0))
    if not wrong.any():
        return None
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f", at index {index if len(index) > 1 else index[0]}" if index else ""
    if index and wrong.sum() > 1:
        place += f" ({int(wrong.sum())} of {wrong.size} differ)"
    note = f" ({given_kind}, expected {kind})" if given_kind != kind and _is_array(expected) else ""
    return place, wanted[index].item(), f"{given[index].item()!r}{note}"


def _is_array(x):
    return isinstance(x, np.ndarray) or hasattr(x, "detach")


def _numbers(x):
    """(numpy array, name of the original number type)."""
    if _is_tensor(x):
        kind = str(x.dtype).removeprefix("torch.")
        x = x.detach().cpu()
        return (x.double() if x.is_floating_point() else x).numpy(), kind
    array = np.asarray(x)
    if array.dtype.kind not in "biufc":
        if isinstance(x, int):  # larger than 64 bits
            return np.asarray(float(x)), "int"
        raise TypeError
    return array, str(array.dtype)


def _is_tensor(x):
    """Whether x is a tensor of torch's own; a class derived from it may compute what it likes."""
    torch = sys.modules.get("torch")
    return torch is not None and type(x) in (torch.Tensor, torch.nn.Parameter)


def _shape(array):
    return f"shape {tuple(array.shape)}" if array.ndim else "a single number"


def _short(value, limit=300):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[:limit] + " ..."


def explain(error, files):
    """(what happened, whether it happened in the student's code) for an exception, in words.

    `files` are the file names of the student's code; cells of a notebook are the student's too.
    """
    name = type(error).__name__
    text = f"{name}: {error}" if str(error) else name
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        cell = frame.filename.startswith("<cell ")  # of a notebook that is graded
        if frame.filename in files or "ipykernel_" in frame.filename or cell:
            line = linecache.getline(frame.filename, frame.lineno).strip()
            where = f"{frame.filename[1:-1]}, " if cell else ""
            return f"{text}\nin your {where}line {frame.lineno}: {line}", True
    return text, False
