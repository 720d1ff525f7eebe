"""The drills: what is done to a run, and what it has to come to.

A drill is a function of a Ground: it disturbs, lets the run go on, and returns what happened in
words; AssertionError where the run is not what it would have been, or was not refused in one line.
"""

import dataclasses
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ground import EVERY, LAYOUTS, PATIENCE, STEPS, contents, small_disk
from metrics import timeless

from minimtnlg.train import audit, checkpoint

ONE, DP, ZERO, TP, PIPE, ALL = LAYOUTS
SYNC = ["train.async_save=false"]


@dataclasses.dataclass(frozen=True)
class Drill:
    """topic, fault, where: what the table says of it. do(ground) -> what happened."""

    topic: str
    fault: str
    where: str
    layout: str
    do: Callable
    fast: bool = False  # part of `make test`

    @property
    def name(self):
        return f"{self.fault} - {self.where} - {self.layout}".replace(" ", "_").replace("/", ".")


# A rank is killed.


def killed(place, deed="kill", changes=(), calls=None):
    def do(g):
        fault = g.fault(place, deed, calls=calls)
        ended = g.go(fault, changes=changes)
        assert f"rank {fault.rank} of {g.world} was killed by SIGKILL" in ended.error, ended
        return f"rank {fault.rank}, call {fault.call}: {g.resumed(changes=changes)}"

    return do


def killed_resuming(place, damage=None, begins=6):
    """Killed while it goes on from what an earlier kill has left; then it goes on once more."""

    def do(g):
        g.half()
        if damage:
            damage(g)
        ended = g.go(fault := g.fault(place, calls=(1, 1)), resume=True)
        assert f"rank {fault.rank} of {g.world} was killed by SIGKILL" in ended.error, ended
        return f"rank {fault.rank}: {g.resumed(begins)}"

    return do


def killed_again_and_again(g):
    """Every attempt is killed a few steps further on."""
    begun = []
    for step in (4, 2, 2):
        ended = g.go(g.fault("optimizer", calls=(step, step)), resume=bool(begun), changes=SYNC)
        assert "SIGKILL" in ended.error, ended
        begun.append(ended.began)
    return f"from steps {begun}, then {g.resumed()}"


def parent_killed(place):
    """The process that has started the ranks is killed: they end as well."""

    def do(g):
        ended = g.go(g.fault(place, "kill parent"), apart=True)
        assert "SIGKILL" in ended.error, ended
        return g.resumed()

    return do


# Files are damaged while nobody trains.


def damaged(damage, begins=6, **judged):
    """damage(ground) is done to a run that has saved steps 3 and 6, latest is 6."""

    def do(g):
        g.half()
        damage(g)
        before = checkpoint.steps(g.out)
        text = g.resumed(begins, **judged)
        if begins < max(before):
            aside = [path.name for path in (g.out / "checkpoints").glob("damaged-*")]
            assert aside == [f"damaged-step-{max(before)}"], aside
        return text

    return do


def refused(damage, *says):
    """The run can't go on, and nothing is changed; with the files back, it goes on."""

    def do(g):
        g.half()
        sound = contents(g.out)
        damage(g)
        with g.unchanged():
            text = g.refused(g.go(resume=True), *says)
        for path, data in sound.items():
            path.write_bytes(data)
        g.resumed(6)
        return "refused: " + text

    return do


def flip(path, g, low=0, high=None):
    """Flip one bit of a file, of the bytes from low on and below high."""
    data = bytearray(path.read_bytes())
    at = g.random.randrange(low % len(data), high or len(data))
    data[at] ^= 1 << g.random.randrange(8)
    path.write_bytes(data)


def cut(path, g):
    """Leave the beginning of a file."""
    with open(path, "r+b") as file:
        file.truncate(g.random.randrange(1, path.stat().st_size))


def rank_file(deed, *args, steps=(6,)):
    def damage(g):
        for step in steps:
            deed(g.a_file(step), g, *args)

    return damage


def index(deed, *args, steps=(6,)):
    def damage(g):
        for step in steps:
            deed(g.saved(step) / checkpoint.INDEX, g, *args)

    return damage


