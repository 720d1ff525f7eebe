"""A corpus folder from sources: a tokenizer, indexed files and a manifest, all of it or nothing.

Everything is written into a folder beside the one asked for, which gets its name at the very end.
Whatever interrupts a preparation, nothing is left that looks finished, and the next one starts
afresh.
"""

import contextlib
import hashlib
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minimtnlg.data.corpus import Corpus, sha256
from minimtnlg.data.elsewhere import ADDRESSES
from minimtnlg.data.indexed import Writer
from minimtnlg.data.packages import lock_of
from minimtnlg.data.records import valid
from minimtnlg.data.sources import DEFAULT_SOURCES, SOURCES, documents, facts, label
from minimtnlg.data.tokenizer import check_size, gpt2, train
from minimtnlg.errors import InputError
from minimtnlg.files import appearing, only_one

CHARACTERS_PER_TOKEN = 1000  # of each source, for training a tokenizer: all weigh about alike
BATCH = 1_000_000  # characters that are encoded at a time


def prepare(out, sources=None, vocab=2048, progress=True):
    """Make the corpus folder `out` and return it opened, a Corpus.

        sources   names or paths as in `sources.documents`; None: those that pip alone can bring
        vocab     size of the vocabulary to train, or "gpt2" for GPT-2's own
        progress  whether to show bars (on stderr) and, at the end, a table (on stdout)

    A folder that is there already is used as it is if it was made from the same sources and
    vocabulary, and is an InputError if not. So is an unknown source, one without text, and what the
    sources themselves refuse.
    """
    out = Path(out).expanduser()
    sources = resolved(DEFAULT_SOURCES if sources is None else sources)
    if vocab != "gpt2":
        check_size(vocab)
    options = {"sources": list(map(valid, sources.values())), "vocab": vocab}
    try:
        with only_one(lock_of(out), out):
            if not _finished(out, options):
                opened = {name: (facts(at), documents(at)) for name, at in sources.items()}
                fill(out, opened, vocab, options, progress)
    except OSError as error:
        raise InputError(f"can't write the corpus {out}: {error}") from None
    corpus = Corpus(out)
    if progress:
        print(table(corpus))
    return corpus


def table(corpus):
    """What a corpus holds, as text: a line for each source."""
    rows = [("source", "documents", "tokens", "licence", "origin")]
    for name, found in corpus.manifest["sources"].items():
        numbers = [f"{found[key]:,}".replace(",", " ") for key in ("documents", "tokens")]
        rows.append((name, *numbers, found["licence"], found["origin"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, count, tokens, licence, origin in rows:
        line = f"{name:{widths[0]}}  {count:>{widths[1]}}  {tokens:>{widths[2]}}"
        lines.append(f"{line}  {licence:{widths[3]}}  {origin}")
    size = f"vocabulary of {corpus.vocab}, padded to {corpus.padded}"
    return "\n".join([*lines, f"{corpus.folder}: {size}"])


def resolved(sources):
    """{label: name or absolute path} of the sources, each checked to be one."""
    found = {}
    for name in map(str, sources):
        documents(name)  # an unknown one is refused before anything is fetched
        known = name in SOURCES or name.startswith(("hf:", *ADDRESSES))
        if label(name) in found:
            raise InputError(
                f"two sources have the name {label(name)!r}; rename one, or a copy of it"
            )
        found[label(name)] = name if known else str(Path(name).expanduser().resolve())
    if not found:
        raise InputError("no source was named; see: minimtnlg data sources")
    return found


def _finished(out, options):
    """Whether `out` is a corpus made with these options; an InputError if it is anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "corpus.json").is_file():
        raise InputError(f"{out} exists and isn't a corpus; choose another --out or remove it")
    made = Corpus(out).options
    if made == options:
        return True
    was, now = (f"{','.join(o['sources'])} with vocab {o['vocab']}" for o in (made, options))
    raise InputError(f"{out} was prepared from {was}, not {now}; choose another --out or remove it")


def fill(out, sources, vocab, options, progress, weights=None):
    """Fill the new folder `out`; sources: {name: (facts, Documents)}, weights: {name: weight}."""
    with appearing(out.resolve()) as aside:
        aside.mkdir()
        made = {name: _read(name, *source, aside, progress) for name, source in sources.items()}
        tokenizer = gpt2() if vocab == "gpt2" else _train(made, aside, vocab, progress)
        for name in sources:
            made[name] |= _encode(name, made[name]["documents"], aside, tokenizer, progress)
        tokenizer.save(aside / "tokenizer.json")
        manifest = {
            "format": 1,
            "versions": _versions(),
            "options": options,
            "tokenizer": {
                "kind": "gpt2" if vocab == "gpt2" else "trained",
                "size": tokenizer.size,
                "padded": tokenizer.padded,
                "eod": tokenizer.eod,
                **_fingerprint(aside / "tokenizer.json"),
            },
            "sources": made,
            **({"weights": weights} if weights else {}),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (aside / "corpus.json").write_text(text, encoding="utf-8")


def _read(name, facts, documents, folder, progress):
    """Keep the texts of a source in a file, so that none is read or cleaned twice; its facts."""
    count = characters = 0
    digest = hashlib.sha256()
    with open(_texts_file(folder, name), "w", encoding="utf-8") as f:
        for document in _bar(f"read {name}", progress, documents):
            if document.kind == "page":
                raise InputError(
                    f"source {name} holds HTML, as {document.id}: `minimtnlg data curate` makes "
                    "text of it"
                )
            f.write(json.dumps(document.text) + "\n")
            digest.update(document.text.encode("utf-8") + b"\0")
            count += 1
            characters += len(document.text)
    if not count:
        raise InputError(f"source {name} holds no text")
    found = {"documents": count, "characters": characters, **facts}
    return found | {"text_sha256": digest.hexdigest()}


def _train(made, folder, vocab, progress):
    """A tokenizer of about equally much text from each source, taken evenly over its documents."""
    texts = []
    for name, found in made.items():
        step = -(-found["characters"] // (vocab * CHARACTERS_PER_TOKEN))
        texts += [text for i, text in enumerate(_texts(folder, name)) if i % step == 0]
    return train(_bar("train the tokenizer", progress, texts), vocab)


def _encode(name, count, folder, tokenizer, progress):
    """Write the indexed files of a source; their facts. The file of texts goes."""
    with (
        Writer(folder / name, tokenizer.size) as writer,
        _bar(f"encode {name}", progress, total=count) as bar,
    ):
        for batch in _batches(_texts(folder, name)):
            for ids in tokenizer.encode_batch(batch):
                writer.add(np.append(ids, tokenizer.eod))
            bar.update(len(batch))
    _texts_file(folder, name).unlink()
    files = [folder / f"{name}{suffix}" for suffix in (".bin", ".idx")]
    return {
        "tokens": sum(writer.lengths),
        "max_token": writer.max_token,
        "files": {file.name: _fingerprint(file) for file in files},
    }


def _batches(texts):
    """Lists of texts of about BATCH characters."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _texts(folder, name):
    with open(_texts_file(folder, name), encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


def _texts_file(folder, name):
    return folder / f"{name}.texts"


def _fingerprint(path):
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _versions():
    found = {}
    for package in ("minimtnlg", "tokenizers", "mwparserfromhell", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | {"python": ".".join(map(str, sys.version_info[:3]))}


def _bar(text, progress, iterable=None, total=None):
    hidden = {} if progress else {"disable": True}  # unless it is given, TQDM_DISABLE decides
    return tqdm(iterable, text, total, unit=" documents", **hidden)
