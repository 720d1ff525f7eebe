"""What this machine has, how fast it is, and what can run on it: `minimtnlg doctor`."""

import importlib.util
import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version

EXTRAS = {  # what each extra brings, by the name that pip knows
    "data": ["tokenizers", "mwparserfromhell"],
    "course": ["jupyterlab", "jupytext", "papermill", "matplotlib"],
    "engines": ["megatron-core", "deepspeed"],
    "eval": ["lm-eval"],
    "nbgrader": ["nbgrader"],
    "site": ["sphinx", "selenium"],
    "test": ["pytest", "hypothesis", "transformers"],
}
TOOLS = {  # programs that some lessons or sources use: what they are for, how they come
    "npm": ("more sources of text", "install Node.js, or on Debian: apt-get install npm"),
    "sbatch": ("lessons on Slurm", "on Debian: apt-get install slurm-wlm munge"),
}


def report():
    """Print the machine, its measured rates, what is installed and which lessons can run."""
    _machine()
    _rates()
    _packages()
    _lessons()


def reduce_seconds(megabytes=16, times=5):
    """Measured seconds of one all-reduce of `megabytes` of fp32 between two ranks here."""
    from minimtnlg.ranks import run

    return max(run(_reduce, 2, megabytes, times))


def _reduce(megabytes, times):
    import torch
    import torch.distributed as dist

    tensor = torch.ones(megabytes * 2**20 // 4)
    dist.all_reduce(tensor)  # the first one also opens the connections
    start = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(tensor)
    return (time.perf_counter() - start) / times


def _machine():
    import torch

    from minimtnlg import device

    _line("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs")
    _line("python", f"{platform.python_version()} in {sys.prefix}")
    _line("torch", torch.__version__)
    _line("device", f"{device.name()}; ranks talk through {device.backend()}")


def _rates():
    import torch

    from minimtnlg import device

    for dtype in (torch.float32, torch.bfloat16):
        rate = device.matmul_flops(dtype)
        _line("multiplies", f"{rate / 1e9:,.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}")
    _line("copies", f"{device.copy_bytes() / 1e9:,.1f} GB/s, read and write together")
    seconds = reduce_seconds()
    _line("reduces", f"16 MiB between two ranks in {seconds * 1e3:.0f} ms (gloo)")


def _packages():
    for extra, packages in EXTRAS.items():
        found = {name: _version(name) for name in packages}
        present = [f"{name} {number}" for name, number in found.items() if number]
        missing = [name for name, number in found.items() if not number]
        _line(f"[{extra}]", ", ".join(present) or "nothing installed")
        if missing:
            _line(
                "", f"missing {', '.join(missing)}: pip install -c constraints.txt -e '.[{extra}]'"
            )
    for tool, (use, remedy) in TOOLS.items():
        _line(tool, shutil.which(tool) or f"missing ({use}): {remedy}")


def _version(distribution):
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _lessons():
    if importlib.util.find_spec("jupytext") is None:
        _line("lessons", "none can run: [course] is missing, see above")
        return
    from minimtnlg.course.build import missing
    from minimtnlg.course.sources import lessons

    for lesson in lessons():
        _line(f"lesson {lesson.name[:2]}", missing(lesson) or f"runs here: {lesson.question}")


def _line(what, text):
    print(f"{what:<11} {text}", flush=True)
