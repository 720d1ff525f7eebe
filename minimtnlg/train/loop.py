"""The steps of a run on one rank: compute, judge, log, agree with the others, save."""

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time

import torch
from tqdm import tqdm

from minimtnlg import config as configuration
from minimtnlg.data import batches as data
from minimtnlg.device import device
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.train import checkpoint, disk, ramps, start
from minimtnlg.train.health import RECENT, Pulse, Watch, straggler
from minimtnlg.train.mini import valid_samples
from minimtnlg.train.saving import Saver, agreed
from minimtnlg.train.settings import settings_of

LOGS = "metrics.jsonl", "ranks.jsonl"
BESIDE = "tokenizer.json", *LOGS  # what an index also has the checksums of
REPORT_EVERY = 50  # steps between two lines of ranks.jsonl


class Run:
    """One rank of a run that is going on: how far it is, and who watches over it."""

    def __init__(self, config, out, engine, corpus, progress):
        self.config, self.out, self.engine, self.progress = config, out, engine, progress
        self.mesh = engine.mesh
        self.world = self.mesh.layout.world
        self.rank = self.mesh.layout.rank(*self.mesh.place)
        self.train_set, self.valid_set = engine.draw(corpus)
        self.saver = Saver(engine, out, settings_of(config, start.digest_of(corpus)))
        self.watch = Watch(config.train)
        self.step = self.samples = 0
        self.saved = None  # the step of the last checkpoint
        self.trouble = ""  # what rank 0 could not write
        self.bad = 0  # bad steps in a row

    def begin(self, corpus, resume):
        """Start the folder of the run, or go on from its newest sound checkpoint."""
        found = self.saver.restore() if resume else None
        with start.together(f"can't write the run into {self.out}"):
            if self.rank == 0:
                _prepare(self.config, self.out, corpus, found)
        if found:
            self.step = self.saved = found["step"]
            self.samples = found["samples"]
            self.watch = Watch(self.config.train, found["recent"])

    def go(self, signals):
        """Make the steps that are left; returns what the run came to."""
        began = time.perf_counter()
        with contextlib.ExitStack() as held:
            held.enter_context(signals)
            self.pulse = None
            if self.world > 1:
                patience = self.config.train.patience
                self.pulse = held.enter_context(Pulse(self.rank, self.world, patience))
            row, came = self._steps(signals)
        seconds = time.perf_counter() - began
        result = {"steps": self.step, "seconds": seconds, "tokens": self.samples * self._seq}
        return result | {key: row.get(key) for key in ("loss", "valid_loss")} | {"stopped": came}

    @property
    def _seq(self):
        return self.config.model.seq

    def _steps(self, signals):
        """(row of the last step, name of the signal that ended the run or "")."""
        sizes, row, came = list(ramps.batches(self.config.train, self._seq)), {}, ""
        every = self.config.train.save_every
        bar = _bar(sizes, self.step, self.progress)
        for batch in bar:
            row, last = self._one(batch), self.step + 1 == len(sizes)
            self.step += 1
            self._beat()
            if last or _due(self.step, self.config.train.eval_every):
                row["valid_loss"] = validate(self.config, self.engine, self.valid_set)
                self._beat()
                self._refuse_nonsense("valid_loss", row["valid_loss"])
            self._log("metrics.jsonl", row)
            bar.set_postfix_str(f"loss {row['loss']}"[:10], refresh=False)
            if last or _due(self.step, REPORT_EVERY):
                self._report()
            came = self._agree(signals)
            if last or came or _due(self.step, every):
                self._save()
            if came:
                break
        self.saver.finish()
        return row, "" if self.step == len(sizes) else came

    def _one(self, batch):
        """One step of `batch` samples; returns its row of metrics.jsonl."""
        train, seq = self.config.train, self._seq
        began, number = time.perf_counter(), self.step + 1
        lr = ramps.learning_rate((self.samples + batch) * seq, self.config.optim)
        mine = _mine(self.config, self.mesh, self.train_set, self.samples, batch)
        limits = {"limits": self.watch.limits()} if train.on_bad_step == "skip" else {}
        loss, norm = self.engine.step(mine, lr, number, **limits)
        seconds = time.perf_counter() - began
        self.samples += batch
        row = {
            "step": number,
            "tokens": self.samples * seq,
            "loss": loss if math.isfinite(loss) else None,  # JSON knows no infinity
            "grad_norm": norm if math.isfinite(norm) else None,
            "lr": lr,
            "batch_size": batch,
            "step_s": seconds,
            "tokens_per_s": batch * seq / seconds,
            "tflops": self.config.model.flops(batch) / seconds / 1e12 / self.world,  # of each rank
        }
        if complaint := self.watch.complaint(loss, norm):
            self.bad += 1
            row["bad"] = f"{complaint}: {self._answer(number, complaint)}"
        else:
            self.bad = 0
            self.watch.note(loss, norm)
        return row

    def _answer(self, number, complaint):
        """Do what is to be done about a bad step; returns it in words."""
        answer = self.config.train.on_bad_step
        if answer == "skip" and self.bad < RECENT:
            return "skipped"  # the step has seen to that
        self.saver.finish()
        if answer == "skip" or (answer == "rollback" and self.bad > 1):
            # The weights are bad themselves: saving them over and over would end the good ones.
            complaint += f", the last of {self.bad} bad steps in a row"
        elif answer == "rollback":
            if found := self.saver.restore():
                self.watch = Watch(self.config.train, found["recent"])
                return f"back to the state of step {found['step']}, on with the next samples"
            complaint += ", with no checkpoint to go back to"
        raise InputError(_diverged(number, complaint))

    def _refuse_nonsense(self, name, value):
        if not math.isfinite(value):
            self.saver.finish()
            raise InputError(_diverged(self.step, f"{name} is {value}"))

    def _log(self, name, row):
        """Add a line to one of LOGS, on rank 0; all ranks hear of a full disk when they agree."""
        if self.rank > 0:
            return
        try:
            with open(self.out / name, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.trouble = f"can't write {self.out / name}: {error}"

    def _agree(self, signals):
        """What all ranks now do together: stop, complete a checkpoint; the signal of any one."""
        mine = [getattr(signal, signals.name, 0), self.saver.writing, bool(self.trouble)]
        mine = torch.tensor(mine, dtype=torch.float64, device=device())
        number, writing, trouble = agreed(mine, self.world)
        if trouble:
            self.saver.finish()
            with start.together():
                if self.trouble:
                    raise InputError(self.trouble)
        if self.saver.pending and not writing:
            self.saver.commit()
        return signal.Signals(int(number)).name if number else ""

    def _save(self):
        if self.saved == self.step:
            return
        recent = [list(values) for values in self.watch.recent]  # which the next steps change
        progress = {"step": self.step, "samples": self.samples, "recent": recent}
        with start.together(f"can't save the run in {self.out}"):
            if self.rank == 0:
                progress["beside"] = _beside(self.out)
        self.saver.begin(progress)
        self.saved = self.step
        self._beat()

    def _beat(self):
        if self.pulse:
            self.pulse.beat(self.step)

    def _report(self):
        """A line of ranks.jsonl; a slow rank is named on stderr as well."""
        if not self.pulse:
            return
        work = start.gathered(round(self.pulse.worked(), 3))
        self._log("ranks.jsonl", {"step": self.step, "work_s": work})
        if self.rank == 0 and (words := straggler(work)):
            print(f"up to step {self.step} {words}", file=sys.stderr, flush=True)


def validate(config, engine, valid):
    """Validation loss (nats per token, float): the first eval_batches global batches of `valid`."""
    return engine.evaluate(_mine(config, engine.mesh, valid, 0, valid_samples(config.train)))


def _bar(sizes, done, progress):
    """What is left of `sizes`, with progress on stderr: a bar, or in a launcher's log some lines.

    done: how many steps an earlier process has made.
    """
    about = dict(desc="train", unit="step", initial=done, total=len(sizes))
    sizes = sizes[done:]
    if not progress:
        return tqdm(sizes, disable=True)
    if "MASTER_ADDR" in os.environ and not sys.stderr.isatty():
        # A log is passed on line by line; a bar, which never ends its line, would not appear.
        return tqdm(sizes, **about, file=_Lines(), mininterval=60, ascii=True)
    return tqdm(sizes, **about)  # TQDM_DISABLE decides


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


def _diverged(number, complaint):
    return (
        f"step {number}: {complaint}, the run has diverged: lower optim.lr, lengthen "
        "optim.warmup_tokens or choose a wider train.dtype"
    )


def _due(step, every):
    return every > 0 and step % every == 0


def _prepare(config, out, corpus, found):
    """The files of a run that begins, or that goes on from the index `found`."""
    _refuse_other_logs(out, found)
    checkpoint.clean(out)
    with appearing(out / "config.yaml") as path:
        configuration.save(config, path)
    with appearing(out / "tokenizer.json") as path:
        shutil.copy(corpus.folder / "tokenizer.json", path)
    saved = found["beside"] if found else {}
    for name in LOGS:
        if (out / name).exists():  # what was logged after the checkpoint will be logged again
            length = saved.get(name, {"bytes": 0})["bytes"]
            os.truncate(out / name, min((out / name).stat().st_size, length))


def _beside(out):
    """What an index says of the files of a run that are no part of a checkpoint."""
    there = [name for name in BESIDE if (out / name).exists()]
    return {name: disk.entry(out / name) for name in there}


def _refuse_other_logs(out, found):
    """InputError where a log has lost lines of before the checkpoint; a missing one is begun anew.

    Else the run would go on with a log that lacks steps, and nobody would notice.
    """
    saved = found["beside"] if found else {}
    for name in [name for name in LOGS if name in saved]:
        if (out / name).exists():
            disk.refuse_changed(out / name, saved[name], found["step"])
        else:
            print(
                f"{out / name} is missing: the new one begins after step {found['step']}",
                file=sys.stderr,
                flush=True,
            )
