"""A job as its caller sees it: which ranks have ended, who failed first, where the others wait.

All of it is read from the folder of the job; _rank.py lists its files.
"""

import os
import pickle
import re
import signal
import sys
import time
import traceback

from minimtnlg import _rank

_ECHO = re.compile(r"(?i)connection (closed|reset|refused)|broken pipe|connectFullMesh")


class Job:
    """The ranks 0 to world - 1 of one job. A failure is a dict, the arguments of a RankError."""

    def __init__(self, folder, world):
        self.folder, self.world = folder, world
        for rank in range(world):
            self.open(rank, "out", "w").close()
            self.open(rank, "err", "w").close()
        self.errors = [self.open(rank, "err") for rank in range(world)]

    def open(self, rank, name, mode="r"):
        """A file of a rank, by the last part of its name, as text."""
        path = os.path.join(self.folder, f"{rank}.{name}")
        return open(path, mode, encoding="utf-8", errors="replace", newline="")

    def load(self, rank, name):
        """What a rank has pickled into one of its files."""
        with open(os.path.join(self.folder, f"{rank}.{name}"), "rb") as file:
            return pickle.load(file)

    def having(self, *names):
        """The ranks that have written one of these files."""
        files = set(os.listdir(self.folder))
        return [r for r in range(self.world) if any(f"{r}.{name}" in files for name in names)]

    def waiting(self):
        """The ranks that have not ended in any way."""
        ended = self.having("value", "error", "exit")
        return [rank for rank in range(self.world) if rank not in ended]

    def wait(self, alive, timeout):
        """Waits until all have ended or one has failed; returns None or the failure."""
        deadline, pause = time.monotonic() + timeout, 0.002
        while waiting := self.waiting():
            self.forward()
            if len(waiting) + len(self.having("value")) < self.world:
                break
            if not alive():
                return {"text": "the process that starts the ranks was killed; run again"}
            if time.monotonic() > deadline:
                return self.late(waiting, timeout)
            time.sleep(pause)
            pause = min(1.1 * pause, 0.05)
        return self.failure() if len(self.having("value")) < self.world else None

    def failure(self):
        """What the rank that failed first says, once those that fail with it had time to."""
        time.sleep(0.1)
        failures, patience = self.failures(), time.monotonic() + 1
        while all(f["echo"] for f in failures) and time.monotonic() < patience and self.waiting():
            time.sleep(0.02)
            failures = self.failures()
        first = min(failures, key=lambda f: (f["echo"], f["time"]))
        text = f"rank {first['rank']} of {self.world} {first['what']}"
        if others := [f["rank"] for f in failures if f is not first and not f["echo"]]:
            text += f" ({names(others)} failed too)"
        if first["echo"] and (finished := self.having("value")):
            text += f" ({names(finished)} had returned)"
        lines = cells(first["text"])
        told = {key: first[key] for key in ("rank", "type", "message")}
        return {"text": f"{text}\n{lines}".rstrip(), "traceback": lines, **told}

    def failures(self):
        """All failures so far. An "echo" is a lost connection: another rank has failed before."""
        found = []
        for rank in self.having("error"):
            told = self.load(rank, "error")
            what = f"raised {told['type']}: {told['message']}".rstrip(": ")
            if told["type"] == "SystemExit":
                what = f"left by sys.exit({told['message']})"
            echo = _ECHO.search(told["message"])
            found.append(told | {"rank": rank, "what": what, "echo": bool(echo)})
        for rank in set(self.having("exit")) - set(self.having("value", "error")):
            path = os.path.join(self.folder, f"{rank}.exit")
            code, when = int(open(path).read()), os.path.getmtime(path)
            what = f"ended before its function returned, with exit code {code}"
            if code < 0:
                name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
                what = f"was killed by {name}"
                what += " (out of memory?)" if -code == signal.SIGKILL else ""
            told = {"type": "", "message": what, "text": "", "time": when}
            found.append(told | {"rank": rank, "what": what, "echo": False})
        return found

    def late(self, waiting, timeout):
        """The failure at a timeout: which ranks had finished, and where the others are."""
        text = f"after {timeout:g} s {len(waiting)} of {self.world} ranks had not returned"
        if finished := self.having("value"):
            text += f"; {names(finished)} had finished"
        lines = self.where(waiting, patience=2)
        told = {"type": "TimeoutError", "message": text, "traceback": lines}
        return {"text": f"{text}\n{lines}", **told}

    def where(self, ranks, patience):
        """Asks ranks where they are; waits `patience` seconds at most. Equal answers are one."""
        _rank.write(self.folder, "where", b"")
        until = time.monotonic() + patience
        while set(ranks) - set(self.having("where")) and time.monotonic() < until:
            time.sleep(0.02)
        said = {}
        for rank in ranks:
            call, lines = self.answer(rank)
            said.setdefault(f" in {call}\n{lines}" if call else f" at\n{lines}", []).append(rank)
        verb = {True: "is", False: "are"}
        text = "".join(f"{names(rs)} {verb[len(rs) == 1]}{where}" for where, rs in said.items())
        return cells(text).rstrip()

    def answer(self, rank):
        """(call, lines) of a rank: what it says itself, or what is known of it without it."""
        if rank in self.having("where"):
            call, lines = self.load(rank, "where")
            start = "init_process_group" in call and "  the start: it waits for other ranks\n"
            return call, lines or start or "  no line of the user\n"
        if rank in self.having("stopped"):
            return "", "  no line: a signal has suspended it\n"
        with self.open(rank, "dump") as file:  # the last thread in the list is the main one
            main = file.read().rpartition("(most recent call first)")[2]
        stack = re.findall(r'File "(.*)", line (\d+) in (.*)', main)
        stack = [(traceback.FrameSummary(file, int(line), name), {}) for file, line, name in stack]
        call, lines = _rank.place(stack)
        return call, lines or "  no line: it does not answer\n"

    def forward(self):
        """Passes on what the ranks have written to stderr since the last time."""
        if text := "".join(file.read() for file in self.errors):
            sys.stderr.write(text)
            sys.stderr.flush()

    def show(self):
        """Prints what the ranks have printed, rank by rank, after the rest of their stderr."""
        self.forward()
        texts = []
        for rank, error in enumerate(self.errors):
            error.close()
            with self.open(rank, "out") as file:
                texts.append(file.read())
        ends = ["" if text.endswith("\n") or not text else "\n" for text in texts]
        sys.stdout.write("".join(part for pair in zip(texts, ends, strict=True) for part in pair))
        sys.stdout.flush()


def names(ranks):
    """[0, 2] -> "ranks 0, 2"."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def cells(text):
    """The text with cells named as Jupyter names them: Cell In[3], not a file of the kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    label = getattr(getattr(shell, "compile", None), "format_code_name", lambda file: None)
    return re.sub(r'File "([^"]+)"', lambda m: " ".join(label(m[1]) or [m[0]]), text)
