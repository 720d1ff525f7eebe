"""The machine under the tensors: the one module outside engines/ that knows 'cuda'.

- device(), backend(): where tensors live and how ranks talk.
- fp32(dtype): what "fp32" means everywhere, so that float64 proofs hold.
- generator(...): random numbers for one purpose; nothing here changes the global random state.
- measured rates of this very machine: matrix multiplication and memory.
"""

import contextlib
import hashlib
import os
import statistics
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
    return 2 * size**3 / min(_times(_product(size, size, size, dtype), seconds))


def product_seconds(m, n, k, dtype=torch.float32, seconds=0.3):
    """Measured seconds of [m, k] x [k, n] on device(), one product after the other: the median."""
    return statistics.median(_times(_product(m, n, k, dtype), seconds))


def copy_bytes(seconds=0.3):
    """Measured bytes/s of copying a large tensor on device(), read and write counted."""
    source = torch.ones(2**28 if device().type == "cuda" else 2**24, device=device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(_times(lambda: target.copy_(source), seconds))


def peak_memory():
    """Bytes of tensors that were alive at once on the GPU since the last call; None on a CPU."""
    if device().type == "cpu":
        return None
    most = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return most


def _product(m, n, k, dtype):
    g = generator("matmul", device=device())
    a, b = (torch.randn(*size, generator=g, device=device()).to(dtype) for size in ((m, k), (k, n)))
    return lambda: a @ b


def _times(call, seconds):
    """Seconds of a call, again and again for `seconds`; each the mean of as many as take 5 ms."""
    found, end = [], time.perf_counter() + seconds
    _seconds(call, 1)  # the first one also loads what it needs
    repeats = min(max(1, int(5e-3 / _seconds(call, 1))), 1000)
    while not found or time.perf_counter() < end:
        found.append(_seconds(call, repeats))
    return found


def _seconds(call, repeats):
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats
