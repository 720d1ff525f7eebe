"""Sections of keys that check themselves: dataclasses whose values come from YAML or a command.

- Types and bounds are pydantic's; whatever is wrong becomes one line: key, value, what to do.
- An unknown key is an error that names the nearest key.

config.py, data/recipe.py and plan/hardware.py say which sections there are.
"""

import dataclasses
import difflib
import functools
from typing import Annotated, Any

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML, YAMLError

from minimtnlg.errors import InputError


def _no_truth(value):
    """Refuse `true` and `false` where a number is wanted; Python would take them for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


def _count_or_auto(value):
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("count", "input should be a whole number from 1, or auto")


Number = pydantic.BeforeValidator(_no_truth)
Count = Annotated[int, Number, Field(ge=1)]
CountOrAuto = Annotated[Any, pydantic.BeforeValidator(_count_or_auto)]
Whole = Annotated[int, Number, Field(ge=0)]
Share = Annotated[float, Number, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Number, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Number, Field(ge=0.0, allow_inf_nan=False)]


def section(cls):
    """Make `cls` a frozen keyword-only dataclass whose every construction is validated.

    Whatever is wrong is raised as one InputError line: key, value, remedy.
    """
    checked = pydantic.dataclasses.dataclass(
        frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid")
    )(cls)
    construct = checked.__init__

    def __init__(self, **values):
        try:
            construct(self, **values)
        except pydantic.ValidationError as error:
            raise InputError(_one_line(checked, error)) from None

    checked.__init__ = __init__
    return checked


def require(truth, message):
    """Raise InputError(message) unless `truth`."""
    if not truth:
        raise InputError(message)


def built(cls, values):
    """The dataclass `cls` of a dict of sections, or of keys; InputError says what can't be."""
    try:
        return _adapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        raise InputError(_one_line(cls, error)) from None


def overridden(values, overrides, sections):
    """`values`, a dict of sections, with "section.key=value" texts put into it."""
    for override in overrides:
        key, equals, text = override.partition("=")
        part, dot, name = key.partition(".")
        require(equals and dot, f"override {override!r}: write section.key=value")
        if part not in sections:
            raise InputError(
                f"override {override!r}: no section {part!r}; there are {', '.join(sections)}"
                f"{nearest(part, sections)}"
            )
        values.setdefault(part, {})[name] = _yaml(text, f"override {override!r}")
    return values


def parsed(text, path, sections):
    """The dict of sections that `text`, the YAML of file `path`, holds; InputError if none is."""
    values = _yaml(text, str(path))
    require(isinstance(values, dict), f"{path}: expected the sections {', '.join(sections)}")
    for name, part in values.items():
        require(
            isinstance(part, dict) or name not in sections,
            f"{path}: section {name!r} should hold keys, it is {part!r}",
        )
    return values


def _yaml(text, where):
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # endless digits, endless brackets
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def _one_line(cls, error):
    """The first complaint of pydantic as one line: key, value, what to do."""
    first = min(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
    *parents, key = [str(part) for part in first["loc"]] or [""]
    where = ".".join([*parents, key])
    if first["type"] == "value_error":  # one of the rules above; it says everything already
        return str(first["ctx"]["error"])
    if first["type"] == "unexpected_keyword_argument":
        for name in parents:
            cls = next(f.type for f in dataclasses.fields(cls) if f.name == name)
        keys = [field.name for field in dataclasses.fields(cls)]
        return f"unknown key {where!r}; {cls.__name__} has {', '.join(keys)}{nearest(key, keys)}"
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{where} is missing: give it a value"
    if form := {"tuple_type": "a list, as [a, b]", "dict_type": "pairs, as {a: 1}"}.get(
        first["type"]
    ):
        return f"{where}={first['input']!r}: expected {form}"
    if first["type"] == "dataclass_type":
        return f"{where}={first['input']!r}: expected a section of keys"
    return f"{where}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def nearest(name, names):
    """The end of a sentence that names the one of `names` that `name` may be meant for, or ""."""
    close = difflib.get_close_matches(name, list(names), 1, 0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


_adapter = functools.cache(pydantic.TypeAdapter)  # one takes longer to make than to use
