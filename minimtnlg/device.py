"""The machine under the tensors: the one module outside engines/ that knows 'cuda'.

- device(), backend(): where tensors live and how ranks talk.
- fp32(dtype): what "fp32" means everywhere, so that float64 proofs hold.
- generator(...): random numbers for one purpose; nothing here changes the global random state.
- measured rates of this very machine: matrix multiplication and memory.
"""

import contextlib
import hashlib
import os
import time

import torch

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def device():
    """The device of this process: a GPU of its own, else the CPU.

    A machine with fewer GPUs than local ranks has none for them: gloo moves no tensors of a GPU.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def gpus():
    """How many GPUs this process sees."""
    return torch.cuda.device_count()


def select():
    """Make device() the one that libraries take where they are told none; once in each rank."""
    if device().type == "cuda":
        torch.cuda.set_device(device())


def backend(cpu=False):
    """The collective library: nccl where each local rank has a GPU of its own, else gloo.

    cpu: with nccl, which moves tensors of a GPU alone, also have gloo, for those of the CPU.
    """
    if device().type == "cpu":
        return "gloo"
    return "cpu:gloo,cuda:nccl" if cpu else "nccl"


def name():
    """The device in words, for reports: the GPU's name or the CPU with its threads."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {torch.get_num_threads()} threads"


def memory(ranks=1):
    """Bytes that so many ranks of this machine have: their GPUs', or the machine's own memory.

    Infinite where the machine doesn't say.
    """
    if 0 < ranks <= torch.cuda.device_count():
        return ranks * torch.cuda.get_device_properties(0).total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return float("inf")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def synchronize():
    """Wait until device() has finished what was given to it. A CPU always has."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def fp32(dtype):
    """The type of master weights, sums and statistics: float32, or float64 for a float64 model."""
    return torch.promote_types(dtype, torch.float32)


def seed_of(*purpose):
    """A 63-bit seed from whatever names the draw: (seed, "init", "blocks.0.mlp.up.weight"), ..."""
    text = "/".join(str(part) for part in purpose)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*purpose, device="cpu"):
    """A torch.Generator seeded by its purpose: the draw can be repeated without saved state."""
    return torch.Generator(device=device).manual_seed(seed_of(*purpose))


@contextlib.contextmanager
def default_generator(*purpose):
    """Seed PyTorch's own generator of device() in the block, for kernels that accept no other.

    Its state from before comes back at the end.
    """
    gpu = device().type == "cuda"
    with torch.random.fork_rng([device()] if gpu else []):
        seed = torch.cuda.manual_seed if gpu else torch.default_generator.manual_seed
        seed(seed_of(*purpose))
        yield


def matmul_flops(dtype=torch.float32, size=None, seconds=0.3):
    """Measured FLOP/s of one large square matrix product on device().

    The best of the runs that fit into `seconds`: a peak, since interruptions only slow it down.
    """
    size = size or (8192 if device().type == "cuda" else 1024)
    g = generator("matmul", device=device())
    a, b = (torch.randn(size, size, generator=g, device=device()).to(dtype) for _ in "ab")
    return 2 * size**3 / _fastest(lambda: a @ b, seconds)


def copy_bytes(seconds=0.3):
    """Measured bytes/s of copying a large tensor on device(), read and write counted."""
    source = torch.ones(2**28 if device().type == "cuda" else 2**24, device=device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), seconds)


def _fastest(call, seconds):
    call()
    synchronize()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        synchronize()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end:
            return best
