"""Tasks on the model in a folder, by one process or by the ranks of a layout.

    RUN/evaluation/CHECKSUM.jsonl    what was scored so far, see measure.Memory; the checksum is
                                     that of the weights and their tokenizer. For a model of the
                                     hub it is in the cache of data/sources.py
"""

import contextlib
import hashlib
import json
import math
from pathlib import Path

from tqdm import tqdm

from minimtnlg.data.sources import cache_dir
from minimtnlg.errors import InputError
from minimtnlg.evaluate import datasets
from minimtnlg.evaluate.measure import Asked, Memory, published
from minimtnlg.evaluate.models import as_run, layout_of, opened
from minimtnlg.evaluate.shots import examples_for
from minimtnlg.evaluate.tasks import named
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import run as on_ranks
from minimtnlg.train import hub, start
from minimtnlg.train.checkpoint import latest

AXES = ("tp", "pp", "dp")


def evaluate(path, tasks, shots, *, overrides=(), seed=1, limit=None, data=None, progress=True):
    """[result] of each task at each number of shots: see measure.Asked; and `published`, `data`.

    path       a run, a Hugging Face folder of the GPT-2 kind, or hf:NAME of the hub
    tasks      names; shots: numbers of examples, or "few" for the published one of each task
    overrides  "parallel.tp=2" and the like; ranks are started here, unless a launcher did
    seed       of the examples. limit: how many items of each task; None: all
    data       see datasets.py
    progress   whether to show bars on stderr

    InputError, before anything is scored, for unknown tasks, bad data and impossible layouts.
    """
    rank, launched = start.launched()
    progress = progress and rank == 0
    with contextlib.ExitStack() as held:
        if launched:
            held.enter_context(start.joined())
        with start.together():  # what one rank misses ends all
            jobs = _jobs(tasks, shots, seed, limit, data)
            run = held.enter_context(as_run(path))
            layout = layout_of(run, overrides, AXES)
            home = cache_dir() if str(path).startswith(hub.PREFIX) else Path(path)
            memory = home / "evaluation" / f"{checksum(run)}.jsonl"
        args = (run, layout, jobs, memory, progress)
        if launched or layout.world == 1:
            results = _rank(*args)
        else:
            results = on_ranks(_rank, layout.world, *args, timeout=math.inf)[0]
    return [result | {"data": datasets.origin(result["task"], data)} for result in results]


def _jobs(tasks, shots, seed, limit, data):
    """The calls of Asked.measure: [(task, items, pool, shots, seed)]."""
    jobs = []
    if data is not None and Path(data).expanduser().is_file() and len(tasks) > 1:
        raise InputError(f"--data {data} is one file for {len(tasks)} tasks: give a folder of them")
    for name in tasks:
        numbers, loaded = [named(name).few if k == "few" else k for k in shots], {}
        for k in dict.fromkeys(numbers):
            if bool(k) not in loaded:  # with examples the questions may be others
                loaded[bool(k)] = datasets.load(name, data, k)
            items, pool = loaded[bool(k)]
            examples_for(name, 0, items[0], pool, k, seed)  # refuses more than there are
            jobs.append((name, items[:limit], pool, k, seed))
    return jobs


def checksum(run):
    """16 digits that tell the weights of a run, with its tokenizer, from any others."""
    files = latest(run).index["files"]
    told = {name: entry["xxh3"] for name, entry in files.items()}
    words = Path(run) / "tokenizer.json"
    told["tokenizer"] = hashlib.sha256(words.read_bytes() if words.is_file() else b"").hexdigest()
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _rank(run, layout, jobs, memory, progress):
    """What each rank does; the results are the same on all."""
    mesh = Mesh(layout)
    first = layout.rank(*mesh.place) == 0
    with start.together():
        model, tokenizer = opened(run, mesh)
        if checksum(run) != memory.stem:  # a training that goes on has saved since
            raise InputError(f"{run} has other weights than a moment ago: ask again")
        memory = Memory(memory if first else None)
        asked = Asked(model, tokenizer, memory)
    memory.known = start.gathered(memory.known)[0]  # the others' files may not be this machine's
    results = []
    for name, items, pool, shots, seed in jobs:
        about = dict(desc=f"{name}, {shots} shots", total=len(items), unit=" items")
        hidden = {} if progress and first else {"disable": True}  # else TQDM_DISABLE decides
        with tqdm(**about, **hidden) as bar:
            found = asked.measure(name, items, pool, shots=shots, seed=seed, progress=bar.update)
        results.append(found | {"published": published(name, shots)})
    return results
