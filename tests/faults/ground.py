"""Where drills take place: a tiny run in some layouts, faults that come at a given call, a judge.

    go(layout, out, fault, ...)    train, and let the faults come; whatever happens, it has an end
    Ground                         one drill's folder: how it is disturbed, resumed and judged

The undisturbed run of each layout, and one that was killed in its last step, are made once.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from metrics import timeless

from minimtnlg import config as configuration
from minimtnlg.data.prepare import prepare
from minimtnlg.errors import InputError
from minimtnlg.ranks import RankError, run
from minimtnlg.train import audit, checkpoint, loop, trainer

LIMIT = 60  # seconds after which a run hangs; undisturbed ones take two
PATIENCE = 3  # train.patience where a rank stalls
MARK, PARENT = "MINIMTNLG_DRILLS", "MINIMTNLG_DRILLS_PARENT"  # in the environment of all processes
STEPS, EVERY = 8, 3  # saved are the steps 3, 6 and 8
LAYOUTS = {
    "one": dict(),
    "dp2": dict(dp=2),
    "dp2 zero3": dict(dp=2, zero=3),
    "tp2": dict(tp=2),
    "pp2 dp2 zero1 interleaved": dict(pp=2, dp=2, zero=1, schedule="interleaved", virtual=2),
    "tp2 pp2 dp2 zero1": dict(tp=2, pp=2, dp=2, zero=1),
}
SMALL = [
    "model.layers=4", "model.hidden=16", "model.heads=2", "model.seq=16", "model.vocab=320",
    "train.tokens=0", f"train.steps={STEPS}", "train.global_batch=8", "train.micro_batch=1",
    "train.ramp=[4,4,256]", "train.eval_every=4", "train.eval_batches=1", "train.dtype=float64",
    f"train.save_every={EVERY}", "optim.warmup_tokens=100", "optim.decay_tokens=700",
    "optim.lr=1e-2", "data.weights={}", "data.split=[80,20,0]",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in the code a fault can come: module:function, or several that are one to the reader.

    calls: how many of them a rank makes in a run, at the very least. first: whether only rank 0
    does. after: whether the fault comes when the call has ended.
    """

    names: str
    calls: int
    first: bool = False
    after: bool = False


PLACES = {
    "start": Place("train.mini:refuse_other_weights", 1),
    "forward": Place("model.gpt:GPT.stage", 24),
    "exchange between stages": Place("parallel.pipeline:_Links.exchange", 24),
    "backward": Place("parallel.replicas:Replicas.begin parallel.zero:Zero.begin", 8),
    "gradient reduction": Place("parallel.replicas:Replicas._leave parallel.zero:Zero._leave", 8),
    "optimizer": Place("train.optimizer:Optimizer.step", 8),
    "evaluation": Place("train.mini:evaluate", 2),
    "logging": Place("train.loop:Run._log", 8, first=True),
    "agreeing": Place("train.loop:Run._agree", 8),
    "copying the state": Place("train.saving:pieces_of", 3),
    "saving": Place("train.checkpoint:write", 3),
    "saved its part": Place("train.checkpoint:write", 3, after=True),
    "completing": Place("train.checkpoint:commit", 3, first=True),
    "fsync": Place("train.checkpoint:to_disk", 12, first=True),
    "before renaming": Place("train.checkpoint:os.rename", 3, first=True),
    "after renaming": Place("train.checkpoint:os.rename", 3, first=True, after=True),
    "moving latest": Place("train.checkpoint:point", 3, first=True),
    "replacing latest": Place("files:os.replace", 5, first=True),
    "removing an old one": Place("train.checkpoint:_discard", 1, first=True),
    "verifying": Place("train.checkpoint:Checkpoint.verify", 1),
    "loading": Place("train.checkpoint:Checkpoint.read", 8),
    "setting a damaged one aside": Place("train.saving:Saver._set_aside", 1, first=True),
    "resuming": Place("train.loop:_prepare", 1, first=True),
}


def holder_of(name):
    """(module or class, attribute) of "module:function" or "module:Class.method"."""
    module, _, path = name.partition(":")
    holder = importlib.import_module(f"minimtnlg.{module}")
    *outer, last = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    return holder, last


@dataclasses.dataclass(frozen=True)
class Fault:
    """What comes over `rank`, from its call number `call` of a place on. deed: of DEEDS."""

    place: str
    rank: int
    call: int
    deed: str = "kill"
    with_it: str = ""  # what the deed needs

    def arm(self):
        """Let the fault come in this process, if it is that of the rank."""
        if int(os.environ["RANK"]) == self.rank:
            for name in PLACES[self.place].names.split():
                self._wrap(name)

    def _wrap(self, name):
        holder, last = holder_of(name)
        original, calls, after = getattr(holder, last), [], PLACES[self.place].after

        @functools.wraps(original)
        def wrapped(*args, **kwargs):
            calls.append(name)
            due = len(calls) == self.call or (len(calls) > self.call and self.deed == "slow")
            result = original(*args, **kwargs) if after else None
            if due:
                DEEDS[self.deed](self.with_it, *args)
            return result if after else original(*args, **kwargs)

        setattr(holder, last, wrapped)


