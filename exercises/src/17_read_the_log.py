# ---
# mark: 2
# minutes: 25
# help: half
# needs: [rank, node, collective, process group]
# draws:
#   LAUNCHER: [srun, torchrun]
# ---

# %% [markdown]
# # Who broke the job?
#
# A job has ended badly, and its log holds what all ranks wrote, mixed. Most of it comes from ranks
# that did nothing wrong. Find the one that broke the job and the line that tells why.
#
# `log` is a list of lines in the order of the file. A line has `seconds` (by the clock of its
# node), `node`, `rank` and `text`. Ranks wrote them, but for lines that begin with `{{LAUNCHER}}: error`:
# these are the launcher's, one about each rank that has ended. Three things can have happened:
#
# - A rank **raised** an error of its own. The others then lose the connection to it, or are ended.
# - A rank was **killed** by the system, with signal 9, and had no time to say anything. The launcher
#   reports exit code {{KILLED}}, which is {{WHY}}. Ranks that are left over the launcher ends itself,
#   with signal 15: exit code {{ENDED}}. (All of them obey. Where one does not, a launcher kills it in the end.)
# - A rank **hangs**. All others wait for it until their watchdogs end them, each with the number of
#   the collective that did not come to its end. Who hangs has no such line, or is stuck in an
#   earlier collective than all others.
#
# Clocks of different nodes are not equal, and lines can reach the file late.
#
# **Target:** `culprit` returns `(rank, text)`: the rank that broke the job, and its own error, or
# the launcher's line about the kill, or the last line that the rank which hangs wrote itself (`""`
# if it wrote none; of a rank that is stuck earlier this is its watchdog's line). For any order of the
# lines and any clocks.

# %% tags=["target"]
WHY, KILLED, ENDED, ABORTED = {
    "srun": ("128 + 9", 137, 143, 134), "torchrun": ("the signal with a minus", -9, -15, -6),
}[LAUNCHER]  # fmt: skip

# %%
import re
from typing import NamedTuple


class Line(NamedTuple):
    seconds: float  # by the clock of the node
    node: str
    rank: int
    text: str


def lost_connection(text):
    """Whether the line says no more than that another rank is gone."""
    return "Connection closed by peer" in text or "Connection reset by peer" in text


def exit_code(text):
    """The exit code that the launcher reports; None in all other lines."""
    ended = rf"{LAUNCHER}: error: \w+: task \d+: Exited with exit code (-?\d+)"
    found = re.fullmatch(ended, text)
    return int(found[1]) if found else None


def waited_in(text):
    """The number of the collective in a watchdog's line; None in other lines."""
    found = re.search(r"collective operation timeout: WorkNCCL\(SeqNum=(\d+)", text)
    return int(found[1]) if found else None


def raised(text):
    """Whether the line is the last one of a traceback: the name of an error, then what it says."""
    return re.match(r"\w+Error: ", text) is not None


# %% tags=["stub"]
def culprit(log, n):
    """(rank, text): which of the ranks 0 to n - 1 broke the job, and the line that tells why."""
    errors = [line for line in log if raised(line.text)]  # is each of them a cause?
    codes = {line.rank: exit_code(line.text) for line in log if exit_code(line.text) is not None}
    raise NotImplementedError(f"{len(errors)} errors, {len(codes)} of {n} ranks ended: who began it?")


# %% [markdown] tags=["hint"]
# Do not ask which line comes first. Ask of each line whether it is a cause or a consequence. A lost
# connection is a consequence even if it is a `RuntimeError`, and so is exit code 1 or {{ENDED}}.

# %% [markdown] tags=["hint"]
# Look through the whole log three times, once for each case. An error that is raised and is no lost
# connection ends the search. So does exit code {{KILLED}}. Only when there is neither, nobody failed, and
# somebody hangs.

