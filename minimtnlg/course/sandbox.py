"""A box in which one submission runs: it may crash, hang, fork or flood, and nobody else notices.

Four kinds of processes stand between the grader and a student's code:

    server    started once for each job of `--jobs`, in a root of its own (`isolation.py`). It
              loads torch and never computes, so that a fork of it is ready in milliseconds. It
              was never told a solution, and can't read one.
    keeper    a fork for each submission. It looks at the clock and the memory, hears what the
              worker says, and ends every process that the submission has started.
    init      a fork of that, process 1 of the submission: it starts the worker and buries the dead
    worker    a fork of that, without rights: the student's code and the checks (`worker.py`)

The worker's words come through a pipe, a line each: a number that the keeper has drawn for it, then
a dict as Python writes it. Whatever else arrives, is printed, written or returned as an exit code
means nothing.
"""

import ast
import contextlib
import json
import os
import pickle
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MOST_WORDS = 2**20  # bytes that a worker may say
PATIENCE = 0.1  # seconds between two looks at memory and processes
LIMITS = {"seconds": 30.0, "memory": 2048, "disk": 256}  # MB; of one submission to one exercise


class Sandbox:
    """A server and the way to it. `open` says, as texts, what this system does not keep out.

    enclosed: False does as on a system without namespaces, for tests. RuntimeError if the server
    doesn't start.
    """

    def __init__(self, enclosed=True):
        self.root = tempfile.mkdtemp(prefix="minimtnlg-grade-")
        os.chmod(self.root, 0o711)  # a worker may have a user id of its own
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        threads = {f"{pool}_NUM_THREADS": "1" for pool in ("OMP", "MKL", "OPENBLAS")}
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        kept |= {"PYTHONPATH": os.path.dirname(package), "CUDA_VISIBLE_DEVICES": ""}
        kept |= {"TMPDIR": self.root}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "minimtnlg.course.sandbox", self.root * enclosed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the interrupt key is for the grader alone
            cwd=os.path.dirname(package),
            env=kept | threads,
        )
        try:
            self.open = json.loads(self.server.stdout.readline() or "null")
        except BaseException:
            self.close()
            raise
        if self.open is None:
            self.close()
            raise RuntimeError("the process that runs submissions can't be started (see above)")

    def run(self, job):
        """What became of a job, a dict that `worker.work` describes, with `limits` as LIMITS.

        {"said": [dict, ...], "ended": why it ended, in words, or "" if it came to its own end};
        with "lost": True if the grader itself failed. OSError or ValueError if the server is gone.
        """
        order = pickle.dumps(job)
        self.server.stdin.write(len(order).to_bytes(8) + order)
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def close(self):
        """End the server and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        self.server.stdin.close()
        self.server.stdout.close()
        shutil.rmtree(self.root, ignore_errors=True)


# The server.


def serve(root):
    """Run jobs that come on stdin until it closes; root: an empty folder, "" for no enclosure."""
    from minimtnlg.course import isolation

    answers = os.fdopen(os.dup(1), "w")
    orders = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    missing = isolation.confine(root) if root else ["anything: namespaces were not asked for"]
    enclosed = not missing
    from minimtnlg.course import worker

    worker.get_ready()
    print(json.dumps(missing), file=answers, flush=True)
    while size := orders.read(8):
        job = pickle.loads(orders.read(int.from_bytes(size)))
        with contextlib.suppress(Exception):  # the worker says what is wrong with the exercise
            worker.load_modules(job["exercise"])
        pid = os.fork()
        if pid == 0:
            orders.close()
            try:
                keep(job, answers, enclosed)
            finally:
                os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            lost = {"said": [], "ended": "the grader's own process failed", "lost": True}
            print(json.dumps(lost), file=answers, flush=True)


# The keeper.


def keep(job, answers, enclosed):
    """Run one job, print what became of it to `answers`, leave no process, and end."""
    from minimtnlg.course import isolation

    os.setpgid(0, 0)
    isolation.adopt_orphans()
    limits, nonce = job["limits"], secrets.token_hex(16)
    if enclosed:
        isolation.enclose(limits["disk"])
        folder = isolation.FOLDER
    else:
        folder = tempfile.mkdtemp(prefix="minimtnlg-submission-")
        with contextlib.suppress(OSError):
            os.chown(folder, isolation.worker(os.getppid()), -1)
    ear, mouth = os.pipe()
    slot = os.getppid()
    first = os.fork()
    if first == 0:
        try:
            answers.close()
            os.close(ear)
            init(job, mouth, nonce, folder, slot, enclosed)
        finally:
            os._exit(1)
    os.close(mouth)
    words, ended = listen(ear, limits, None if enclosed else folder)
    end(first)
    if not enclosed:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"said": heard(words, nonce), "ended": ended}), file=answers, flush=True)
    os._exit(0)


def init(job, mouth, nonce, folder, slot, enclosed):
    """Process 1 of the submission: start the worker, bury the dead, end when the worker ends."""
    from minimtnlg.course import isolation, worker

    if enclosed:
        isolation.own_processes()
    os.setsid()
    pid = os.fork()
    if pid == 0:
        try:
            limits = job["limits"]
            most = (limits[name] for name in ("memory", "seconds", "disk"))
            isolation.give_up(*most, slot, enclosed)
            worker.work(job, mouth, nonce, folder, enclosed)
        finally:
            os._exit(1)
    os.close(mouth)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    while os.waitpid(-1, 0)[0] != pid:
        pass
    os._exit(0)  # and with it, in a list of its own, all others


def listen(ear, limits, folder):
    """(what the worker said, why it was ended or "") when it has ended or broken a limit.

    ear     descriptor of the pipe that the worker's words come through
    limits  as LIMITS
    folder  where the submission writes, if nothing else limits how much; None: something does
    """
    words, until = b"", time.monotonic() + limits["seconds"]
    base = memory_of(os.getpid())  # what each fork shares with this process
    look, server = time.monotonic(), os.getppid()
    while True:
        now = time.monotonic()
        if now > until:
            return words, f"it was not done after {limits['seconds']:g} s"
        if now >= look:
            look = now + PATIENCE
            if os.getppid() != server:
                return words, "the grader has ended"
            pids = below(os.getpid())
            used = sum(max(0, memory_of(pid) - base) for pid in pids)
            if used > limits["memory"]:
                return words, f"it took more than {limits['memory']} MB of memory"
            if folder and size_of(folder) > limits["disk"]:
                return words, f"it wrote more than {limits['disk']} MB of files"
            if len(pids) > 200:
                return words, f"it started {len(pids)} processes"
        if select.select([ear], [], [], max(0, min(until, look) - now))[0]:
            more = os.read(ear, 65536)
            words += more
            if not more:
                return words, ""
            if len(words) > MOST_WORDS:
                return words[:MOST_WORDS], "it flooded the grader's pipe"


def end(first):
    """Kill all processes of the submission, and wait until they are gone."""
    while True:
        for pid in below(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(first, signal.SIGKILL)  # where there is no /proc
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def heard(words, nonce):
    """The worker's lines among the words, a dict each."""
    said = []
    for line in words.split(b"\n"):
        if line.startswith(nonce.encode()):
            with contextlib.suppress(ValueError, SyntaxError):
                said.append(ast.literal_eval(line[len(nonce) :].decode()))
    return said


def below(pid):
    """Process ids of the descendants of `pid`; none where there is no /proc."""
    children = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, ())]
        found += new
    return found


def memory_of(pid):
    """MB of a process that no file holds."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def size_of(folder):
    """MB of the files in a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total / 2**20


if __name__ == "__main__":
    serve(sys.argv[1])
