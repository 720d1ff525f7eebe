"""Cases that ranks run and tests judge: ranks are started once for each number of them.

A case is a generator, case(me, n), of (what, found, expected) or (what, found, expected, tolerance)
on rank `me` of n. It asserts nothing: a rank that stopped would leave the others waiting.
"""

import torch
import torch.distributed as dist

from minimtnlg import run


def complaint(what, found, expected, tolerance=1e-12):
    """What is wrong, in words; "" where found is expected, tensors within the tolerance."""
    if not isinstance(expected, torch.Tensor):
        return "" if found == expected else f"{what}: {found!r}, not {expected!r}"
    if found.shape != expected.shape:
        return f"{what}: of shape {list(found.shape)}, not {list(expected.shape)}"
    difference = (found - expected).abs().max().item() if found.numel() else 0.0
    return "" if difference <= tolerance else f"{what} differs by {difference:.1e}"


def complaints(cases):
    """{name of the case: its complaints on this rank}; alone where there are no other ranks."""
    joined = dist.is_initialized()
    me, n = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
    return {
        case.__name__: [words for row in case(me, n) if (words := complaint(*row))]
        for case in cases
    }


class Outcomes:
    """outcomes(case, n): complaints of all ranks about a case, as "rank 1: ...".

    request: of a module's fixture, for a test of (case, n). program(cases): what a rank runs, a
    function of the test's module, since that is what can be sent. The first case of a number of
    ranks that is asked for runs all that are selected.
    """

    def __init__(self, request, program):
        self.program, self.found = program, {}
        tests = [item for item in request.session.items if item.path == request.path]
        params = [test.callspec.params for test in tests if hasattr(test, "callspec")]
        self.selected = [(p["case"], p["n"]) for p in params if p.keys() >= {"case", "n"}]

    def __call__(self, case, n):
        if n not in self.found:
            cases = [other for other, ranks in self.selected if ranks == n]
            by_rank = run(self.program, n, cases, timeout=100) if n > 1 else [self.program(cases)]
            self.found[n] = by_rank
        return [
            f"rank {rank}: {words}"
            for rank, found in enumerate(self.found[n])
            for words in found[case.__name__]
        ]
