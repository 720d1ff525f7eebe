"""Saves a run while it goes on, and finds the last good checkpoint when it starts again.

    begin    every rank copies the boxes that it owns, for which training stops
    write    a thread of each rank writes its copy to disk and reads it back
    commit   when all have: rank 0 writes the index, renames the folder and moves `latest`

begin and commit are calls of all ranks at the same step; nothing is sent while threads write.
"""

import dataclasses
import shutil
import sys
import threading

import torch.distributed as dist

from minimtnlg.errors import InputError
from minimtnlg.parallel.collectives import all_gather
from minimtnlg.train import checkpoint
from minimtnlg.train.disk import Damaged
from minimtnlg.train.settings import refuse_others
from minimtnlg.train.start import gathered, together
from minimtnlg.train.state import pieces_of


class Saver:
    """The checkpoints of one run, as one of its ranks sees them.

    engine: see mini.py. run: the run's folder, a Path. settings: see settings.py.
    """

    def __init__(self, engine, run, settings):
        self.engine, self.run, self.settings = engine, run, settings
        self.train, self.place = engine.config.train, engine.mesh.place
        self.world, self.rank = engine.mesh.layout.world, engine.mesh.layout.rank(*self.place)
        self._thread = None
        self._entry, self._error = None, None

    @property
    def writing(self):
        """Whether this rank's thread is still at work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def pending(self):
        """Whether a checkpoint was begun that is not committed yet; the same on every rank."""
        return self._thread is not None

    def begin(self, progress):
        """Copy this rank's state and start writing it; progress: step, samples, and what else.

        Waits for a save that is still going on. With train.async_save=false it also ends this one.
        """
        self.finish()
        self._progress, self._numbers = progress, self.engine.numbers()
        pieces, self._tensors = pieces_of(
            self.engine.parts(), self.engine.config, self.place
        )  # the copies: from here on training may change what it has
        aside = checkpoint.aside_of(self.run, progress["step"])
        with together(f"can't make {aside}"):
            if self.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)

        def write():
            try:
                self._entry = checkpoint.write(aside, self.rank, pieces)
            except Exception as error:
                self._error = error

        self._entry = self._error = None
        self._thread = threading.Thread(target=write)  # a process that ends waits for it
        self._thread.start()
        if not self.train.async_save:
            self.finish()

    def finish(self):
        """Wait until what was begun is committed. InputError, on every rank, where it can't be."""
        if self.pending:
            self._thread.join()
            self.commit()

    def commit(self):
        """Complete what every rank has written."""
        self._thread = None
        step = self._progress["step"]
        try:
            with together():
                if self._error:
                    raise InputError(f"can't save step {step}: {self._error}{self._last_good()}")
            entries = self._on_first((self._entry, self._tensors))
            with together():
                if entries:
                    self._complete(step, entries)
        except InputError:
            if self.rank == 0:
                shutil.rmtree(checkpoint.aside_of(self.run, step), ignore_errors=True)
            raise

    def _complete(self, step, entries):
        files = {checkpoint.file_name(i): entry for i, (entry, _) in enumerate(entries)}
        tensors = {key: about for _, each in entries for key, about in each.items()}
        parallel = dataclasses.asdict(self.engine.config.parallel)
        index = {"files": files, "tensors": tensors, "parallel": parallel}
        index |= {"settings": self.settings, "numbers": self._numbers, **self._progress}
        try:
            checkpoint.commit(self.run, step, index, self.train.keep)
        except OSError as error:
            raise InputError(f"can't save step {step}: {error}{self._last_good()}") from None

    def _last_good(self):
        there = checkpoint.steps(self.run)
        return f"; the last good checkpoint is step-{there[0]}" if there else ""

    def _on_first(self, value):
        """[value of each rank] on rank 0, None on the others."""
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, values)
        return values

    def restore(self):
        """Load the newest checkpoint that is sound; returns its index, None where none was saved.

        Damaged ones are named on stderr and set aside, since the run will come to their steps
        again. InputError, on every rank, where there are only damaged ones, or where one belongs to
        another run.
        """
        there, damaged = gathered(checkpoint.steps(self.run))[0], []
        for step in there:
            found, complaint = self._sound(step)
            if complaint is None:
                break
            damaged.append((step, complaint))
        else:
            if there:
                raise InputError(f"no checkpoint of {self.run} is sound: {damaged[0][1]}")
            return None
        with together():
            if not found.index.get("numbers"):
                raise InputError(
                    f"{found.folder} holds weights without the optimizer's state: a run can't go "
                    "on from there"
                )
            refuse_others(found.index, self.settings, found.folder)
        with together():
            self.engine.restore(found)
        with together():
            if self.rank == 0:
                self._set_aside(step, damaged)
        return found.index

    def _sound(self, step):
        """(Checkpoint, None), or (None, what is wrong); each rank reads its share of the files."""
        complaint = found = None
        try:
            found = checkpoint.Checkpoint(checkpoint.folder_of(self.run, step))
            found.verify(list(found.files)[self.rank :: self.world])
        except Damaged as error:
            complaint = str(error)
        complaints = [words for words in gathered(complaint) if words]
        return found, complaints[0] if complaints else None

    def _set_aside(self, step, damaged):
        for other, complaint in damaged:
            folder = checkpoint.folder_of(self.run, other)
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            print(
                f"{complaint}; it is now {aside.name}, and the run goes on from step {step}",
                file=sys.stderr,
                flush=True,
            )
        checkpoint.point(self.run, step)


def agreed(flags, world):
    """The largest of each of some numbers over all ranks: what they then do together."""
    return all_gather(flags[None], dist.group.WORLD if world > 1 else None).amax(0).tolist()