def beside(name, deed, *args):
    return lambda g: deed(g.out / name, g, *args)


def empty(path, g):
    path.write_bytes(b"")


def remove(path, g):
    path.unlink()


def write(text):
    return lambda path, g: path.write_text(text)


def left_over(g):
    """What a kill leaves while step 6 is written, and while latest is."""
    shutil.copytree(g.saved(3), checkpoint.aside_of(g.out, 6))
    (g.out / ".latest.partial").write_text("step-")
    shutil.rmtree(g.saved(6))
    checkpoint.point(g.out, 3)


def foreign(g):
    """What is no checkpoint, though it lies among them."""
    folder = g.out / "checkpoints"
    (folder / "notes.txt").write_text("mine")
    (folder / "step-six").mkdir()
    (folder / "step-9").mkdir()
    (folder / "step-9" / "notes.txt").write_text("mine")


def earlier_damage(g):
    """A damaged step 6 was set aside before, and now it is damaged again."""
    shutil.copytree(g.saved(3), g.out / "checkpoints" / "damaged-step-6")
    flip(g.a_file(6), g)


def swapped(g):
    """Two ranks' files have each other's names."""
    one, other = (g.saved(6) / checkpoint.file_name(rank) for rank in (0, g.world - 1))
    one.rename(g.out / "file")
    other.rename(one)
    (g.out / "file").rename(other)


def of_another_step(g):
    """A rank's file of step 3 lies in step 6: a sound file, in the wrong place."""
    name = g.a_file(6).name
    shutil.copy(g.saved(3) / name, g.saved(6) / name)


# A rank stalls or is slow.


def stalled(place, deed, says):
    def do(g):
        fault, patience = g.fault(place, deed), [f"train.patience={PATIENCE}"]
        ended = g.go(fault, changes=patience)
        text = g.refused(ended, f"no step for {PATIENCE} s after step", f"rank {fault.rank} {says}")
        assert ended.seconds < PATIENCE + 15, ended
        return f"ended: {text}; {g.resumed()}"

    return do


def slow(g):
    """One rank takes a while for each micro-batch; patience is three seconds, the run takes six."""
    ended = g.go(
        fault := g.fault("forward", "slow", calls=(1, 1)), changes=[f"train.patience={PATIENCE}"]
    )
    assert not ended.error, ended
    assert f"rank {fault.rank} is slow" in ended.told, ended
    g.judge()
    return "named on stderr, the run goes on: " + ended.told.strip()


# The disk is full, the folder taken, the configuration another.


def full_disk(size, changes=()):
    """The run lies on a small disk; with a larger one it goes on."""

    def do(g):
        with small_disk(g.out.parent / "disk", size):
            g.out = g.out.parent / "disk" / "run"
            text = g.refused(g.go(changes=changes), "No space left on device")
            for step in checkpoint.steps(g.out):
                assert not audit.complaints(g.saved(step))
            subprocess.run(["mount", "-o", "remount,size=16m", str(g.out.parent)], check=True)
            return f"ended: {text}; {g.resumed()}"

    return do


def limited(size):
    """No file of one rank may become larger than `size` bytes, from some step on."""

    def do(g):
        fault = g.fault("optimizer", "limit", str(size), calls=(EVERY + 1, EVERY + 1))
        text = g.refused(g.go(fault, changes=SYNC), "can't save step 6", "last good", "step-3")
        return f"ended: {text}; {g.resumed(3)}"

    return do


def taken(resume):
    """A second process wants the folder while the first one is in a step."""

    def do(g):
        flag, ended = Path(g.out.with_suffix(".pause")), []

        def second():
            while not flag.exists():
                time.sleep(0.02)
            ended.append(g.second(resume))
            flag.unlink()

        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        first = g.go(g.fault("forward", "pause", str(flag)))
        thread.join()
        assert not first.error, first
        g.judge()
        return "the second is refused: " + g.refused(ended[0], str(g.out))

    return do