# %% [markdown] tags=["hint"]
# For the third case make a dict from each rank to the number it waited in, and give all ranks of
# `range(n)` without such a line the number -1. The culprit has the smallest. What it wrote last:
# the lines of one rank come from one node, so their `seconds` can be compared. Leave out what the
# launcher wrote.

# %% [markdown] tags=["oral"]
# **Q.** In a job that hangs, 15 of 16 ranks write that an all-reduce has timed out. Why is none of them to
# blame, and what would you look at on the sixteenth?
#
# **A.** They did what they should and waited. The sixteenth never came to that all-reduce: look at its last
# line, at what its process does now (a stack trace, the load of its GPU), and at its node.
#
# **Q.** Why don't you sort all lines by their seconds and take the first that is bad?
#
# **A.** Clocks of nodes differ by more than the time in which a job falls apart, so a consequence on one
# node may bear an earlier time than its cause on another. And a rank that is killed or hangs has no line
# of its own that is bad.


# %% tags=["solution"]
def culprit(log, n):
    for line in log:
        if raised(line.text) and not lost_connection(line.text):
            return line.rank, line.text
    for line in log:
        if exit_code(line.text) == {{KILLED}}:
            return line.rank, line.text
    reached = dict.fromkeys(range(n), -1)
    for line in log:
        if waited_in(line.text) is not None:
            reached[line.rank] = waited_in(line.text)
    silent = min(reached, key=reached.get)
    own = [line for line in log if line.rank == silent and exit_code(line.text) is None]
    last = max(own, key=lambda line: line.seconds, default=None)
    return silent, last.text if last else ""


# %% tags=["check"]
import random

from minimtnlg.course.check import Feedback, expect

_CAUSES = [
    "ValueError: sample 81920 has 2047 tokens, not 2048",
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB",
    "FileNotFoundError: [Errno 2] No such file or directory: '/data/corpus/wikipedia.bin'",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
]
_LOST = [
    "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:4711",
    "DistBackendError: NCCL error: remote process exited or there was a network error. "
    "Connection reset by peer",
    "[E pair.cc:547] Connection closed by peer [10.0.0.7]:4711",
]


def _timeout(number, operation="ALLREDUCE"):
    return (
        f"Watchdog caught collective operation timeout: WorkNCCL(SeqNum={number}, "
        f"OpType={operation}) ran for 600034 milliseconds before timing out."
    )


def _end(rank, code, size=4):
    return f"{LAUNCHER}: error: node{rank // size}: task {rank}: Exited with exit code {code}"


def _job(draw, kind, n=8, size=4):
    """(log in the order of time, culprit, its line): a job that ended in the way `kind`."""
    guilty, start = draw.randrange(n), draw.uniform(0, 1e4)
    lines = [(start + draw.random(), r, f"step {draw.choice((41, 42))}") for r in range(n)]
    others = [r for r in range(n) if r != guilty]

    def say(seconds, rank, text):
        lines.append((start + seconds, rank, text))

    if kind == "raised":
        reason = draw.choice(_CAUSES)
        say(2, guilty, reason)
        if draw.random() < 0.5:  # closing down, it loses its peers as well
            say(2.1, guilty, draw.choice(_LOST))
        say(3, guilty, _end(guilty, 1))
    elif kind == "killed":
        reason = _end(guilty, KILLED)
        say(3, guilty, reason)
    else:
        number, reason = draw.randrange(100, 5000), "loading the batch of step 43"
        early = kind == "stuck early"
        if early:
            reason = _timeout(number - 1)
            say(602, guilty, reason)
            say(603, guilty, _end(guilty, ABORTED))
        else:
            say(1.5, guilty, reason)
            say(605, guilty, _end(guilty, ENDED))
        for rank in others:
            say(602 + draw.random(), rank, _timeout(number + draw.choice((0, 0, 1))))
            say(604, rank, _end(rank, ABORTED))
    if kind in ("raised", "killed"):
        for rank in others:
            lost = draw.random() < 0.7
            if lost:
                say(2.5 + draw.random(), rank, draw.choice(_LOST))
            say(4 + draw.random(), rank, _end(rank, 1 if lost else ENDED))
    log = [Line(s, f"node{r // size}", r, text) for s, r, text in sorted(lines)]
    return log, guilty, reason


