"""minimtnlg: Megatron-Turing NLG 530B, readable, from one laptop core to 4 480 GPUs.

Importing the package loads no torch.
"""

import os

# Threads of a matrix product that wait for one another spin for microseconds, then sleep: on a
# laptop whose cores also do something else, longer spinning makes a step ten times slower. torch's
# OpenMP reads these when it is loaded: the first is for GNU's (Linux), the second for any other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = ["run"]


def __getattr__(name):
    if name == "run":
        from minimtnlg.ranks import run

        return run
    raise AttributeError(f"module 'minimtnlg' has no attribute {name!r}")
