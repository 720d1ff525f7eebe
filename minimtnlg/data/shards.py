"""A step of the curation over many shards: in parallel, counted, and going on where it stopped.

A step is a function of one document:

    outcome = step(document)        Outcome(documents, reason, counts)

`transform` applies it to a shard and writes another; `Workers` does so with many shards at a time.
Shards have the same names in every step, and what comes out depends on the documents alone, not on
the number of processes.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minimtnlg.data.records import draw, reading, writing
from minimtnlg.errors import InputError
from minimtnlg.files import appearing

SAMPLES = 3  # removed documents that a report shows for each reason
SHOWN = 300  # characters of each


class Outcome(NamedTuple):
    """What becomes of a document.

    documents  the Documents that go on: one, several where it was split, none where it was removed
    reason     why it was removed, in a few words that many documents share; "" where it goes on
    counts     names of counters of the report that go up by one
    """

    documents: tuple = ()
    reason: str = ""
    counts: tuple = ()


@dataclass
class Tally:
    """What a step did, in numbers that add up over shards.

    into, out  {source: [documents, bytes of text]} before and after
    removed    {reason: documents}
    samples    {reason: some of the removed documents}, drawn by their text: any order of input
               shows the same
    counts     {name: number}, the step's own
    """

    into: dict = field(default_factory=dict)
    out: dict = field(default_factory=dict)
    removed: Counter = field(default_factory=Counter)
    samples: dict = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def add(self, document, outcome):
        """Count one document and what became of it."""
        _count(self.into, document.source, 1, document.size)
        for kept in outcome.documents:
            _count(self.out, kept.source, 1, kept.size)
        self.counts.update(outcome.counts)
        if outcome.reason:
            self.removed[outcome.reason] += 1
            text = "(personal: not shown)" if document.meta.get("private") else document.text
            sample = {"id": document.id, "source": document.source, "text": text[:SHOWN]}
            self._sample(outcome.reason, [[draw(document.key, "sample"), sample]])

    def merge(self, other):
        """Add the numbers of another Tally of the same step."""
        for mine, theirs in ((self.into, other.into), (self.out, other.out)):
            for source, (documents, size) in theirs.items():
                _count(mine, source, documents, size)
        self.removed.update(other.removed)
        self.counts.update(other.counts)
        for reason, samples in other.samples.items():
            self._sample(reason, samples)

    def _sample(self, reason, more):
        found = self.samples.get(reason, []) + more
        found.sort(key=lambda sample: (sample[0], sorted(sample[1].items())))
        self.samples[reason] = found[:SAMPLES]

    def save(self, path):
        """Write it as JSON, whole or not at all."""
        with appearing(path) as aside:
            text = json.dumps(vars(self), ensure_ascii=False, sort_keys=True)
            aside.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read what `save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        counters = {name: Counter(values.pop(name)) for name in ("removed", "counts")}
        return cls(**values, **counters)


def _count(table, source, documents, size):
    had = table.get(source, [0, 0])
    table[source] = [had[0] + documents, had[1] + size]


def transform(step, source, target, rows=None):
    """Write the shard `target`: what `step` makes of each document of the shard `source`.

        step     function of a Document that returns an Outcome
        rows     path of a .npy with a value for each document, which `step` gets as well
        returns  the Tally, also kept beside `target`; a target that has one is not made again
    """
    done = tally_of(target)
    if done.is_file() and target.is_file():
        return Tally.load(done)
    tally = Tally()
    values = None if rows is None else np.load(rows, mmap_mode="r")
    with writing(target) as write:
        for number, document in enumerate(reading(source)):
            outcome = step(document) if values is None else step(document, values[number])
            tally.add(document, outcome)
            for kept in outcome.documents:
                write(kept)
    tally.save(done)
    return tally


def tally_of(target):
    """Where the Tally of a shard lies; once it is there, the shard is finished."""
    return target.with_name(f"{target.name}.tally.json")


class Workers:
    """Processes that work on shards side by side; a context manager.

    processes  how many; 1 works in this process and starts none
    progress   whether to show a bar (on stderr)
    """

    def __init__(self, processes=None, progress=True):
        self.processes = processes or os.cpu_count() or 1
        self.progress = progress
        self.pool = None

    def __enter__(self):
        if self.processes > 1:
            self.pool = ProcessPoolExecutor(
                self.processes, multiprocessing.get_context("spawn"), _begin
            )
        return self

    def __exit__(self, *error):
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def each(self, what, function, tasks):
        """[function(*task) for task in tasks], in parallel; `what` stands at the bar.

        The first error ends it: an InputError as it is; a process that died is one as well.
        """
        tasks = list(tasks)
        hidden = {} if self.progress else {"disable": True}  # else TQDM_DISABLE decides
        with tqdm(total=len(tasks), desc=what, unit=" shards", **hidden) as bar:
            if not self.pool:
                return [_after(function(*task), bar) for task in tasks]
            futures = [self.pool.submit(function, *task) for task in tasks]
            try:
                for future in as_completed(futures):
                    _after(future.result(), bar)
            except BrokenProcessPool:
                raise InputError(
                    f"{what}: a worker process died, perhaps for want of memory; what is finished "
                    "stays: run it again, with fewer --processes"
                ) from None
            finally:
                for future in futures:
                    future.cancel()
            return [future.result() for future in futures]

    def tally(self, what, step, sources, folder, rows=None):
        """`transform` each shard of `sources` into `folder`; the Tally of all."""
        tasks = [
            (step, source, folder / source.name, rows and rows[number])
            for number, source in enumerate(sources)
        ]
        total = Tally()
        for tally in self.each(what, transform, tasks):
            total.merge(tally)
        return total


def _after(result, bar):
    bar.update()
    return result


def _begin():
    """In a new worker: leave Ctrl-C to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel

    def watch():
        with contextlib.suppress(OSError):
            wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
