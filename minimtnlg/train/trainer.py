"""A whole run: data in, steps, numbers out. What waits for the device or touches a file lives here.

The same program runs on every rank, of one or of thousands; rank 0 alone writes files.

RUN/config.yaml, tokenizer.json, metrics.jsonl (one object a step), checkpoints/step-N/, latest.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from minimtnlg import config as configuration
from minimtnlg.data import batches as data
from minimtnlg.data.prepare import prepare
from minimtnlg.data.sources import cache_dir
from minimtnlg.device import device
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import run
from minimtnlg.train import ramps, start
from minimtnlg.train.checkpoint import save_weights
from minimtnlg.train.mini import Mini, draw_data, valid_samples


def train(config, out, progress=True, ranks=None, engine=Mini):
    """Train a GPT by `config` into the new folder `out`; return what the run came to.

    ranks: how many; None: as many as the layout needs. They are started here, unless a launcher
    such as torchrun did: then this process is one of them. engine: what computes, see mini.py.

    The result is a dict: steps, tokens, seconds, loss (last step), valid_loss, unigram_entropy (all
    in nats per token). The same config and data give the same run; so does every layout, but for
    the order of additions and, where there is dropout, for another tp. InputError for an `out` that
    holds something, a model too large for this machine, a corpus that doesn't fit it, or a loss
    that is no number any more; RankError when a rank fails.
    """
    out, (rank, launched) = Path(out), start.launched()
    progress = progress and rank == 0
    if launched and ranks not in (None, launched):
        raise InputError(f"--ranks {ranks}: a launcher has started {launched}; leave it out")
    config = configuration.sized(config, launched or ranks)
    engine.refuse(config)
    start.refuse_too_large(config)
    world = config.parallel.tp * config.parallel.pp * config.parallel.dp
    with start.joined() if launched else contextlib.nullcontext():
        with start.together() if launched else contextlib.nullcontext():
            # Another rank may find here what rank 0 has written already.
            if rank == 0 and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
                raise InputError(
                    f"{out} holds a run or other files: choose another --out or remove it"
                )
            corpus = open_corpus(config, progress)
            draw_data(config, corpus)  # what can't be drawn is refused before a rank is started
        # Other engines than our own want a process group, even for one rank.
        if not launched and (world > 1 or engine is not Mini):
            result = run(_rank, world, config, out, progress, engine, timeout=math.inf)[0]
        else:
            result = _rank(config, out, progress, engine)
    entropy = data.unigram_entropy(corpus, config.data.weights, config.data.split)
    return result | {"unigram_entropy": entropy}


def _rank(config, out, progress, engine):
    """What each rank of a run does; rank 0 writes the files."""
    p = config.parallel
    layout = Layout(tp=p.tp, pp=p.pp, dp=p.dp)
    mesh = Mesh(layout)
    first = layout.rank(*mesh.place) == 0
    corpus = open_corpus(config, progress=False)
    start.refuse_other_ranks(config, corpus, engine.packages)
    with start.together():
        if first:
            _begin(config, out, corpus)
    engine = engine(config, mesh)
    sets = engine.draw(corpus)
    began = time.perf_counter()
    with open(out / "metrics.jsonl" if first else os.devnull, "w") as metrics:
        for row in _steps(config, engine, sets, progress and first):
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
    save_weights(engine, out, row["step"])
    keys = ("tokens", "loss", "valid_loss")
    seconds = time.perf_counter() - began
    return {"steps": row["step"], "seconds": seconds} | {key: row[key] for key in keys}


def _begin(config, out, corpus):
    try:
        out.mkdir(parents=True, exist_ok=True)
        configuration.save(config, out / "config.yaml")
        shutil.copy(corpus.folder / "tokenizer.json", out / "tokenizer.json")
    except OSError as error:
        raise InputError(f"can't write the run into {out}: {error}") from None


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


def validate(config, engine, valid):
    """Validation loss (nats per token, float): the first eval_batches global batches of `valid`."""
    return engine.evaluate(_mine(config, engine.mesh, valid, 0, valid_samples(config.train)))


def _steps(config, engine, sets, progress):
    """Run every step of the ramped schedule and yield its row of metrics.jsonl."""
    train_set, valid_set = sets
    train, seq = config.train, config.model.seq
    sizes = list(ramps.batches(train, seq))
    samples, world = 0, engine.mesh.layout.world
    bar = _bar(sizes, progress)
    for number, batch in enumerate(bar, 1):
        began = time.perf_counter()
        lr = ramps.learning_rate((samples + batch) * seq, config.optim)
        mine = _mine(config, engine.mesh, train_set, samples, batch)
        loss, norm = engine.step(mine, lr, number)
        seconds = time.perf_counter() - began
        _refuse_nonsense(number, loss, norm, train.dtype)
        samples += batch
        row = {
            "step": number,
            "tokens": samples * seq,
            "loss": loss,
            "grad_norm": norm if math.isfinite(norm) else None,  # JSON knows no infinity
            "lr": lr,
            "batch_size": batch,
            "step_s": seconds,
            "tokens_per_s": batch * seq / seconds,
            "tflops": config.model.flops(batch) / seconds / 1e12 / world,  # of each rank
        }
        last = number == len(sizes)
        if last or (train.eval_every and number % train.eval_every == 0):
            row["valid_loss"] = validate(config, engine, valid_set)
            _refuse_nonsense(number, row["valid_loss"], norm, train.dtype)
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        yield row


def _bar(sizes, progress):
    """`sizes` with progress on stderr: a bar, or in the log of a launcher a line a minute."""
    if not progress:
        return tqdm(sizes, disable=True)
    if "MASTER_ADDR" in os.environ and not sys.stderr.isatty():
        # A log is passed on line by line; a bar, which never ends its line, would not appear.
        return tqdm(sizes, desc="train", unit="step", file=_Lines(), mininterval=60, ascii=True)
    return tqdm(sizes, desc="train", unit="step")  # TQDM_DISABLE decides


class _Lines:
    """stderr for a bar: each of its states is a line of its own."""

    def write(self, text):
        if text := text.strip():
            print(text, file=sys.stderr, flush=True)

    def flush(self):
        pass


def _mine(config, mesh, dataset, consumed, samples):
    """The micro-batches of this rank's replica; where no stage reads them, their shapes alone."""
    b, seq = config.train.micro_batch, config.model.seq
    if 0 < mesh.place.pp < mesh.layout.pp - 1:
        shape = torch.empty(b, seq, device="meta")
        return [data.Batch(shape, shape, shape)] * (samples // (b * mesh.layout.dp))
    mine = data.micro_batches(dataset, consumed, samples, b, mesh.layout.dp, mesh.place.dp)
    where = device()
    return [
        data.Batch(batch.tokens.to(where), batch.labels.to(where), batch.mask.to(where))
        for batch in mine
    ]


def _refuse_nonsense(number, loss, norm, dtype):
    """Stop a run that has diverged; a norm that overflows in fp16 is for the loss scale to mend."""
    for name, value in (("loss", loss), ("grad_norm", norm)):
        mended = name == "grad_norm" and dtype == "float16"
        if not math.isfinite(value) and not mended:
            raise InputError(
                f"step {number}: {name} is {value}, the run has diverged: lower optim.lr, "
                "lengthen optim.warmup_tokens or choose a wider train.dtype"
            )
