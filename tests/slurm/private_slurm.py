"""A private Slurm on this machine: munge, a controller and two nodes, nothing outside one folder.

The nodes node1 and node2 have 16 CPUs, 128 GB and eight GPUs each. There is no such hardware, and
the GPUs are character devices that nobody opens: Slurm only counts. Nodes have no names in the
network's sense; Slurm knows their address, 127.0.0.1, as `scontrol show node` tells.
"""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
# No cgroups and no accounting: a container has neither.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=2
# CPUs and memory as said below, whatever the machine has.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=16 RealMemory=131072 Gres=gpu:8
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]},{ports[2]}]
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing():
    """Why no Slurm can be started here; "" where one can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if absent:
        return f"no {', '.join(absent)} here; on Debian: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "the daemons of a private Slurm and its device files need root"
    return ""


@contextlib.contextmanager
def start(folder):
    """Start the cluster in the empty `folder`; give the environment in which its commands work."""
    environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": _path()}
    _configure(folder)
    with contextlib.ExitStack() as running:

        def daemon(*command):
            running.callback(_stop, _started(command, environment, folder / f"{command[0]}.err"))

        daemon(
            "munged", "-F", "--force", f"--key-file={folder}/munge.key", "--num-threads=2",
            f"--socket={folder}/munge.sock", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        _wait(lambda: (folder / "munge.sock").exists(), "munged", folder)
        daemon("slurmctld", "-D", "-i")
        daemon("slurmd", "-D", "-N", "node1")
        daemon("slurmd", "-D", "-N", "node2")
        states = ["sinfo", "--noheader", "--Node", "--format=%T"]
        _wait(lambda: _output(states, environment) == ["idle"] * 2, "the nodes", folder)
        try:
            yield environment
        finally:  # a job outlives the daemons
            _output(["scancel", "--user=root"], environment)
            _wait(lambda: not _output(["squeue", "--noheader"], environment), "the end", folder)


def _configure(folder):
    folder.chmod(0o755)  # munge refuses a key in a folder that others may write to
    for name in ("state", "spool.node1", "spool.node2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    for i in range(8):  # Slurm counts devices, not plain files; each of these is a /dev/null
        os.mknod(folder / f"gpu{i}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={folder}/gpu[0-7]\n")
    host = socket.gethostname().partition(".")[0]
    text = CONF.format(host=host, folder=folder, ports=_free_ports(3))
    (folder / "slurm.conf").write_text(text)


def _free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _path():
    """PATH with the folders of system daemons, where Debian keeps them."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _started(command, environment, errors):
    with open(errors, "a") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def _stop(daemon):
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _output(command, environment):
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()


def _wait(ready, what, folder, seconds=60):
    for _ in range(seconds * 10):
        if ready():
            return
        time.sleep(0.1)
    told = "".join(path.read_text()[-1000:] for path in sorted(folder.glob("*.err")))
    raise TimeoutError(f"{what} of the private Slurm did not come in {seconds} s:\n{told}")
