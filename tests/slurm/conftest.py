"""The private cluster, started once, and a corpus for its jobs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimtnlg.data.prepare import prepare

sys.path.insert(0, str(Path(__file__).parent))

import private_slurm  # noqa: E402


class Slurm:
    """Submits scripts to a private cluster and reads what became of them."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment

    def call(self, *command, **variables):
        """(exit status, output) of one of Slurm's commands, in the folder of the logs."""
        done = subprocess.run(
            command, env=self.environment | variables, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout.strip()

    def submit(self, script, *options, **variables):
        """Number of the new job that the text `script` makes."""
        path = self.folder / "job.sh"
        path.write_text(script)
        status, job = self.call("sbatch", "--parsable", *options, str(path), **variables)
        assert status == 0, job
        return job

    def facts(self, job):
        """{JobState: ..., ExitCode: ..., Restarts: ...} and more, as Slurm tells them."""
        words = self.call("scontrol", "--oneliner", "show", "job", job)[1].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, job):
        """What the job has written until now."""
        [path] = self.folder.glob(f"*-{job}.log")
        return path.read_text()

    def wait(self, job, until, seconds=240):
        """Facts of `job` as soon as until(facts) holds."""
        for _ in range(seconds * 10):
            if until(facts := self.facts(job)):
                return facts
            time.sleep(0.1)
        raise TimeoutError(f"job {job} after {seconds} s: {facts}\n{self.log(job)}")

    def outcome(self, job):
        """(state, exit code) of `job` at its end."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        facts = self.wait(job, lambda facts: facts["JobState"] in ended)
        return facts["JobState"], int(facts["ExitCode"].split(":")[0])


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A Slurm of two nodes with eight GPUs each, that nobody else uses."""
    if reason := private_slurm.missing():
        pytest.skip(reason)
    # gloo looks for the name of this machine in the network, which may not have it.
    with private_slurm.start(tmp_path_factory.mktemp("slurm")) as environment:
        yield Slurm(tmp_path_factory.mktemp("jobs"), environment | {"GLOO_SOCKET_IFNAME": "lo"})


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    text = tmp_path_factory.mktemp("text")
    for i in range(10):
        (text / f"{i}.txt").write_text("a rank waits for its neighbour and goes on " * 200)
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    prepare(out, [str(text)], vocab=300, progress=False)
    return out
