"""minimtnlg: Megatron-Turing NLG 530B, readable, from one laptop core to 4 480 GPUs.

Importing the package loads no torch.
"""

__version__ = "0.1.0"
__all__ = ["run"]


def __getattr__(name):
    if name == "run":
        from minimtnlg.ranks import run

        return run
    raise AttributeError(f"module 'minimtnlg' has no attribute {name!r}")
