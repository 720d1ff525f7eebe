"""Where the records of a task come from: a file in the data set's own format, the hub, a package.

    None          what a pinned package carries: all of BoolQ's development set, 1 500 of PIQA's
                  1 838 validation items; and what is made here: sentences in HANS' form, and the
                  cloze set of Moby-Dick
    a file        one task; examples for shots are in NAME.train.SUFFIX beside it, if anywhere
    a folder      a file or folder for each task, TASK.SUFFIX or TASK; examples in TASK.train.SUFFIX
    "hub"         the data set's copy on Hugging Face's hub, by the library datasets

A file has a JSON object a line, or one JSON array, or a table with tabs and a heading, as HANS has,
or a text a line, as LAMBADA. Answers may lie beside it in NAME-labels.lst, as PIQA's do. All of it
may be compressed, .gz or .zst.
"""

import csv
import json
import re
import zlib
from pathlib import Path

import zstandard

from minimtnlg.data.records import opened
from minimtnlg.data.sources import TASKS as PACKAGED
from minimtnlg.data.sources import facts, hub_rows, task_records
from minimtnlg.errors import InputError
from minimtnlg.evaluate.cloze import passages
from minimtnlg.evaluate.hans import examples
from minimtnlg.evaluate.tasks import items_of, named

HUB = "hub"
OF_EACH = 100  # sentences of each of HANS' 30 subcases
MADE = {  # what is no data set of others: what it is, its records
    "hans": (
        f"our own sentences in the form of HANS, {OF_EACH} of each subcase; not HANS",
        lambda: (example.record for example in examples(OF_EACH)),
    ),
    "cloze": ("our own set in the form of LAMBADA, of Moby-Dick; not LAMBADA", passages),
}


def load(name, where=None, shots=0):
    """([Item] to evaluate, [Item] to draw examples from) of the task of that name.

    where: see above. Without a training split both are the same. InputError for data that are
    missing or malformed, with file and line.
    """
    task = named(name)
    if where is None:
        records, training = _packaged(name), None
    elif str(where) == HUB:
        records, training = _hub(name, task.hub, task.split), _hub(name, task.hub, "train")
    else:
        records, training = _files(name, Path(where).expanduser())
    items = items_of(name, records, shots)
    if not items:
        raise InputError(f"there is no item of {name} in {where or 'its package'}")
    return items, items_of(name, training, shots) if shots and training is not None else items


def origin(name, where=None):
    """In words, what `load` reads."""
    if where is not None:
        return named(name).hub[named(name).split] if str(where) == HUB else str(where)
    return MADE[name][0] if name in MADE else facts(name)["origin"]


def _packaged(name):
    if name in MADE:
        records = MADE[name][1]()
    elif name in PACKAGED:
        records = task_records(name)
    else:
        raise InputError(
            f"no package carries {name}: give --data FILE or DIR with it, or --data {HUB}; there "
            f"are {', '.join([*PACKAGED, *MADE])}"
        )
    return ((f"{name} item {i}", record) for i, record in enumerate(records))


def _hub(name, hub, split):
    if hub is None:
        raise InputError(f"{name} is made here and on no hub: leave --data out")
    if split not in hub:
        return None
    rows = hub_rows(hub[split])
    return ((f"{hub[split]} row {i}", row) for i, row in enumerate(rows))


def _files(name, where):
    """(records, records of the training split or None) in a file, or in a folder of tasks."""
    if not where.exists():
        raise InputError(f"--data {where}: there is no such file or folder, and it is not {HUB!r}")
    if where.is_file():
        training = where.with_name(re.sub(r"^([^.]*)", r"\1.train", where.name))
        return records_in(where), records_in(training) if training.is_file() else None
    found = {}
    for path in sorted(where.iterdir()):
        for kind in (name, f"{name}.train"):
            if path.name == kind or re.sub(r"(\.\w+)(\.gz|\.zst)?$", "", path.name) == kind:
                found[kind] = path
    if name not in found:
        raise InputError(f"--data {where}: nothing there is called {name}, or {name}.jsonl")
    training = found.get(f"{name}.train")
    return records_in(found[name]), training and records_in(training)


def records_in(path):
    """(where, record) of each record in a file, or in all files of a folder, as RACE comes."""
    if path.is_dir():
        for file in sorted(path.iterdir(), key=lambda p: (len(p.name), p.name)):
            yield from records_in(file)
        return
    labels = path.with_name(f"{path.name.partition('.')[0]}-labels.lst")
    labels = labels.read_text().split() if labels.is_file() else None
    for i, (where, record) in enumerate(_parsed(path)):
        if labels is not None:
            if i >= len(labels):
                raise InputError(f"{where} has no answer: the labels beside it are {len(labels)}")
            record = {"label": labels[i]} | record
        yield where, record


def _parsed(path):
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "").lstrip("\ufeff")
    if first.lstrip().startswith("["):
        try:
            records = json.loads("\n".join(lines).lstrip("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} isn't JSON: {error}") from None
        for i, record in enumerate(records):
            yield f"{path} entry {i}", _object(record, f"{path} entry {i}")
    elif "\t" in first and not first.lstrip().startswith("{"):
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        heads = next(rows)
        for number, row in enumerate(rows, 2):
            if not row:
                continue
            if len(row) != len(heads):
                raise InputError(f"{path} line {number} has {len(row)} columns of {len(heads)}")
            yield f"{path} line {number}", dict(zip(heads, row, strict=True))
    else:
        text = not first.lstrip().startswith("{")
        for number, line in enumerate(lines, 1):
            where = f"{path} line {number}"
            if line.strip():
                yield where, {"text": line} if text else _object(_json(line, where), where)


def _json(line, where):
    try:
        return json.loads(line.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} isn't JSON: {error}") from None


def _object(record, where):
    if not isinstance(record, dict):
        raise InputError(f"{where} isn't a JSON object")
    return record


def _lines(path):
    """The lines of a file, decoded and without their ends."""
    try:
        with opened(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"can't read {path}: {error}") from None
    lines = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").rstrip("\r"))
        except UnicodeDecodeError:
            raise InputError(f"{path} line {number} isn't UTF-8 text") from None
    return lines