def _shuffled(draw, log):
    """The same log with the clocks of nodes apart, lines of different ranks in any order."""
    off = {node: draw.uniform(-90, 90) for node in {line.node for line in log}}
    log = [line._replace(seconds=line.seconds + off[line.node]) for line in log]
    return draw.sample(log, len(log))


_OWN = {  # what the line is that tells why
    "raised": "the right rank; now its own error, the whole text of that line",
    "killed": "the right rank; now the launcher's line about it, the whole text",
    "hangs": "the right rank; now the last line that it wrote itself. The launcher's lines are not its own, "
    "and for lines of one rank `seconds` tell the order, the place in the file does not",
    "stuck early": "the right rank; it wrote its watchdog's line itself, and nothing after that",
    "silent": "the right rank; it wrote nothing, so there is no text",
}


def _check(student, log, n, guilty, reason, kind, words, look_at):
    try:
        rank, text = student(list(log), n)
    except (TypeError, ValueError) as error:
        raise Feedback(f"what culprit returns for {words}", "(rank, text)", repr(error)) from None
    tail = "; ".join(f"rank {line.rank}: {line.text[:40]}" for line in log[-6:])
    what = f"the rank that broke {words} (the log ends: {tail})"
    expect(rank, guilty, what, look_at)
    expect(text, reason, f"the line that tells why, of rank {guilty}, in {words}", _OWN[kind])


def _many(student, kind, words, look_at, shuffle=False, jobs=30):
    draw = random.Random(17)
    for _ in range(jobs):
        n = draw.choice((2, 4, 8, 16))
        log, guilty, reason = _job(draw, kind, n)
        log = _shuffled(draw, log) if shuffle else log
        _check(student, log, n, guilty, reason, kind, words, look_at)


def one_raised(student):
    """A rank raises an error, and the others lose it"""
    log = [
        Line(10.0, "node0", 0, "step 42"),
        Line(10.0, "node1", 3, "step 42"),
        Line(11.2, "node0", 1, _LOST[0]),
        Line(11.3, "node1", 3, _CAUSES[0]),
        Line(11.4, "node0", 0, _LOST[0]),
        Line(11.5, "node0", 1, _end(1, 1, size=2)),
        Line(11.6, "node1", 3, _end(3, 1, size=2)),
        Line(11.7, "node1", 2, _end(2, ENDED, size=2)),
        Line(11.8, "node0", 0, _end(0, 1, size=2)),
    ]
    look_at = "a lost connection is a consequence, whatever the error is called"
    _check(student, log, 4, 3, _CAUSES[0], "raised", "a job in which one rank raised an error", look_at)


def one_killed(student):
    """A rank is killed and says nothing"""
    look_at = "no rank has an error of its own; what does the launcher say?"
    _many(student, "killed", "a job in which a rank was killed", look_at)


def one_hangs(student):
    """A rank hangs, and all others are ended by their watchdogs"""
    look_at = "who waits is not guilty: which of the n ranks has no watchdog's line?"
    _many(student, "hangs", "a job that hung", look_at)


# %% tags=["hidden"]
def clocks_and_order(student):
    """Clocks of nodes are apart, and lines come late"""
    look_at = "neither the place in the file nor clocks of different nodes tell what came first"
    _many(student, "raised", "a job in which one rank raised an error", look_at, shuffle=True)
    _many(student, "killed", "a job in which a rank was killed", look_at, shuffle=True)
    _many(student, "hangs", "a job that hung", look_at, shuffle=True)