def changed(change, key):
    """The run goes on with another setting: refused, and nothing is lost."""

    def do(g):
        g.half()
        with g.unchanged():
            more = [f"data.path={g.base.other}"] if key == "corpus" else [change]
            ended = g.go(resume=True, changes=more)
        text = g.refused(ended, f"was saved with {key}=")
        g.resumed(6)
        return "refused: " + text

    return do


def relaid(layout):
    """Another layout goes on."""

    def do(g):
        g.half()
        return g.resumed(6, near=True, layout=layout)

    return do


def watched_otherwise(g):
    """What may change: micro-batch (without dropout, which draws by it), watching, saving."""
    g.half()
    more = ["train.micro_batch=2", "train.save_every=1", "train.keep=0", "train.loss_spike=100"]
    return g.resumed(6, near=True, changes=more)


# A signal asks the run to end.


def signalled(signals, place="forward", calls=None, changes=()):
    def do(g):
        ended = g.go(g.fault(place, "signal", signals, calls=calls), changes=changes)
        assert not ended.error, ended
        step, name = ended.result["steps"], ended.result["stopped"]
        assert name in signals and bool(name) == (step < STEPS), ended
        assert checkpoint.step_of(g.out) == step == timeless(g.out)[-1]["step"]
        text = g.resumed(step, changes=changes)
        return f"{name or 'came in the last step'}: saved after step {step}; {text}"

    return do


def read_only(g):
    """Nothing can be written into the folder."""
    g.half()
    with small_disk(g.out.parent / "disk", "16m"):
        g.out = shutil.copytree(g.out, g.out.parent / "disk" / "run")
        again = ["mount", str(g.out.parent), "-o"]
        subprocess.run([*again, "remount,ro"], check=True)
        with g.unchanged():
            text = g.refused(g.go(resume=True), "can't write the run into")
        subprocess.run([*again, "remount,rw"], check=True)
        g.resumed(6)
    return "refused: " + text


KILL, DAMAGE, OTHER = "A rank is killed", "Files are damaged", "The run is another"
STALL, DISK, SIGNAL = "A rank stalls", "The disk is full, the folder taken", "A signal comes"
LATE = (STEPS - 2, STEPS - 1)  # calls of what happens once a step


def _kills():
    def each(place, layout, *, fast=False, where="", **how):
        return Drill(KILL, "SIGKILL", where or place, layout, killed(place, **how), fast)

    yield each("start", ZERO)
    yield each("forward", PIPE, fast=True)
    yield each("forward", ZERO)
    yield each("forward", ONE)
    yield each("exchange between stages", ALL)
    yield each("exchange between stages", PIPE)
    yield each("backward", DP)
    yield each("backward", ALL)
    yield each("gradient reduction", ZERO, fast=True)
    yield each("gradient reduction", PIPE)
    yield each("optimizer", TP)
    yield each("optimizer", PIPE)
    yield each("evaluation", PIPE)
    yield each("logging", DP, calls=LATE)
    yield each("logging", ONE, deed="kill in a line", where="half a line logged")
    yield each("logging", ZERO, deed="kill in a line", where="half a line logged", fast=True)
    yield each("agreeing", PIPE, calls=LATE)
    yield each("copying the state", ZERO)
    for place, layout in (("saving", ALL), ("saved its part", PIPE)):
        yield each(place, layout)
        yield each(place, ZERO, changes=SYNC, where=f"{place}, not asynchronously")
    yield each("completing", ZERO, fast=True)
    yield each("fsync", DP)
    yield each("fsync", ONE, where="fsync")
    yield each("before renaming", ZERO)
    yield each("before renaming", ONE)
    yield each("after renaming", TP, calls=(2, 2))
    yield each("after renaming", ONE, fast=True)
    yield each("moving latest", PIPE)
    yield each("replacing latest", DP, calls=(3, 5))
    yield each("removing an old one", ZERO)
    yield each("after renaming", DP, calls=(4, 4), where="an old one is half removed")
    for place, layout in (("verifying", PIPE), ("loading", ZERO), ("resuming", DP)):
        yield Drill(KILL, "SIGKILL, twice", place, layout, killed_resuming(place))
    yield Drill(
        KILL, "SIGKILL, twice", "setting a damaged one aside", PIPE,
        killed_resuming("setting a damaged one aside", rank_file(flip), 3),
    )  # fmt: skip
    yield Drill(
        KILL, "SIGKILL, twice", "a damaged one is half set aside", DP,
        killed_resuming("moving latest", rank_file(flip), 3),
    )  # fmt: skip
    yield Drill(KILL, "SIGKILL, three times", "optimizer", ZERO, killed_again_and_again)
    for place in ("backward", "saving"):
        yield Drill(KILL, "SIGKILL of the parent", place, DP, parent_killed(place))


