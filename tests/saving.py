"""What autograd keeps for a backward pass, in bytes; for tests of formulas that predict it."""

from torch.autograd.graph import saved_tensors_hooks


def kept(module, *inputs):
    """Bytes of the storages that a module's forward pass saves, each once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs)
    assert output.requires_grad
    return sum(storage.nbytes() for storage in storages.values())
