"""A rank that is slow at one operator, for probes to find."""

import time

from torch.utils._python_dispatch import TorchDispatchMode


class Slow(TorchDispatchMode):
    """Sleeps in each call of the operator of this name whose arguments `when` likes."""

    def __init__(self, operator, seconds, when=lambda args: True):
        super().__init__()
        self.operator, self.seconds, self.when = operator, seconds, when

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == self.operator and self.when(args):
            time.sleep(self.seconds)
        return func(*args, **(kwargs or {}))