def _damages():
    def good(fault, where, layout, damage, begins=3, fast=False, **judged):
        return Drill(DAMAGE, fault, where, layout, damaged(damage, begins, **judged), fast)

    def bad(fault, where, layout, damage, *says):
        return Drill(DAMAGE, fault, where, layout, refused(damage, *says))

    yield good("truncated", "a rank's file", ONE, rank_file(cut), fast=True)
    yield good("truncated", "a rank's file", PIPE, rank_file(cut))
    yield good("a bit flipped", "header of a rank's file", ONE, rank_file(flip, 0, 8))
    yield good("a bit flipped", "names in a rank's file", ONE, rank_file(flip, 8, 2000))
    yield good("a bit flipped", "numbers in a rank's file", ZERO, rank_file(flip, 9000), fast=True)
    yield good("a bit flipped", "last byte of a rank's file", TP, rank_file(flip, -1))
    yield good("emptied", "a rank's file", ONE, rank_file(empty))
    yield good("missing", "a rank's file", PIPE, rank_file(remove))
    yield good("swapped", "two ranks' files", ZERO, swapped)
    yield good("of an older step", "a rank's file", ZERO, of_another_step)
    yield good("missing", "index", ONE, index(remove))
    yield good("emptied", "index", ONE, index(empty))
    yield good("truncated", "index", ONE, index(cut))
    yield good("a bit flipped", "first bytes of the index", ONE, index(flip, 0, 20))
    yield good("a bit flipped", "index", ONE, index(flip), fast=True)
    yield good("a bit flipped", "index", PIPE, index(flip))
    yield good("a bit flipped", "last bytes of the index", ONE, index(flip, -40))
    yield good("a number changed", "index", ONE, index(_one_more_step))
    yield good("damaged once more", "a rank's file", DP, earlier_damage)
    yield good("a bit flipped", "latest", ONE, beside("latest", flip), 6)
    yield good("emptied", "latest", ONE, beside("latest", empty), 6)
    yield good("missing", "latest", ONE, beside("latest", remove), 6)
    yield good("stale, names an older step", "latest", DP, beside("latest", write("step-3")), 6)
    yield good("names what has gone", "latest", ONE, beside("latest", write("step-4")), 6)
    yield good("names another folder", "latest", ONE, beside("latest", write("../..")), 6)
    yield good("left by a kill", "half-written step and latest", ONE, left_over)
    yield good("foreign files", "checkpoints", ONE, foreign, 6)
    yield good("emptied", "config.yaml", ONE, beside("config.yaml", empty), 6)
    yield good("a bit flipped", "tokenizer.json", ONE, beside("tokenizer.json", flip), 6)
    yield good("missing", "metrics.jsonl", ONE, beside("metrics.jsonl", remove), 6, since=7)
    yield good("half a line more", "metrics.jsonl", ONE, _half_a_line, 6)
    sound = "no checkpoint of", "is sound", "is damaged"
    yield bad("a bit flipped", "all ranks' files", PIPE, rank_file(flip, steps=(3, 6)), *sound)
    yield bad("truncated", "all indices", ONE, index(cut, steps=(3, 6)), *sound)
    lines = "metrics.jsonl", "not as it was at step 6"
    yield bad("truncated", "metrics.jsonl", ONE, beside("metrics.jsonl", _cut_early), *lines)
    yield bad("a bit flipped", "metrics.jsonl", DP, beside("metrics.jsonl", flip, 0, 99), *lines)
    config = "files, but no run to go on with"
    yield bad("missing", "config.yaml", ONE, beside("config.yaml", remove), config)


