"""A whole run: data in, steps, numbers out. What waits for the device or touches a file lives here.

The same program runs on every rank, of one or of thousands; rank 0 alone writes files.

RUN/config.yaml, tokenizer.json, metrics.jsonl (one object a step), checkpoints/step-N/, latest.
"""

import json
import math
import os
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from minimtnlg import config as configuration
from minimtnlg.data import batches as data
from minimtnlg.data.prepare import prepare
from minimtnlg.data.sources import cache_dir
from minimtnlg.device import backend, device, memory, select
from minimtnlg.errors import InputError
from minimtnlg.model import build
from minimtnlg.parallel import schedules
from minimtnlg.parallel.collectives import all_reduce
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.tensor import split_dimensions
from minimtnlg.ranks import run
from minimtnlg.train import ramps
from minimtnlg.train.checkpoint import save_weights
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import evaluate, step


def train(config, out, progress=True, ranks=None):
    """Train a GPT by `config` into the new folder `out`; return what the run came to.

    ranks: how many; None: as many as the layout needs. They are started here, unless a launcher
    such as torchrun did: then this process is one of them.

    The result is a dict: steps, tokens, seconds, loss (last step), valid_loss, unigram_entropy (all
    in nats per token). The same config and data give the same run; so does every layout, but for
    the order of additions and, where there is dropout, for another tp. InputError for an `out` that
    holds something, a model too large for this machine, a corpus that doesn't fit it, or a loss
    that is no number any more; RankError when a rank fails.
    """
    out, (rank, launched) = Path(out), _launched()
    progress = progress and rank == 0
    if launched and ranks not in (None, launched):
        raise InputError(f"--ranks {ranks}: a launcher has started {launched}; leave it out")
    config = configuration.sized(config, launched or ranks)
    world = config.parallel.tp * config.parallel.pp * config.parallel.dp
    # Another rank may find here what rank 0 has written already.
    if rank == 0 and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise InputError(f"{out} holds a run or other files: choose another --out or remove it")
    _refuse_too_large(config)
    corpus = open_corpus(config, progress)
    draw_data(config, corpus)  # what can't be drawn is refused before a rank is started
    if launched:
        select()
        dist.init_process_group(backend())
        result = _rank(config, out, progress)
        dist.destroy_process_group()
    elif world > 1:
        result = run(_rank, world, config, out, progress, timeout=math.inf)[0]
    else:
        result = _rank(config, out, progress)
    entropy = data.unigram_entropy(corpus, config.data.weights, config.data.split)
    return result | {"unigram_entropy": entropy}


def _launched():
    """(this process's rank, number of ranks) where a launcher has started it, else (0, None)."""
    if "RANK" not in os.environ or dist.is_initialized():
        return 0, None
    given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    rank, world = (int(n) if n.isdecimal() else -1 for n in list(given.values())[:2])
    if not 0 <= rank < world or not given["MASTER_ADDR"]:
        told = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise InputError(
            f"{told} in the environment: a launcher such as torchrun sets all three, with RANK "
            "below WORLD_SIZE; without one, unset RANK"
        )
    return rank, world


def _rank(config, out, progress):
    """What each rank of a run does; rank 0 writes the files."""
    p = config.parallel
    layout = Layout(tp=p.tp, pp=p.pp, dp=p.dp)
    mesh = Mesh(layout)
    first = layout.rank(*mesh.place) == 0
    corpus = open_corpus(config, progress=False)
    if first:
        try:
            out.mkdir(parents=True, exist_ok=True)
            configuration.save(config, out / "config.yaml")
            shutil.copy(corpus.folder / "tokenizer.json", out / "tokenizer.json")
        except OSError as error:
            raise InputError(f"can't write the run into {out}: {error}") from None
    model = build(config, mesh)
    _refuse_other_weights(model)
    optimizer = Optimizer(model, config.optim, p.zero)
    sets = draw_data(config, corpus)
    start = time.perf_counter()
    with open(out / "metrics.jsonl" if first else os.devnull, "w") as metrics:
        for row in _steps(config, model, optimizer, sets, progress and first):
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
    with optimizer.replicas.gathered():
        save_weights(model, out, row["step"])
    keys = ("tokens", "loss", "valid_loss")
    seconds = time.perf_counter() - start
    return {"steps": row["step"], "seconds": seconds} | {key: row[key] for key in keys}


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


