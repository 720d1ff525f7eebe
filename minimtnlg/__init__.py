"""minimtnlg: Megatron-Turing NLG 530B, readable, from one laptop core to 4 480 GPUs.

Importing the package loads no torch.
"""

import os

# Threads of a matrix product that wait for one another should sleep, not spin: on a laptop whose
# cores also do something else, spinning makes a training step ten times slower. The library that
# reads this is loaded by torch, later.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = ["run"]


def __getattr__(name):
    if name == "run":
        from minimtnlg.ranks import run

        return run
    raise AttributeError(f"module 'minimtnlg' has no attribute {name!r}")
