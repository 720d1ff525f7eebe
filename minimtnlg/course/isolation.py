"""What the operating system keeps a submission from: its own file system, processes and network.

Three steps, each by a process that is trusted, before any of the student's code runs:

    confine()   once, by the server: a new root that holds the system, Python and minimtnlg, all
                read-only, and nothing else; no home, no other submission, no exercise's source
    enclose()   by the keeper of one submission: process ids, network and memory of its own, and an
                empty folder of limited size
    give_up()   by the worker, for good: root's rights and the right to gain any, limits on memory,
                files and processes

Where the system refuses a step (macOS, many containers), it is left out, and `confine` says which:
then limits hold, but a submission sees the files and the network that its user sees.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import resource
import socket
import struct
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc")
DEVICES = ("null", "zero", "full", "random", "urandom")
MOST_PROCESSES = 256  # threads count; five ranks have about fifty
MEGABYTE = 2**20
FOLDER = "/submission"  # in the new root: the one place where files can be written

OPEN = (
    "submissions see this machine's files and network, and start no programs ({}); "
    "a container keeps them in"
)

NEW_USER, NEW_FILES, NEW_PIDS = 0x10000000, 0x00020000, 0x20000000
NEW_NETWORK, NEW_IPC = 0x40000000, 0x08000000
_READ_ONLY, _NO_SETUID, _NO_DEVICES = 1, 2, 4
_BIND, _ALL_BELOW, _PRIVATE = 4096, 16384, 1 << 18


def confine(root):
    """Make `root`, an empty folder, the root of this process. Returns what is not kept out: texts.

    As root, or as a user who may have namespaces of his own (most desktops and servers).
    """
    if not sys.platform.startswith("linux"):
        return [OPEN.format("only Linux has what it takes")]
    pid = os.fork()  # tries it first: what goes wrong half-way can't be taken back
    if pid == 0:
        code = 255
        try:
            _build(root)
            enclose(8)
            code = 0
        except OSError as error:
            code = error.errno
        finally:
            os._exit(code)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        return [OPEN.format(f"no namespaces for this user here: {os.strerror(code)}")]
    _build(root)
    return []


def _build(root):
    """A mount namespace of this process, and in it the new root."""
    user, group = os.getuid(), os.getgid()
    if user:
        _call("unshare", NEW_USER | NEW_FILES)
        _say("/proc/self/setgroups", "deny")
        _say("/proc/self/uid_map", f"{user} {user} 1")
        _say("/proc/self/gid_map", f"{group} {group} 1")
    else:
        _call("unshare", NEW_FILES)
    _mount("none", "/", None, _PRIVATE | _ALL_BELOW)
    _mount("tmpfs", root, "tmpfs", _NO_SETUID, "mode=755")
    _furnish(root)
    os.chroot(root)
    os.chdir("/")
    os.environ["TMPDIR"] = FOLDER


def _furnish(root):
    """Put into the new root what Python and torch need."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, str(PACKAGE)]
    for path in dict.fromkeys([*SYSTEM, *python, *map(os.path.realpath, python)]):
        inside = root + path
        if os.path.lexists(inside) or not os.path.lexists(path):
            continue
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
            continue
        os.mkdir(inside)
        _mount(path, inside, None, _BIND | _ALL_BELOW)
        _lock(inside)
    os.makedirs(f"{root}/dev/shm")
    for name in DEVICES:
        open(f"{root}/dev/{name}", "w").close()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")
    os.mkdir(root + FOLDER)
    if not os.path.lexists(root + "/tmp"):  # else minimtnlg lies there
        os.symlink(FOLDER, root + "/tmp")
    os.mkdir(f"{root}/proc")
    _mount("/proc", f"{root}/proc", None, _BIND | _ALL_BELOW)
    _lock(root, below=False)
    _mount("tmpfs", root + FOLDER, "tmpfs", _NO_SETUID | _NO_DEVICES, "mode=1777,size=8m")


