"""Documents: from pinned packages, from this interpreter, from files of yours, from a hub.

    documents("wikipedia")                 a source of sources.toml
    documents("~/notes")                   a folder or file: plain text, code, JSON lines
    documents("hf:wikitext:wikitext-2-raw-v1:train#text")     a data set of Hugging Face's hub
    documents("https://.../x.warc.gz")     any of these files, somewhere else
    documents("cc:crawl-data/...")         a file of Common Crawl, as its lists of paths name it

A document is what its source calls one: an article, a chapter, a module, a file, a row. Sources
that come in a package are the same everywhere. `python-docs` and `python-source` are those of the
running interpreter; a corpus records its version and the checksum of the texts.
"""

import difflib
import json
import platform
import re
import zlib
from pathlib import Path

import zstandard

from minimtnlg.data.elsewhere import ADDRESSES, fetched
from minimtnlg.data.local import local_texts
from minimtnlg.data.packaged import READERS
from minimtnlg.data.packages import CATALOGUE, PACKAGES, cache_dir, cached, fetch, members
from minimtnlg.data.records import Document, opened, valid
from minimtnlg.errors import InputError

__all__ = ["DEFAULT_SOURCES", "Document", "cache_dir", "describe_sources", "documents", "facts"]

SOURCES, TASKS = CATALOGUE["sources"], CATALOGUE["tasks"]
DEFAULT_SOURCES = tuple(name for name, source in SOURCES.items() if source.get("default"))


def documents(name, complain=None):
    """The documents of a source, one by one; those without text are left out.

        name      a source of sources.toml, a path, an address, "hf:NAME[:CONFIG][:SPLIT][#COLUMN]"
        complain  what is told of text that can't be used, as in `local.local_texts`
        returns   an iterator of Document

    An unknown name and a path that isn't there are refused at once, a package or hub that can't be
    reached when the first document is asked for; all are InputErrors.
    """
    name = str(name)
    given = {}
    if name in SOURCES:
        source = SOURCES[name]
        texts = READERS[source["read"]](source)
        given = {key: source[key] for key in ("kind", "private") if key in source}
        given = {} if given == {"kind": "text"} else given
    elif name.startswith("hf:"):
        texts = _hub(name)
    elif name.startswith(ADDRESSES):
        texts = _elsewhere(name, complain)
    else:
        texts = local_texts(_existing(name), complain)
    return (_document(label(name), given, *where) for where in texts if where[0].strip())


def _document(source, given, text, name, url="", meta=None):
    meta = json.loads(valid(json.dumps(given | (meta or {}), ensure_ascii=False)))
    return Document(valid(text), source, valid(name), valid(url), meta)


def label(name):
    """The name under which a source stands in a corpus folder; safe as a file name."""
    if name in SOURCES:
        return name
    if name.startswith("hf:"):
        name = name[3:]
    elif name.startswith(ADDRESSES):
        name = name.rpartition("/")[2]
    else:
        name = Path(name).expanduser().resolve().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "text"


def facts(name):
    """{licence, origin, package, version} of a source, for the manifest of a corpus."""
    if name not in SOURCES | TASKS:
        there = name.startswith(("hf:", *ADDRESSES))
        origin = name if there else valid(str(Path(name).expanduser().resolve()))
        return {"licence": "not known", "origin": origin, "package": "", "version": ""}
    source = (SOURCES | TASKS)[name]
    found = {"licence": source["licence"], "origin": source["origin"]}
    if "package" in source:
        package = PACKAGES[source["package"]]
        found |= {"package": f"{package['client']}:{package['name']}"}
        return found | {"version": package["version"]}
    return found | {"package": "python", "version": platform.python_version()}


def traits(name):
    """{good, priority} of a source: whether the quality classifier learns from it, and its rank
    among duplicates. One of yours is not good, and better than pages and mail.
    """
    source = SOURCES.get(name, {})
    return {"good": source.get("good", False), "priority": source.get("priority", 3)}


def default_mixture():
    """(names, [(name, reason)]): the sources of sources.toml that can be had here, and those that
    can't. Their packages are fetched.
    """
    names, missing = [], []
    for name, source in SOURCES.items():
        try:
            if "package" in source:
                fetch(source["package"])
            names.append(name)
        except InputError as error:
            missing.append((name, str(error)))
    return names, missing


def describe_sources():
    """A row, a dictionary, for each source and evaluation task of sources.toml.

        name, kind        text, code, page or task
        default           whether a preparation that names no source takes it
        needs, megabytes  the client that fetches it ("pip", "npm", "apt", "" if none), how much
        cached            whether nothing has to be fetched any more
        licence, origin, package, version
    """
    rows = []
    for name, source in [*SOURCES.items(), *TASKS.items()]:
        package = PACKAGES.get(source.get("package"), {})
        row = {"name": name, "kind": source.get("kind", "task"), "default": name in DEFAULT_SOURCES}
        row |= {"needs": package.get("client", ""), "megabytes": package.get("megabytes", 0)}
        row |= {"cached": not package or cached(source["package"]) is not None}
        rows.append(row | facts(name))
    return rows


def task_records(name):
    """The records, dicts, of an evaluation set: a task of sources.toml, or your file of JSON lines.

    An InputError for a file that is missing or holds something else.
    """
    if name in TASKS:
        for _, content in members(TASKS[name]["package"], TASKS[name]["members"]):
            yield from map(json.loads, content.splitlines())
        return
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"no evaluation set {name!r}: {', '.join(TASKS)}, or a file of JSON lines")
    number = 0
    try:
        with opened(path) as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    yield _task_record(line, f"{path} line {number}")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"can't read {path} after line {number}: {error}") from None


def _task_record(line, where):
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} isn't JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} isn't a JSON object")
    return record


def _elsewhere(address, complain):
    yield from local_texts(fetched(address), complain)


def _hub(name):
    spec, _, column = name.partition("#")
    column = column or "text"
    rows = hub_rows(spec, name)
    if column not in rows.column_names:
        raise InputError(f"{name} has no column {column!r}, only {', '.join(rows.column_names)}")
    for i, row in enumerate(rows.select_columns([column])):
        if not isinstance(row[column], str):
            raise InputError(f"{name} has no text but {type(row[column]).__name__} in row {i}")
        yield row[column], str(i)


def hub_rows(name, told=None):
    """The rows of "hf:NAME[:CONFIG][:SPLIT]", as the library datasets gives them.

    told: what an InputError calls it, where it can't be loaded; the name itself by default.
    """
    told = told or name
    # A split may hold a colon itself.
    dataset, config, split = (name.removeprefix("hf:").split(":", 2) + ["", ""])[:3]
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"{told} is read with the library datasets, which isn't installed: pip install datasets"
        ) from None
    try:
        return load_dataset(dataset, config or None, split=split or "train")
    except Exception as error:  # the library raises many kinds, and none of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"couldn't load {told}: {reason[0][:200]}") from None


def _existing(name):
    path = Path(name).expanduser()
    if path.exists():
        return path
    if path.suffix or len(path.parts) > 1 or name.startswith((".", "~")):
        raise InputError(f"no file or folder {name}; see also: minimtnlg data sources")
    near = difflib.get_close_matches(name, SOURCES, 1, 0)[0]
    raise InputError(
        f"unknown source {name!r}; did you mean {near!r}? Known are {', '.join(SOURCES)}, "
        "any path, and hf:NAME"
    )