def _kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_in_a_line(_, this, name, row):
    with open(this.out / name, "a") as file:
        text = json.dumps(row)
        file.write(text[: len(text) // 2])
    _kill()


def _signal(names, *_):
    """Send signals: "parent SIGTERM, self SIGUSR1"; the parent has started the ranks."""
    for who, name in (each.split() for each in names.split(", ")):
        pid = os.getpid() if who == "self" else int(os.environ[PARENT])
        os.kill(pid, getattr(signal, name))


def _pause(file, *_):
    """Say so, and wait until the drill has done something."""
    Path(file).touch()
    while Path(file).exists():
        time.sleep(0.02)


def _limit(size, *_):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))


DEEDS = {
    "kill": _kill,
    "kill in a line": _kill_in_a_line,
    "kill parent": lambda *_: os.kill(int(os.environ[PARENT]), signal.SIGKILL),
    "suspend": lambda *_: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda *_: time.sleep(3600),
    "slow": lambda *_: time.sleep(0.15),
    "signal": _signal,
    "pause": _pause,
    "limit": _limit,
}


@dataclasses.dataclass
class Ended:
    """How a run ended. began: the step it went on from; None where it did not come so far."""

    result: dict | None = None
    error: str = ""
    seconds: float = 0.0
    told: str = ""  # on stderr
    began: int | None = None


def settings(layout, corpus, changes=()):
    """The Config of a run. Dropout draws by tensor rank, so layouts with tp go without."""
    parallel = LAYOUTS[layout]
    more = [f"parallel.{key}={value}" for key, value in parallel.items()]
    more.append(f"model.dropout={0 if 'tp' in parallel else 0.1}")
    return configuration.load("nano", [*SMALL, *more, f"data.path={corpus}", *changes])


def go(config, out, *faults, resume=False, apart=False, note=None):
    """Train into `out`; returns how it Ended. apart: a process of its own starts the ranks.

    note: a file that rank 0 writes the step into from which it goes on.
    """
    note, told, ended = note or out.with_suffix(".began"), io.StringIO(), Ended()
    note.unlink(missing_ok=True)
    began = time.perf_counter()
    try:
        with contextlib.redirect_stderr(told), at_most(LIMIT):
            world = configuration.sized(config).parallel
            if apart or world.tp * world.pp * world.dp == 1:
                [ended.result] = run(_start, 1, faults, note, config, out, resume, timeout=LIMIT)
            else:
                ended.result = _start(faults, note, config, out, resume)
    except InputError as error:
        ended.error = str(error)
    except RankError as error:
        ended.error = error.message if error.type in ("InputError", "Stalled") else str(error)
    ended.seconds, ended.told = time.perf_counter() - began, told.getvalue()
    if note.exists():
        ended.began = int(note.read_text())
        note.unlink()
    return ended


def _start(faults, note, config, out, resume):
    """train(), with the faults in its ranks."""
    real, before = trainer._rank, dict(os.environ)
    os.environ[PARENT] = str(os.getpid())
    trainer._rank = functools.partial(_sabotaged, real, faults, note)
    try:
        return trainer.train(config, out, progress=False, resume=resume)
    finally:
        trainer._rank = real
        os.environ.clear()
        os.environ.update(before)


def _sabotaged(real, faults, note, *args):
    for fault in faults:
        fault.arm()
    begin = loop.Run.begin

    def noted(self, corpus, resume):
        begin(self, corpus, resume)
        if self.rank == 0:
            note.write_text(str(self.step))

    loop.Run.begin = noted
    return real(*args)


