"""What goes wrong in a long run: a loss that jumps, a rank that stalls or is slow, a signal.

- Watch: is this step's loss or gradient norm one to train on?
- Pulse: a thread of each rank that names the rank for which all others wait, and the slow one.
- Signals: SIGTERM and SIGUSR1 end a run after the step at work, with a checkpoint.
"""

import contextlib
import linecache
import math
import os
import signal
import statistics
import sys
import threading
import time
from datetime import timedelta

import numpy as np
import torch.distributed as dist

from minimtnlg import _rank

RECENT = 20  # steps whose median is what is usual
SURE = 5.0  # seconds of work, 100 looks, below which chance decides who looks slow


class Watch:
    """Which steps are bad: those without a finite loss or norm, and those far above the usual.

    train: config.Train, with loss_spike and norm_spike: how many times the median of the last
    RECENT good steps is too much; 0: only what is no number is bad. recent: [[losses], [norms]] of
    an earlier Watch. In float16 an infinite norm is for the loss scale to mend.
    """

    def __init__(self, train, recent=((), ())):
        self.scaled = train.dtype == "float16"
        self.factors = train.loss_spike, train.norm_spike
        self.round = np.float64 if train.dtype == "float64" else np.float32  # as the step has them
        self.recent = [list(values) for values in recent]

    def limits(self):
        """(largest loss, largest norm) of a good step, as floats; infinite where nothing is."""
        known = len(self.recent[0]) >= RECENT // 2
        return tuple(
            float(self.round(factor * statistics.median(values))) if factor and known else math.inf
            for factor, values in zip(self.factors, self.recent, strict=True)
        )

    def complaint(self, loss, norm):
        """Why a step with this loss and norm is bad, in words; "" where it is good."""
        named = zip(("loss", "grad_norm"), (loss, norm), self.limits(), strict=True)
        for name, value, limit in named:
            if not math.isfinite(value):
                if name == "grad_norm" and self.scaled:
                    return ""
                return f"{name} is {value}"
            if value > limit:
                return f"{name} is {value:.4g}, above {limit:.4g}"
        return ""

    def note(self, loss, norm):
        """Remember a good step."""
        for values, value in zip(self.recent, (loss, norm), strict=True):
            if math.isfinite(value):
                values.append(value)
                del values[:-RECENT]


class Signals:
    """SIGTERM and SIGUSR1 inside the block ask the run to save and end; `name` is what came.

    A signal may reach the process that has started the ranks, and not them: `file` passes it on.
    relay: whether this process is that one. Outside of the main thread, where Python takes no
    signals, only the file counts.
    """

    def __init__(self, file, relay=False):
        self.file, self.relay, self._name = file, relay, ""

    @property
    def name(self):
        """"SIGTERM" or "SIGUSR1" once it has come, else ""."""
        if not self._name and self.file and not self.relay:
            with contextlib.suppress(OSError):
                self._name = self.file.read_text()
        return self._name

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.relay:
            self.file.unlink(missing_ok=True)

    def _came(self, number, frame):
        self._name = signal.Signals(number).name
        if self.relay:
            self.file.write_text(self._name)


class Pulse:
    """A thread that looks at its rank's main thread now and then; the others' are asked in need.

    rank, world: of this process. patience: seconds that may pass from one beat() to the next.

    - Its looks tell how much of the time the rank computes, and how much it waits for others.
    - A rank that has not come to its next beat in time writes down where it is. One that writes
      nothing is suspended, dead or out of reach; one that does not wait for others is what they
      wait for. The job ends with its name.
    """

    EVERY = 0.05  # seconds between two looks

    def __init__(self, rank, world, patience):
        self.rank, self.world, self.patience = rank, world, patience
        self._main = threading.main_thread().ident
        self._beat, self._step, self._looks, self._works = time.monotonic(), 0, 0, 0
        self._began = time.monotonic()
        self._end = threading.Event()
        self._store = dist.distributed_c10d._get_default_store().clone()
        self._store.set_timeout(timedelta(seconds=max(2.0, patience / 10)))

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._end.set()

    def beat(self, step):
        """Say that the rank has come as far as the end of this step."""
        self._beat, self._step = time.monotonic(), step

    def worked(self):
        """Seconds that this rank has computed since the last call, not waiting for others."""
        now = time.monotonic()
        seconds = (now - self._began) * self._works / max(self._looks, 1)
        self._began, self._looks, self._works = now, 0, 0
        return seconds

    def _watch(self):
        while not self._end.wait(self.EVERY):
            waits, line = where(self._main)
            self._looks, self._works = self._looks + 1, self._works + (not waits)
            late = time.monotonic() - self._beat
            if late > self.patience:
                self._ask(self._step, self._beat, f"{int(waits)}{line}")

    def _ask(self, step, beat, mine):
        """All ranks that are late meet here: those that don't come, or don't wait, are named."""
        told, pause = {}, max(1.0, self.patience / 10)
        meeting = threading.Thread(target=self._meet, args=(step, mine, pause, told), daemon=True)
        meeting.start()
        meeting.join(2 * pause + 3)  # for whom asks a rank that is suspended, no timeout counts
        if self._end.is_set() or self._beat != beat:
            return
        missing = [rank for rank in range(self.world) if rank not in told]
        busy = {rank: text[1:] for rank, text in told.items() if text[0] == "0"}
        culprits = [f"rank {rank} is at {line}" for rank, line in busy.items()]
        if not told or meeting.is_alive():
            culprits = ["rank 0, through which ranks meet, does not answer"]
        elif missing:
            culprits = [f"{_names(missing)} not answer"]
        words = "; ".join(culprits[:3]) or "all ranks wait for each other"
        stalled(f"no step for {self.patience:g} s after step {step}: {words}")

    def _meet(self, step, mine, pause, told):
        with contextlib.suppress(dist.DistError, RuntimeError):  # a store that is gone
            self._store.append(f"late/{step}", f"{self.rank} {mine}\n")
            time.sleep(pause)  # the others are late at about the same time
            lines = self._store.get(f"late/{step}").decode().splitlines()
            told |= {int(rank): text for rank, _, text in (line.partition(" ") for line in lines)}


class Stalled(RuntimeError):
    """A run makes no step any more; the text names the rank that is waited for."""


def stalled(text):
    """End this rank and with it the job, whatever the main thread is stuck in."""
    if _rank.JOB in os.environ:  # started by run()
        _rank.fail(Stalled(text))
        return
    print(f"minimtnlg: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def where(thread):
    """(whether a thread waits for other ranks, or for its device; where in the code it is)."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return False, "its end"
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    waits, place = ".wait(" in line or ".item(" in line, None
    while frame:
        file = frame.f_code.co_filename
        waits = waits or "torch/distributed" in file
        if place is None and _rank.mine(file):
            place = f"{os.path.basename(file)}:{frame.f_lineno}, in {frame.f_code.co_name}"
        frame = frame.f_back
    return waits, place or line.strip()


def straggler(work):
    """The slowest rank in words, where one works much longer than the others; "" where none does.

    work: the seconds of work of each rank in the same steps, without waiting.
    """
    usual, most = statistics.median(work), max(work)
    if most < 1.5 * usual or most < SURE:
        return ""
    slow = work.index(most)
    return f"rank {slow} is slow: {most:.2f} s of work where the median is {usual:.2f} s"


def _names(ranks):
    shown = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
    return f"rank {shown} does" if len(ranks) == 1 else f"ranks {shown} do"
