"""A whole run, from an empty folder or from a checkpoint: who takes part, and where it is kept.

The same program runs on every rank, of one or of thousands; loop.py has its steps. Rank 0 writes
the files, but for checkpoints, of which each rank writes its part.

    RUN/config.yaml, tokenizer.json    what it began with
    RUN/metrics.jsonl                  one object a step
    RUN/ranks.jsonl                    the seconds of work of each rank, now and then
    RUN/checkpoints/step-N/, latest    see checkpoint.py
"""

import contextlib
import math
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from minimtnlg import config as configuration
from minimtnlg.data import batches as data
from minimtnlg.data.prepare import prepare
from minimtnlg.data.sources import cache_dir
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import run
from minimtnlg.train import start
from minimtnlg.train.health import Signals
from minimtnlg.train.loop import Run
from minimtnlg.train.mini import Mini, draw_data

LOCK, STOP = ".lock", ".stop"  # in a run's folder: who trains it; a signal for its ranks


def train(config, out, progress=True, ranks=None, engine=Mini, resume=False):
    """Train a GPT by `config` into the folder `out`; return what the run came to.

    ranks: how many; None: as many as the layout needs. They are started here, unless a launcher
    such as torchrun did: then this process is one of them. engine: what computes, see mini.py.
    resume: go on from the newest sound checkpoint in `out`, in whatever layout; from the beginning
    where there is none.

    The result is a dict: steps, tokens, seconds, loss (last step), valid_loss, unigram_entropy (all
    in nats per token). The same config and data give the same run, in one piece or resumed; so does
    every layout, but for the order of additions and, where there is dropout, for the masks that go
    with another tp or micro-batch. After a SIGTERM or SIGUSR1 the run saves and ends; then
    `stopped` names the signal.

    InputError for an `out` that holds something else or is at work, a model too large for this
    machine, a corpus that doesn't fit it, a checkpoint of other settings, a full disk, or a loss
    that is no number any more; RankError when a rank fails or stalls.
    """
    out, (rank, launched) = Path(out), start.launched()
    progress = progress and rank == 0
    if launched and ranks not in (None, launched):
        raise InputError(f"--ranks {ranks}: a launcher has started {launched}; leave it out")
    config = configuration.sized(config, launched or ranks)
    engine.refuse(config)
    if resume and engine is not Mini:
        raise InputError("--resume: of the other engines only weights are saved; start anew")
    start.refuse_too_large(config)
    world = Layout.of(config.parallel).world
    with contextlib.ExitStack() as held:
        if launched:
            held.enter_context(start.joined())
        with start.together() if launched else contextlib.nullcontext():
            if rank == 0:
                _refuse_others(out, resume)
            corpus = open_corpus(config, progress)
            draw_data(config, corpus)  # what can't be drawn is refused before a rank is started
            if rank == 0:
                held.enter_context(_alone(out))
        # Other engines than our own want a process group, even for one rank.
        if not launched and (world > 1 or engine is not Mini):
            held.enter_context(Signals(out / STOP, relay=True))
            args = (config, out, progress, engine, resume, out / STOP)
            result = run(_rank, world, *args, timeout=math.inf)[0]
        else:
            result = _rank(config, out, progress, engine, resume)
    entropy = data.unigram_entropy(corpus, config.data.weights, config.data.split)
    return result | {"unigram_entropy": entropy}


def _rank(config, out, progress, engine, resume=False, stop=None):
    """What each rank of a run does. stop: a file that tells of a signal, see health.Signals."""
    mesh = Mesh(Layout.of(config.parallel))
    corpus = open_corpus(config, progress=False)
    start.refuse_other_ranks(config, corpus, engine.packages)
    training = Run(config, out, engine(config, mesh), corpus, progress)
    training.begin(corpus, resume)
    return training.go(Signals(stop))


def _refuse_others(out, resume):
    """InputError where `out` holds anything but, with `resume`, a run."""
    there = out.is_file() or (out.is_dir() and any(p.name[0] != "." for p in out.iterdir()))
    if there and not (resume and (out / "config.yaml").is_file()):
        what = "files, but no run to go on with" if resume else "a run or other files"
        also = "" if resume else ", or go on with the run by --resume"
        raise InputError(f"{out} holds {what}: choose another --out or remove it{also}")


@contextlib.contextmanager
def _alone(out):
    """Hold the folder of a run; InputError where another process does."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / STOP).unlink(missing_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out} is being trained by another process: wait, or end it; if its machine is gone, "
            f"remove {out / LOCK}"
        ) from None
    except OSError as error:
        raise InputError(f"can't write the run into {out}: {error}") from None
    try:
        yield
    finally:
        if {path.name for path in out.iterdir()} == {LOCK}:  # no run has begun
            shutil.rmtree(out)
        lock.release()


def open_corpus(config, progress=True):
    """The Corpus that `config` reads; the default one is prepared first where it is missing.

    InputError where a token of the corpus has no row in the model's embedding.
    """
    if config.data.path:
        corpus = data.Corpus(config.data.path)
    else:
        corpus = prepare(cache_dir() / "corpus", progress=progress)
    if corpus.vocab > config.model.vocab:
        raise InputError(
            f"the corpus in {corpus.folder} has {corpus.vocab} different tokens, more than "
            f"model.vocab={config.model.vocab}: set model.vocab={corpus.padded}"
        )
    return corpus