def enclose(megabytes):
    """Give this process and its children a network of their own that is a loopback device, and an
    empty folder and /dev/shm of `megabytes` together; the next child is process 1 of a new list.
    """
    _call("unshare", NEW_FILES | NEW_PIDS | NEW_NETWORK | NEW_IPC)
    with socket.socket() as any_socket:  # the ranks talk over the loopback device: switch it on
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))
    for path, size in ((FOLDER, 3 * megabytes // 4), ("/dev/shm", megabytes // 4)):
        _mount("tmpfs", path, "tmpfs", _NO_SETUID | _NO_DEVICES, f"mode=1777,size={size}m")


def own_processes():
    """Show in /proc the processes of this submission alone; by process 1 of the new list."""
    _call("unshare", NEW_FILES)  # the keeper goes on to see all
    with contextlib.suppress(OSError):  # a container that masks its /proc: then all are shown
        _mount("proc", "/proc", "proc", _NO_SETUID | _NO_DEVICES)


def adopt_orphans():
    """Children of children that have ended become children of this process."""
    if sys.platform.startswith("linux"):
        _call("prctl", 36, 1, 0, 0, 0)


def give_up(memory, seconds, megabytes, slot, enclosed):
    """Set the limits and leave all rights behind; what is left is this user's, or nobody's.

    memory, megabytes  of memory and of one file, in MB
    seconds            by the clock; a process may compute for two more
    slot               a number that no other submission which runs now has, for a user id
    enclosed           whether this is in namespaces, where the user's processes are counted anew
    """
    linux = sys.platform.startswith("linux")
    if linux:
        with contextlib.suppress(OSError):
            _say("/proc/self/oom_score_adj", "1000")  # the first to go if memory is short
    limits = {
        "CORE": 0,
        "FSIZE": megabytes * MEGABYTE,
        "CPU": int(seconds) + 2,
        "NOFILE": 1024,
        "NPROC": MOST_PROCESSES,
    }
    if linux:
        limits["DATA"] = _data() + memory * MEGABYTE
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None or (name == "NPROC" and not _counts_alone(slot, enclosed)):
            continue
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    if linux and (user := worker(slot)) != os.getuid():
        with contextlib.suppress(OSError):  # in a container that has few user ids
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
    if linux:
        _drop_capabilities()
        _call("prctl", 38, 1, 0, 0, 0)  # no program gains rights: no set-user-id
        _call("prctl", 4, 0, 0, 0, 0)  # nobody reads this process's memory, by /proc or a debugger


def _counts_alone(slot, enclosed):
    """Whether the limit on processes counts this submission's alone, not all of the user's."""
    if not sys.platform.startswith("linux"):
        return False
    kernel = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])
    return worker(slot) != os.getuid() or (enclosed and os.getuid() and kernel >= (5, 14))


def worker(slot):
    """The user id of a worker: one of its own if root starts it and others can read Python."""
    others = os.getuid() == 0 and _for_all(sys.prefix, sys.base_prefix, str(PACKAGE))
    return 2**20 + slot if others else os.getuid()


def _for_all(*paths):
    """Whether users other than root can read these folders."""
    for path in paths:
        folders = [path, *map(str, Path(path).parents)]
        if any(not os.stat(folder).st_mode & 1 for folder in folders):
            return False
    return True


def _data():
    """Bytes of private memory that the process has already."""
    for line in open("/proc/self/status"):
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _drop_capabilities():
    header = struct.pack("Ii", 0x20080522, 0)
    with contextlib.suppress(OSError):
        _call("capset", header, b"\0" * 24)


def _lock(path, below=True):
    """Make a mount, and all below it, read-only, without devices and set-user-id."""
    attributes = struct.pack("QQQQ", _READ_ONLY | _NO_SETUID | _NO_DEVICES, 0, 0, 0)
    _call("syscall", 442, -100, path.encode(), 0x8000 * below, attributes, len(attributes))


def _mount(source, target, kind, flags, options=""):
    kind = kind.encode() if kind else None
    _call("mount", source.encode(), target.encode(), kind, flags, options.encode())


def _say(path, text):
    with open(path, "w") as file:
        file.write(text)


def _call(name, *arguments):
    """A function of the C library; OSError if it says so."""
    library = ctypes.CDLL(None, use_errno=True)
    numbers = [ctypes.c_long(x) if isinstance(x, int) else x for x in arguments]
    if getattr(library, name)(*numbers) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
