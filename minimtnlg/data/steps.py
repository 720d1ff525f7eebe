"""The steps of the curation, in their order: each fills a folder with what it makes of the last.

A step takes what all steps know (a Run), the shards of the step before, and its folder; it returns
a Tally and what else a report should say. What happens to one document stands in modules of their
own: extract, language, repair, quality, dedup, decontaminate.
"""

import dataclasses
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from minimtnlg.data import decontaminate, dedup, quality
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.extract import extracted
from minimtnlg.data.language import in_language
from minimtnlg.data.prepare import fill
from minimtnlg.data.published import epochs
from minimtnlg.data.recipe import Recipe
from minimtnlg.data.records import SUFFIX, draw, put, reading, valid
from minimtnlg.data.repair import mended, repaired
from minimtnlg.data.shards import Outcome, Tally, Workers, tally_of
from minimtnlg.data.shuffle import deal, gather
from minimtnlg.data.sources import documents, facts, task_records, traits
from minimtnlg.errors import InputError
from minimtnlg.files import appearing

SHARD = 8_000_000  # bytes of text in a shard, before compression
COMPLAINTS = 20  # that a report shows of each source


@dataclass
class Run:
    """What every step of one curation knows.

    sources  {label: name or path}
    stop     whether what can't be read ends it
    report   {step: what it did}, of the steps before
    """

    out: Path
    sources: dict
    recipe: Recipe
    stop: bool
    progress: bool
    workers: Workers = None
    report: dict = dataclasses.field(default_factory=dict)

    def options(self, part):
        """A section of the recipe as a dict."""
        return dataclasses.asdict(getattr(self.recipe, part))


def read(run, _, folder):
    """Every source into shards, page, code or text as it came."""
    tasks = [(at, folder, name, run.stop) for name, at in run.sources.items()]
    total, complaints = Tally(), {}
    results = run.workers.each("read", read_source, tasks)
    for name, (tally, said) in zip(run.sources, results, strict=True):
        total.merge(tally)
        if said:
            complaints[name] = {"number": len(said), "first": said[:COMPLAINTS]}
    if not total.out:
        raise InputError(f"no text in {', '.join(run.sources.values())}")
    return total, {"complaints": complaints}


def read_source(at, folder, name, stop):
    """Write the documents of one source into shards; (Tally, what couldn't be read)."""
    done = folder / f"{name}.read.json"
    if done.is_file():
        return Tally.load(tally_of(done)), json.loads(done.read_text(encoding="utf-8"))
    tally, complaints, waiting, size, number = Tally(), [], [], 0, 0

    def complain(message):
        if stop:
            raise InputError(f"{message}; to leave such things out: --on-error skip")
        complaints.append(valid(message))

    for document in documents(at, complain=complain):
        tally.add(document, Outcome((document,), counts=(f"{document.kind} {name}",)))
        waiting.append(document)
        size += document.size
        if size >= SHARD:
            put(folder / f"{name}-{number:05d}{SUFFIX}", waiting)
            waiting, size, number = [], 0, number + 1
    if waiting:
        put(folder / f"{name}-{number:05d}{SUFFIX}", waiting)
    tally.save(tally_of(done))
    with appearing(done) as aside:
        aside.write_text(json.dumps(complaints, ensure_ascii=False), encoding="utf-8")
    return tally, complaints


def extract(run, shards, folder):
    """HTML to text."""
    step = partial(extracted, **run.options("extract"))
    return run.workers.tally("extract", step, shards, folder), {}


def language(run, shards, folder):
    """One language is kept."""
    step = partial(in_language, **run.options("language"))
    return run.workers.tally("language", step, shards, folder), {}


def repair(run, shards, folder):
    """Broken characters are mended, short documents dropped."""
    step = partial(repaired, **run.options("repair"))
    return run.workers.tally("repair", step, shards, folder), {}


def judge(run, shards, folder):
    """A classifier learns good from raw, and raw documents are kept by their score."""
    chosen, kinds = run.recipe.quality, run.report["read"]["counts"]
    pages = {name for name in run.sources if f"page {name}" in kinds}
    raw = set(chosen.raw) or pages - set(chosen.good)
    good = set(chosen.good) or {n for n, at in run.sources.items() if traits(at)["good"]} - raw
    found, step = {"good": sorted(good), "raw": sorted(raw)}, passed
    if not chosen.judge:
        found["note"] = "nothing was judged: quality.judge is false"
    elif good and raw:
        learned = folder / "classifier.npz"
        if not learned.is_file():
            texts = _sample(run, shards, good), _sample(run, shards, raw)
            quality.train(*texts, seed=chosen.seed, held_out=chosen.held_out).save(learned)
        found["classifier"] = quality.Classifier.load(learned).facts
        step = partial(
            quality.good_enough, classifier=learned, alpha=chosen.alpha, raw=frozenset(raw)
        )
    elif chosen.raw:
        raise InputError(
            f"quality.raw names {', '.join(sorted(raw))}, but there is no good source to learn "
            "from: name one in quality.good, or set quality.judge=false"
        )
    else:
        found["note"] = "nothing was judged: it takes a good source and one of pages"
    return run.workers.tally("quality", step, shards, folder), found


def _sample(run, shards, sources):
    """Texts of some sources: as many as the classifier may learn from, drawn by themselves.

    Their draws are looked at first, so that no more texts than these are ever held.
    """
    count, own = run.recipe.quality.documents, _of(sources, shards)
    draws = np.concatenate([*run.workers.each("sample", draws_of, [(s,) for s in own]), []])
    limit = np.sort(draws)[min(count, len(draws)) - 1] if len(draws) else 0.0
    tasks = [(shard, limit) for shard in own]
    return [text for part in run.workers.each("sample", texts_below, tasks) for text in part]