def draw_data(config, corpus):
    """(train, valid): all samples that the run will read, as data.batches draws them."""
    train, seq = config.train, config.model.seq
    if max(train.steps * train.global_batch, train.tokens // seq) > 2**31:
        raise InputError(
            f"train.steps={train.steps}, train.tokens={train.tokens} come to more than 2**31 "
            "samples, too many to draw: lower them"
        )

    def part(name, samples):
        return data.draw(
            corpus, name, samples, seq, train.seed, config.data.weights, config.data.split
        )

    valid = part("valid", train.eval_batches * train.global_batch)
    return part("train", ramps.total_samples(train, seq)), valid


def validate(config, model, valid):
    """Validation loss (nats per token, float): the first eval_batches global batches of `valid`."""
    samples = config.train.eval_batches * config.train.global_batch
    batches = _mine(config, model, valid, 0, samples)
    return evaluate(model, batches, _schedule(config, len(batches), forward_only=True)).item()


def _steps(config, model, optimizer, sets, progress):
    """Run every step of the ramped schedule and yield its row of metrics.jsonl."""
    train_set, valid_set = sets
    train, seq = config.train, config.model.seq
    sizes = list(ramps.batches(train, seq))
    samples, world = 0, model.mesh.layout.world
    hidden = {} if progress else {"disable": True}  # unless it is given, TQDM_DISABLE decides
    bar = tqdm(sizes, desc="train", unit="step", **hidden)
    for number, batch in enumerate(bar, 1):
        start = time.perf_counter()
        lr = ramps.learning_rate((samples + batch) * seq, config.optim)
        mine = _mine(config, model, train_set, samples, batch)
        schedule = _schedule(config, len(mine))
        loss, norm = step(
            model, optimizer, mine, lr=lr, seed=train.seed, number=number, schedule=schedule
        )
        loss, norm = loss.item(), norm.item()  # waits for the device, so the time below is whole
        seconds = time.perf_counter() - start
        _refuse_nonsense(number, loss, norm, optimizer)
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
            row["valid_loss"] = validate(config, model, valid_set)
            _refuse_nonsense(number, row["valid_loss"], norm, optimizer)
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        yield row


def _schedule(config, m, forward_only=False):
    p = config.parallel
    return schedules.named(p.schedule, p.pp, m, p.virtual, forward_only)


def _mine(config, model, dataset, consumed, samples):
    """The micro-batches of this rank's replica; where no stage reads them, their shapes alone."""
    b, seq, mesh = config.train.micro_batch, config.model.seq, model.mesh
    if not (model.begins() or model.ends(model.virtual - 1)):
        shape = torch.empty(b, seq, device="meta")
        return [data.Batch(shape, shape, shape)] * (samples // (b * mesh.layout.dp))
    mine = data.micro_batches(dataset, consumed, samples, b, mesh.layout.dp, mesh.place.dp)
    where = device()
    return [
        data.Batch(batch.tokens.to(where), batch.labels.to(where), batch.mask.to(where))
        for batch in mine
    ]


def _refuse_other_weights(model):
    """Stop before the first step if ranks do not start from the same weights where they should.

    Every rank draws its own; a rank with another version of PyTorch, say, would draw others.
    """
    mesh, dimensions = model.mesh, split_dimensions(model)
    with torch.no_grad():
        sums = {name: p.double().abs().sum() for name, p in model.named_parameters()}
    whole = [total for name, total in sums.items() if dimensions[name] is None]
    tied = [sums["embedding.weight"]] if mesh.ends else []
    for axis, sums_of in (("dp", sums.values()), ("tp", whole), ("ends", tied)):
        mine = torch.stack([*sums_of, torch.zeros((), dtype=torch.float64, device=device())])
        largest = all_reduce(mine.clone(), getattr(mesh, axis), "max")
        smallest = -all_reduce(-mine, getattr(mesh, axis), "max")
        if not torch.equal(largest, smallest):
            raise InputError(
                f"ranks of a {axis} group did not draw the same weights: install the "
                "same version of PyTorch for all of them"
            )


def _refuse_nonsense(number, loss, norm, optimizer):
    """Stop a run that has diverged; a norm that overflows in fp16 is for the loss scale to mend."""
    for name, value in (("loss", loss), ("grad_norm", norm)):
        mended = name == "grad_norm" and optimizer.loss_scale.active
        if not math.isfinite(value) and not mended:
            raise InputError(
                f"step {number}: {name} is {value}, the run has diverged: lower optim.lr, "
                "lengthen optim.warmup_tokens or choose a wider train.dtype"
            )


def _refuse_too_large(config):
    """Refuse a model whose weights, gradients and Adam's moments alone exceed the memory here."""
    each = {"float64": 32, "float32": 16}.get(config.train.dtype, 20)  # 20 bytes [S3, sec. 2.1.1]
    p, count = config.parallel, config.model.parameters()
    world = p.tp * p.pp * p.dp
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # ranks on this machine
    copies = p.dp if p.zero == 0 else 1  # with ZeRO at the very least
    need, there = count * each * copies * here / world, memory(here)
    if need > there:
        raise InputError(
            f"{count:,} parameters take {need / 1e9:,.0f} GB with gradients and moments, this "
            f"machine has {there / 1e9:,.0f} GB: lower model.layers or model.hidden"
        )