def stuck_in_an_earlier_collective(student):
    """All ranks have a watchdog's line; one is stuck in an earlier collective"""
    look_at = "compare the numbers of the collectives"
    _many(student, "stuck early", "a job that hung", look_at, shuffle=True)


def never_said_a_word(student):
    """The rank that hangs has no line at all"""
    log = [Line(602.0 + r, f"node{r // 2}", r, _timeout(7)) for r in (0, 1, 3)]
    look_at = "ranks are 0 to n - 1, also those that are not in the log"
    _check(student, log, 4, 2, "", "silent", "a job that hung at its start", look_at)


# %% tags=["wrong"]
def first_line_with_an_error(log, n):
    """Caught by: one_raised. The first complaint in the file is taken for the cause."""
    line = next((line for line in log if "Error" in line.text or "rror" in line.text), log[0])
    return line.rank, line.text


def first_that_ended(log, n):
    """Caught by: one_raised. Whoever the launcher mentions first."""
    line = next(line for line in log if exit_code(line.text) is not None)
    return line.rank, line.text


def any_raised_error(log, n):
    """Caught by: one_raised. Any RuntimeError is a cause, lost connections too."""
    own = [line for line in log if raised(line.text)]
    return (own[0].rank, own[0].text) if own else culprit(log, n)


def earliest_by_the_clock(log, n):
    """Caught by: clocks_and_order. Sorted by time, as if all nodes had one clock."""
    bad = [line for line in log if raised(line.text) or exit_code(line.text) or waited_in(line.text)]
    if any(waited_in(line.text) for line in bad):
        return culprit(log, n)
    line = min(bad, key=lambda line: line.seconds)
    return line.rank, line.text


def any_signal(log, n):
    """Caught by: one_killed. Signal 15 is taken for a cause as well; the launcher sent it."""
    for line in log:
        if raised(line.text) and not lost_connection(line.text):
            return line.rank, line.text
    by_signal = [line for line in log if exit_code(line.text) in (KILLED, ENDED)]
    return (by_signal[-1].rank, by_signal[-1].text) if by_signal else culprit(log, n)


def first_watchdog(log, n):
    """Caught by: one_hangs. The rank that complains first about waiting is blamed."""
    waits = [line for line in log if waited_in(line.text)]
    return (waits[0].rank, waits[0].text) if waits else culprit(log, n)


def only_ranks_with_a_watchdog(log, n):
    """Caught by: one_hangs. The smallest number among those that wait; silence is overlooked."""
    waits = [line for line in log if waited_in(line.text)]
    if not waits:
        return culprit(log, n)
    line = min(waits, key=lambda line: waited_in(line.text))
    return line.rank, line.text


def silence_alone(log, n):
    """Caught by: stuck_in_an_earlier_collective. Somebody without a watchdog's line is expected."""
    waits = {line.rank for line in log if waited_in(line.text)}
    if not waits or len(waits) < n:
        return culprit(log, n)
    return 0, ""


def ranks_of_the_log_alone(log, n):
    """Caught by: never_said_a_word. A rank that wrote nothing is not thought of."""
    there = sorted({line.rank for line in log})
    rank, text = culprit(log, n)
    return (rank, text) if rank in there else (there[0], log[0].text)


def whatever_is_last(log, n):
    """Caught by: one_hangs. The launcher's line is taken for the rank's own last word."""
    rank, text = culprit(log, n)
    if any(raised(line.text) or exit_code(line.text) == KILLED for line in log):
        return rank, text
    own = [line for line in log if line.rank == rank]
    return rank, max(own, key=lambda line: line.seconds).text if own else ""


def last_line_of_the_file(log, n):
    """Caught by: clocks_and_order. The rank's last line in the file, not by its clock."""
    rank, text = culprit(log, n)
    if any(raised(line.text) or exit_code(line.text) == KILLED for line in log):
        return rank, text
    own = [line.text for line in log if line.rank == rank and exit_code(line.text) is None]
    return rank, own[-1] if own else ""
