"""What the small nets of the tests of replicas and of ZeRO are made of."""

import torch
from torch import nn


class Layer(nn.Module):
    """tanh(x W^T + b), or without b. Its numbers are given by `fill`."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x, with_bias=True):
        return torch.tanh(x @ self.weight.T + (self.bias if with_bias else 0))


def fill(net, dtype):
    """Random numbers for all parameters of a net, the same in every format but for rounding."""
    net.to(dtype)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