def draws_of(shard):
    """The draw of each document of a shard for the classifier's sample: float64 [documents]."""
    return np.array([draw(document.key, "classifier") for document in reading(shard)])


def texts_below(shard, limit):
    """The texts of a shard whose draws are at most `limit`."""
    return [d.text for d in reading(shard) if draw(d.key, "classifier") <= limit]


def deduplicate(run, shards, folder):
    """Of documents that are nearly the same, one is kept."""
    priority = {name: traits(at)["priority"] for name, at in run.sources.items()}
    work = folder / "work"
    rows, found = dedup.find(shards, work, run.workers, priority, **run.options("dedup"))
    tally = run.workers.tally("dedup", dedup.survives, shards, folder, rows)
    shutil.rmtree(work)
    return tally, {"index": found}


def clean(run, shards, folder):
    """What the evaluation will ask is cut out."""
    chosen, path = run.recipe.decontaminate, folder / "ngrams.npz"
    if not path.is_file():
        texts = (t for task in chosen.tasks for t in decontaminate.texts_of(task_records(task)))
        texts = (form for t in texts for form in (t, mended(t)))  # documents are mended, code isn't
        decontaminate.Index.build(texts, chosen.longest, chosen.shortest).save(path)
    counts = Counter()
    for part in run.workers.each("count n-grams", count_shard, [(s, path) for s in shards]):
        counts.update(part)
    common = frozenset(gram for gram, times in counts.items() if times > chosen.common)
    step = partial(
        decontaminate.cut, index=path, common=common, margin=chosen.margin,
        shortest=chosen.shortest_piece, splits=chosen.splits,
    )  # fmt: skip
    tally = run.workers.tally("decontaminate", step, shards, folder)
    return tally, {"ngrams": {"found": len(counts), "too common to count": len(common)}}


def count_shard(shard, index):
    """How often each n-gram of the evaluation stands in a shard."""
    counts = Counter()
    for document in reading(shard):
        counts.update(decontaminate.counted(document, index))
    return counts


def shuffle(run, shards, folder):
    """Documents of each source in the order of a draw about each, however they came."""
    tally, seed, parts, gathered = Tally(), run.recipe.index.seed, folder / "parts", []
    parts.mkdir(exist_ok=True)
    for name in run.sources:
        own = _of([name], shards)
        ways = -(-sum(shard.stat().st_size for shard in own) // SHARD)
        run.workers.each(f"deal {name}", deal, [(shard, parts, ways, seed) for shard in own])
        gathered += [
            (folder / f"{name}-{way:05d}{SUFFIX}", [parts / f"{way}-{s.name}" for s in own], seed)
            for way in range(ways)
        ]
    for part in run.workers.each("shuffle", gather, gathered):
        tally.merge(part)
    shutil.rmtree(parts)
    return tally, {}


def index(run, shards, _):
    """Tokenizer, .bin and .idx of every source, as `data prepare` makes them, and the weights."""
    chosen, corpus, before = run.recipe.index, run.out / "corpus", run.report["shuffle"]["sources"]
    own = {name: at for name, at in run.sources.items() if before.get(name, {"out": [0]})["out"][0]}
    if not own:
        gone = [f"{why} {n}" for told in run.report.values() for why, n in told["removed"].items()]
        raise InputError(f"no document is left, they went as: {', '.join(gone)}")
    for name in chosen.weights:
        if name not in own:
            raise InputError(
                f"index.weights names {name!r}, of which nothing is left; "
                f"there are {', '.join(own)}"
            )
    opened = {
        name: (facts(at), (d for shard in _of([name], shards) for d in reading(shard)))
        for name, at in own.items()
    }
    options = {"sources": list(map(valid, run.sources.values())), "vocab": chosen.vocab}
    shutil.rmtree(corpus, ignore_errors=True)  # of another recipe
    fill(corpus, opened, chosen.vocab, options, run.progress, chosen.weights)
    made = Corpus(corpus)
    weights = made.weights()
    kept = {name: before[name]["out"] for name in own}
    return Tally(into=kept, out=kept), {
        "tokens": made.tokens,
        "weights": {name: weight / sum(weights.values()) for name, weight in weights.items()},
        "epochs": epochs(made.tokens, weights, sum(made.tokens.values())),
    }


def passed(document):
    """What becomes of a document that goes on as it is."""
    return Outcome((document,))


def _of(sources, shards):
    """The shards of some sources: their names are those of the sources, a dash and a number."""
    return [shard for shard in shards if shard.name.rpartition("-")[0] in sources]


def everything(run):
    """What `read` depends on: the sources and, where they are files here, their size and time."""
    found = []
    for at in run.sources.values():
        root = Path(at)
        files = [f for f in [root, *sorted(root.rglob("*"))] if root.is_absolute() and f.is_file()]
        found.append([at, facts(at)])
        found += [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return [found, run.stop]


def tasks(run):
    """What `clean` depends on: its options and the files of JSON lines that they name."""
    files = [Path(task).expanduser() for task in run.recipe.decontaminate.tasks]
    files = [[f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    return [run.options("decontaminate"), files]


# {name: (the step, what it depends on besides the documents)}
STEPS = {
    "read": (read, everything),
    "extract": (extract, lambda run: run.options("extract")),
    "language": (language, lambda run: run.options("language")),
    "repair": (repair, lambda run: run.options("repair")),
    "quality": (judge, lambda run: run.options("quality")),
    "dedup": (deduplicate, lambda run: run.options("dedup")),
    "decontaminate": (clean, tasks),
    "shuffle": (shuffle, lambda run: run.recipe.index.seed),
    "index": (index, lambda run: run.options("index")),
}
