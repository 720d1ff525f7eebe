"""Where the records of a task come from: a file in the data set's own format, the hub, a package.

    None          what a pinned package carries: all of BoolQ's development set, 1 500 of PIQA's
                  1 838 validation items; and what is made here: sentences in HANS' form, and the
                  cloze set of Moby-Dick
    a file        one task; examples for shots are in NAME.train.SUFFIX beside it, if anywhere
    a folder      a file or folder for each task, TASK.SUFFIX or TASK; examples in TASK.train.SUFFIX
                  or TASK.train
    "hub"         the data set's copy on Hugging Face's hub, by the library datasets

A file has a JSON object a line, or one JSON array, or a table with tabs and a heading, as HANS has,
or a text a line, as LAMBADA. Answers may lie beside it in NAME-labels.lst, as PIQA's do, those of
NAME.train.SUFFIX in NAME.train-labels.lst. All but answers may be compressed, .gz or .zst.
"""

import codecs
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
ANSWERS = "-labels.lst"  # how the name of a file of answers ends
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
        stem = _stem(where)
        training = where.with_name(f"{stem}.train{where.name.removeprefix(stem)}")
        return records_in(where), records_in(training) if training.is_file() else None
    found, training = (_of(where, kind) for kind in (name, f"{name}.train"))
    if found is None:
        raise InputError(f"--data {where}: nothing there is called {name}, or {name}.jsonl")
    return records_in(found), training and records_in(training)


def _of(folder, kind):
    """The file or folder that is called so, else the one with a suffix, else None."""
    exact = folder / kind
    paths = [exact] if exact.exists() else sorted(p for p in folder.iterdir() if _stem(p) == kind)
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise InputError(f"--data {folder}: {names} are all called {kind}: leave one of them there")
    return paths[0] if paths else None


def _stem(path):
    """The name without its suffix and .gz or .zst; .train isn't one: it names a split."""
    return re.sub(r"(\.(?!train\b)\w+)?(\.gz|\.zst)?$", "", path.name)


def records_in(path):
    """(where, record) of each record in a file, or in all files of a folder, as RACE comes."""
    if path.is_dir():
        for file in sorted(path.iterdir(), key=lambda p: (len(p.name), p.name)):
            if not file.name.endswith(ANSWERS):  # read with their records
                yield from records_in(file)
        return
    answers = path.with_name(f"{_stem(path)}{ANSWERS}")
    if not answers.is_file():
        yield from _parsed(path)
        return
    records, labels = list(_parsed(path)), "\n".join(_lines(answers)).split()
    if len(labels) != len(records):
        told = f"{len(labels)} answers for the {len(records)} records of {path.name}"
        raise InputError(f"{answers} has {told}")
    for (where, record), label in zip(records, labels, strict=True):
        yield where, {"label": label} | record


def _parsed(path):
    lines = _lines(path)
    filled = [(f"{path} line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    first = filled[0][1] if filled else ""
    if first.lstrip().startswith("["):
        try:
            records = json.loads("\n".join(lines))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} isn't JSON: {error}") from None
        for i, record in enumerate(records):
            yield f"{path} entry {i}", _object(record, f"{path} entry {i}")
    elif first.lstrip().startswith("{"):
        for where, line in filled:
            yield where, _object(_json(line, where), where)
    elif "\t" in first:
        heads = first.split("\t")
        for where, line in filled[1:]:
            row = line.split("\t")
            if len(row) != len(heads):
                raise InputError(f"{where} has {len(row)} columns of {len(heads)}")
            yield where, dict(zip(heads, row, strict=True))
    else:
        yield from ((where, {"text": line}) for where, line in filled)


def _json(line, where):
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} isn't JSON: {error}") from None


def _object(record, where):
    if not isinstance(record, dict):
        raise InputError(f"{where} isn't a JSON object")
    return record


def _lines(path):
    """The lines of a file, decoded, without their ends and without a byte order mark."""
    try:
        with opened(path) as file:
            content = file.read().removeprefix(codecs.BOM_UTF8)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"can't read {path}: {error}") from None
    lines = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").rstrip("\r"))
        except UnicodeDecodeError:
            raise InputError(f"{path} line {number} isn't UTF-8 text") from None
    return lines
