"""Inside the context "cuda" is the CPU; outside torch is what it was."""

import pytest
import torch

from minimtnlg.engines.cpu_as_cuda import FACTORIES, _cuda, _methods, cpu_as_cuda


def names():
    """Everything that the context replaces, as it is now."""
    found = {f"torch.{name}": getattr(torch, name) for name in FACTORIES}
    found |= {f"cuda.{name}": getattr(torch.cuda, name, None) for name in _cuda()}
    return found | {f"Tensor.{name}": getattr(torch.Tensor, name) for name in _methods()}


def test_everything_is_put_back():
    before = names()
    with pytest.raises(KeyError), cpu_as_cuda():
        assert all(names()[name] is not value for name, value in before.items() if value)
        raise KeyError
    assert names() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, for which this is not")
def test_what_says_cuda_gets_the_cpu():
    with cpu_as_cuda():
        device = torch.cuda.current_device()
        made = [
            torch.zeros(2, device="cuda"),
            torch.empty(2, device=device),
            torch.tensor([1.0], device=torch.device("cuda", 0)),
            torch.ones(2).cuda(),
            torch.ones(2).to("cuda"),
            torch.ones(2).to(device=device, dtype=torch.float64),
        ]
        assert all(x.device.type == "cpu" for x in made)
        assert made[-1].dtype == torch.float64
        assert torch.ones(2).type() == "torch.cuda.FloatTensor"
        assert torch.ones(2).to(torch.float64).dtype == torch.float64
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.Event().record()
            torch.cuda.synchronize()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(2, device="cuda")