@contextlib.contextmanager
def at_most(seconds):
    """TimeoutError in the block where it takes longer; only the main thread can be watched so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_):
        raise TimeoutError(f"a run still goes on after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Ground:
    """Where one drill takes place. base: what all drills share, see Base."""

    def __init__(self, base, drill, folder):
        self.base, self.layout = base, drill.layout
        self.out, self.note = folder / "run", folder / "began"
        self.curve = ""  # what the judge has found
        self.random = random.Random(drill.name)  # each drill draws the same every time
        self.world = len(base.reference(self.layout)[2])

    def fault(self, place, deed="kill", with_it="", rank=None, calls=None):
        """A Fault of a random rank, unless it can only be the first, at a random call."""
        about = PLACES[place]
        anyone = self.random.randrange(self.world)
        rank = 0 if about.first else anyone if rank is None else rank
        low, high = calls or (1, about.calls)
        return Fault(place, rank, self.random.randint(low, high), deed, with_it)

    def go(self, *faults, layout="", changes=(), **how):
        """Train into the drill's folder, see the function; `changes` of the configuration."""
        config = self.base.settings(layout or self.layout, changes)
        ended = go(config, self.out, *faults, note=self.note, **how)
        assert "\n" not in ended.error, ended.error
        return ended

    def half(self):
        """Let the folder hold the run of this layout that was killed in step 8: saved are 3, 6."""
        shutil.copytree(self.base.half(self.layout), self.out)

    def saved(self, step):
        """The folder of a checkpoint."""
        return checkpoint.folder_of(self.out, step)

    def a_file(self, step):
        """The file of a random rank in it."""
        return self.saved(step) / checkpoint.file_name(self.random.randrange(self.world))

    def resumed(self, begins=None, near=False, since=1, **how):
        """Go on with the run, which has to become what it would have been; returns what happened.

        begins: the step from which it has to go on; None: from its newest checkpoint. near: with
        another order of additions. since: the first step of which the log has to tell.
        """
        if begins is None:
            begins = max(checkpoint.steps(self.out), default=0)
        ended = self.go(resume=True, **how)
        assert not ended.error, ended.error
        assert ended.began == begins, f"it went on from step {ended.began}, not {begins}"
        self.judge(near, since)
        text = f"resumed from step {begins}" if begins else "begun again, nothing had been saved"
        return text + ", in another layout" * ("layout" in how)

    def judge(self, near=False, since=1):
        """AssertionError unless the folder holds what the undisturbed run does, and no more."""
        rows, index, _ = self.base.reference(self.layout)
        mine = timeless(self.out)
        if near:
            assert len(mine) == len(rows)
            for one, other in zip(rows, mine, strict=True):
                assert other == pytest.approx(one, abs=1e-10, rel=0)
            self.curve = "within 1e-10"
        else:
            assert mine == rows[since - 1 :]
            found = checkpoint.latest(self.out).index
            assert not [key for key in index if found[key] != index[key]]
            self.curve = "equal" + f" from step {since} on" * (since > 1)
        assert not audit.complaints(self.out)
        assert not list(self.out.rglob("*.partial"))

    def second(self, resume):
        """How another process' train() ended, that wants the same folder; from a thread."""
        try:
            trainer.train(self.base.settings(self.layout), self.out, progress=False, resume=resume)
        except InputError as error:
            return Ended(error=str(error))
        return Ended()

    def refused(self, ended, *words):
        """What happened, when a run ended with one line that says all of the words."""
        assert ended.error, "it was not refused"
        for word in words:
            assert word in ended.error, ended.error
        return f'"{ended.error}"'.replace(str(self.out), "RUN").replace(str(self.base.folder), "")

    def unchanged(self):
        """A block that has to leave every byte of the folder alone."""
        return _unchanged(self.out)


@contextlib.contextmanager
def _unchanged(folder):
    before = contents(folder)
    yield
    assert contents(folder) == before, "a refused run has changed the folder"


def contents(folder):
    """{path: bytes} of a folder, but for the lock, which stays empty."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name != trainer.LOCK}


class Base:
    """What all drills share: two corpora, and the runs of each layout that are made once."""

    def __init__(self, folder):
        self.folder = folder
        os.environ[MARK] = str(os.getpid())
        self.corpus, self.other = self._corpus("waits"), self._corpus("computes")
        self.reference, self.half = (functools.cache(f) for f in (self._reference, self._half))

    def _corpus(self, word):
        text, corpus = self.folder / f"{word}.texts", self.folder / word
        text.mkdir()
        for i in range(10):
            (text / f"{i}.txt").write_text(f"a rank {word} and its neighbour goes on " * 200)
        prepare(corpus, [str(text)], vocab=300, progress=False)
        return corpus

    def settings(self, layout, changes=()):
        return settings(layout, self.corpus, changes)

    def _reference(self, layout):
        """(rows, what an index has to say, its files) of the undisturbed run."""
        out = self.folder / f"reference {layout}"
        ended = go(self.settings(layout), out)
        assert not ended.error, ended.error
        assert {row["batch_size"] for row in timeless(out)} == {4, 8}  # the ramp is in it
        index = checkpoint.latest(out).index
        keys = ("step", "samples", "recent", "numbers", "tensors", "files", "settings")
        return timeless(out), {key: index[key] for key in keys}, index["files"]

    def _half(self, layout):
        """A run that was killed in its last step."""
        out = self.folder / f"half {layout}"
        sync = self.settings(layout, ["train.async_save=false"])
        ended = go(sync, out, Fault("optimizer", 0, STEPS))
        assert "SIGKILL" in ended.error and checkpoint.steps(out) == [6, 3], ended
        return out


def left_behind(patience=5):
    """Processes of drills that outlive them, in words; the servers of ranks.py may stay."""
    me, until = psutil.Process(), time.monotonic() + patience
    while True:
        mine = set(me.children(recursive=True)) - set(me.children())
        marked = {process for process in psutil.process_iter() if _marked(process)}
        left = mine | (marked - {me, *me.children()})
        if not left or time.monotonic() > until:
            return [f"{p.pid}: {' '.join(p.cmdline())}" for p in left if p.is_running()]
        time.sleep(0.1)


def _marked(process):
    with contextlib.suppress(psutil.Error):
        return process.environ().get(MARK) == str(os.getpid())
    return False


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of `size` (as mount says it) at `folder`; a skip where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
