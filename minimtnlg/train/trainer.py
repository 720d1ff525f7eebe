"""A whole run: data in, steps, numbers out. What waits for the device or touches a file lives here.

RUN/config.yaml, tokenizer.json, metrics.jsonl (one object a step), checkpoints/step-N/, latest.
"""

import json
import math
import shutil
import time
from pathlib import Path

from tqdm import tqdm

from minimtnlg import config as configuration
from minimtnlg.data import batches as data
from minimtnlg.data.prepare import prepare
from minimtnlg.data.sources import cache_dir
from minimtnlg.device import DTYPES, device, memory
from minimtnlg.errors import InputError
from minimtnlg.model import GPT
from minimtnlg.train import ramps
from minimtnlg.train.checkpoint import save_weights
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import evaluate, step


def train(config, out, progress=True):
    """Train a GPT by `config` into the new folder `out`; return what the run came to.

    The result is a dict: steps, tokens, seconds, loss (last step), valid_loss, unigram_entropy (all
    in nats per token). The same config and data give the same run. InputError for an `out` that
    holds something, a model too large for this machine, a corpus that doesn't fit it, or a loss
    that is no number any more.
    """
    _refuse_ranks(config.parallel)
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} holds a run or other files: choose another --out or remove it")
    _refuse_too_large(config)
    corpus = open_corpus(config, progress)
    sets = draw_data(config, corpus)
    out.mkdir(parents=True, exist_ok=True)
    configuration.save(config, out / "config.yaml")
    shutil.copy(corpus.folder / "tokenizer.json", out / "tokenizer.json")

    model = GPT(
        config.model,
        seed=config.train.seed,
        dtype=DTYPES[config.train.dtype],
        recompute=config.parallel.recompute,
    )
    optimizer = Optimizer(model, config.optim)
    start = time.perf_counter()
    with open(out / "metrics.jsonl", "w") as metrics:
        for row in _steps(config, model, optimizer, sets, progress):
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
    save_weights(model, out, row["step"])
    return {
        "steps": row["step"],
        "tokens": row["tokens"],
        "seconds": time.perf_counter() - start,
        "loss": row["loss"],
        "valid_loss": row["valid_loss"],
        "unigram_entropy": data.unigram_entropy(corpus, config.data.weights, config.data.split),
    }


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
    return evaluate(model, _on_device(valid, 0, samples, config.train.micro_batch)).item()


def _steps(config, model, optimizer, sets, progress):
    """Run every step of the ramped schedule and yield its row of metrics.jsonl."""
    train_set, valid_set = sets
    train, seq = config.train, config.model.seq
    sizes = list(ramps.batches(train, seq))
    samples = 0
    hidden = {} if progress else {"disable": True}  # unless it is given, TQDM_DISABLE decides
    bar = tqdm(sizes, desc="train", unit="step", **hidden)
    for number, batch in enumerate(bar, 1):
        start = time.perf_counter()
        lr = ramps.learning_rate((samples + batch) * seq, config.optim)
        micro_batches = _on_device(train_set, samples, batch, train.micro_batch)
        loss, norm = step(model, optimizer, micro_batches, lr=lr, seed=train.seed, number=number)
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
            "tflops": config.model.flops(batch) / seconds / 1e12,
        }
        last = number == len(sizes)
        if last or (train.eval_every and number % train.eval_every == 0):
            row["valid_loss"] = validate(config, model, valid_set)
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        yield row


def _on_device(dataset, consumed, samples, micro_batch):
    where = device()
    return [
        data.Batch(batch.tokens.to(where), batch.labels.to(where), batch.mask.to(where))
        for batch in data.micro_batches(dataset, consumed, samples, micro_batch)
    ]


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
    count = config.model.parameters()
    if count * each > memory():
        raise InputError(
            f"{count:,} parameters take {count * each / 1e9:,.0f} GB with gradients and moments, "
            f"this machine has {memory() / 1e9:,.0f} GB: lower model.layers or model.hidden"
        )


def _refuse_ranks(parallel):
    for axis in ("tp", "pp", "dp"):
        if getattr(parallel, axis) > 1:
            raise InputError(
                f"parallel.{axis}={getattr(parallel, axis)}: this version trains in one process; "
                f"set parallel.{axis}=1"
            )