def _one_more_step(path, g):
    """A number that is as good as any other, so that only the checksum tells."""
    path.write_text(path.read_text().replace('"samples": ', '"samples": 1'))


def _half_a_line(g):
    with open(g.out / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "tok')


def _cut_early(path, g):
    """Lines that the checkpoints have seen are lost, the last one in its middle."""
    path.write_bytes(path.read_bytes()[:300])


def _stalls():
    def each(fault, where, layout, *args, fast=False):
        return Drill(STALL, fault, where, layout, stalled(*args), fast)

    yield each("SIGSTOP", "forward", DP, "forward", "suspend", "does not answer", fast=True)
    yield each("SIGSTOP", "optimizer", PIPE, "optimizer", "suspend", "does not answer")
    yield each("endless", "backward", ZERO, "backward", "sleep", "is at ground.py")
    yield each("endless", "evaluation", TP, "evaluation", "sleep", "is at ground.py")
    yield each("endless", "saving", DP, "saving", "sleep", "is at saving.py")
    yield Drill(STALL, "slow", "forward", DP, slow)


def _folders():
    yield Drill(DISK, "full disk", "a later checkpoint", DP, full_disk("1m"), True)
    yield Drill(DISK, "full disk", "the first checkpoint", ONE, full_disk("300k"))
    yield Drill(DISK, "full disk", "the start", DP, full_disk("4k"))
    for layout in (ONE, ZERO):
        yield Drill(DISK, "a file can't grow", "saving", layout, limited(20_000), layout == ONE)
    yield Drill(DISK, "read-only disk", "resuming", DP, read_only)
    for resume in (True, False):
        where = "a second run" + ", resumed" * resume
        yield Drill(DISK, "the folder is taken", where, DP, taken(resume), resume)


def _others():
    for change in ("train.seed=2", "optim.lr=0.02", "train.dtype=float32", "model.hidden=32",
                   "train.ramp=null", "train.steps=9", "corpus="):  # fmt: skip
        key = change.partition("=")[0]
        layout, fast = (DP, False) if key == "train.seed" else (ONE, key == "corpus")
        yield Drill(OTHER, f"another {key}", "resuming", layout, changed(change, key), fast)
    for layout, other in ((ONE, ZERO), (ZERO, PIPE), (PIPE, ONE), (ALL, TP), (TP, ALL)):
        fast = layout == ONE
        yield Drill(OTHER, "another layout", f"{other}", layout, relaid(other), fast)
    yield Drill(OTHER, "what may change", "resuming", TP, watched_otherwise)


def _signals():
    def each(fault, where, layout, *args, fast=False, **how):
        return Drill(SIGNAL, fault, where, layout, signalled(*args, **how), fast)

    yield each("SIGTERM to the parent", "forward", DP, "parent SIGTERM", fast=True)
    yield each("SIGUSR1 to the parent", "optimizer", PIPE, "parent SIGUSR1", "optimizer")
    yield each("SIGUSR1 to a rank", "forward", PIPE, "self SIGUSR1")
    yield each("SIGTERM to a rank", "backward", ZERO, "self SIGTERM", "backward")
    yield each("SIGTERM", "forward", ONE, "self SIGTERM")
    yield each("SIGTERM", "saving", ONE, "self SIGTERM", "saving", fast=True)
    two = "self SIGUSR1, parent SIGTERM"
    yield each("two signals at once", "forward", DP, two)
    yield each("SIGTERM to the parent", "saving", ZERO, "parent SIGTERM", "saving", calls=(1, 2))
    yield each("SIGTERM to a rank", "completing", DP, "self SIGTERM", "completing", changes=SYNC)
    last = dict(calls=(STEPS, STEPS))
    yield each("SIGTERM to a rank", "the last step", DP, "self SIGTERM", "optimizer", **last)


DRILLS = [*_kills(), *_damages(), *_stalls(), *_folders(), *_others(), *_signals()]
assert len({drill.name for drill in DRILLS}) == len(DRILLS)
