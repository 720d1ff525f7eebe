"""Names and shapes to and from GPT-2's and Megatron-Core's: the same numbers under their names.

GPT-2 stores each matrix transposed (input x output) and its QKV as all queries, all keys, all
values; ours goes head by head. Everything else is renaming. Megatron-Core's GPTModel has our
layout [S24], so there all is renaming.
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

# ours, inside a block -> Megatron-Core's, inside "decoder.layers.N."
MEGATRON_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.qkv": "self_attention.linear_qkv",
    "attention.out": "self_attention.linear_proj",
    "mlp_norm": "pre_mlp_layernorm",
    "mlp.up": "mlp.linear_fc1",
    "mlp.down": "mlp.linear_fc2",
}
MEGATRON_OUTER = {
    "embedding": "embedding.word_embeddings",
    "position": "embedding.position_embeddings",
    "norm": "decoder.final_layernorm",
}


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


def megatron_name(name):
    """ "blocks.3.mlp.up.weight" -> "decoder.layers.3.mlp.linear_fc1.weight"."""
    module, _, kind = name.rpartition(".")
    if module in MEGATRON_OUTER:
        return f"{MEGATRON_OUTER[module]}.{kind}"
    _, layer, inner = module.split(".", 2)
    return f"decoder.layers.{layer}.{MEGATRON_NAMES[inner]}.{kind}"


def from_megatron_name(name):
    """The inverse of `megatron_name`; layers are numbered through the whole model in both.

    The tied copy on the last stage, output_layer.weight, is our embedding too.
    """
    if name == "output_layer.weight":
        return "embedding.weight"
    module, _, kind = name.rpartition(".")
    outer = {theirs: ours for ours, theirs in MEGATRON_OUTER.items()}
    if module in outer:
        return f"{outer[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    ours = {theirs: ours for ours, theirs in MEGATRON_NAMES.items()}[inner]
    return f"blocks.{layer}.{ours}.{kind}"
