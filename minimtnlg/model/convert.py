"""Names and shapes to and from GPT-2's: the same numbers under transformers' names.

GPT-2 stores each matrix transposed (input x output) and its QKV as all queries, all keys, all
values; ours goes head by head. Everything else is renaming.
"""

# ours, inside a block -> GPT-2's, inside "h.N."
NAMES = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
OUTER = {"embedding": "wte", "position": "wpe", "norm": "ln_f"}


def gpt2_name(name):
    """ "blocks.3.mlp.up.weight" -> "transformer.h.3.mlp.c_fc.weight"."""
    module, _, kind = name.rpartition(".")
    if module in OUTER:
        return f"transformer.{OUTER[module]}.{kind}"
    _, layer, inner = module.split(".", 2)
    return f"transformer.h.{layer}.{NAMES[inner]}.{kind}"


def to_gpt2(state, heads):
    """Our state dict as one of transformers' GPT2LMHeadModel, the tied output layer included."""
    result = {}
    for name, tensor in state.items():
        if ".qkv." in name:  # [a, 3, d] rows -> [3, a, d] rows
            tensor = tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        if tensor.dim() == 2 and name.startswith("blocks."):
            tensor = tensor.t()
        result[gpt2_name(name)] = tensor.contiguous()
    return result | {"lm_head.weight": state["embedding.weight"]}


def from_gpt2(state, layers, heads):
    """The inverse of `to_gpt2`: a state dict for GPT from one of GPT2LMHeadModel."""
    blocks = [f"blocks.{layer}.{inner}" for layer in range(layers) for inner in NAMES]
    names = [f"{module}.{kind}" for module in [*blocks, "norm"] for kind in ("weight", "bias")]
    result = {}
    for name in ["embedding.weight", "position.weight", *names]:
        tensor = state[gpt2_name(name)]
        if tensor.dim() == 2 and name.startswith("blocks."):
            tensor = tensor.t()
        if ".qkv." in name:
            tensor = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        result[name] = tensor.contiguous()
    return result
