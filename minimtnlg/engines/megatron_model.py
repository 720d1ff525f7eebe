"""Megatron-Core's own model of a Config: its groups, its settings, its GPTModel, its names.

Two layers are given to it at the places that it has for that, its layer specification: a LayerNorm
that knows sequence parallelism, for which Megatron's own needs Apex, and PyTorch's fused attention
for model.attention=sdpa; readable is Megatron's own formula.
"""

import contextlib
import functools

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)

from minimtnlg.device import DTYPES, device
from minimtnlg.model.convert import from_megatron_name
from minimtnlg.model.gpt import EPS


def take_over_groups(config):
    """Megatron's global groups and random states for the layout of a Config, in place of others."""
    p = config.parallel
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        p.tp, p.pp, p.virtual if p.virtual > 1 else None, create_gloo_process_groups=False
    )
    stage = parallel_state.get_pipeline_model_parallel_rank()
    seed = config.train.seed + 100 * stage  # as Megatron-LM's, so that stages draw other masks
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def settings(config):
    """Megatron's TransformerConfig for a Config.

    On a GPU the fusions that PyTorch compiles are on; on a CPU they would call a C++ compiler.
    """
    model, p, dtype = config.model, config.parallel, DTYPES[config.train.dtype]
    gpu = device().type == "cuda"
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        num_attention_heads=model.heads,
        layernorm_epsilon=EPS,
        activation_func=F.gelu if gpu else functools.partial(F.gelu, approximate="tanh"),
        bias_activation_fusion=gpu,  # the fused one is the tanh form
        bias_dropout_fusion=gpu,
        masked_softmax_fusion=False,  # these three want kernels that are not in the package
        gradient_accumulation_fusion=False,
        use_fused_weighted_squared_relu=False,
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        attention_softmax_in_fp32=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        use_cpu_initialization=not gpu,
        tensor_model_parallel_size=p.tp,
        pipeline_model_parallel_size=p.pp,
        virtual_pipeline_model_parallel_size=p.virtual if p.virtual > 1 else None,
        sequence_parallel=p.sequence_parallel,
        batch_p2p_comm=p.virtual == 1,
        overlap_p2p_comm=gpu and p.virtual > 1,
        recompute_granularity=None if p.recompute == "none" else p.recompute,
        recompute_method="uniform" if p.recompute == "full" else None,
        recompute_num_layers=1 if p.recompute == "full" else None,
        deallocate_pipeline_outputs=True,
        calculate_per_token_loss=True,
    )


def gpt_chunks(config, settings):
    """Megatron's GPTModel of this rank, one for each chunk of its stage.

    Its groups have to be there. settings: see `settings`.
    """
    virtual = config.parallel.virtual
    chunks = []
    for chunk in range(virtual):
        at = {"vp_stage": chunk} if virtual > 1 else {}
        layer = get_gpt_layer_local_spec()
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = _LayerNorm
        if config.model.attention == "sdpa":
            layer.submodules.self_attention.submodules.core_attention = _SDPA
        layers = [layer] * get_num_layers_to_build(settings, **at)
        chunks.append(
            GPTModel(
                settings,
                TransformerBlockSubmodules(layer_specs=layers, layer_norm=_LayerNorm),
                vocab_size=config.model.vocab,
                max_sequence_length=config.model.seq,
                pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, **at),
                post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, **at),
                share_embeddings_and_output_weights=True,
                **at,
            )
        )
    return chunks


def our_names(chunks):
    """{our name: parameter} of all chunks; Megatron numbers layers anew in each of them."""
    named = {}
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if name.startswith("decoder.layers."):
                first, second, layer, rest = name.split(".", 3)
                layer = chunk.decoder.layers[int(layer)].layer_number - 1
                name = f"{first}.{second}.{layer}.{rest}"
            if not hasattr(parameter, "tensor_model_parallel"):
                parameter.tensor_model_parallel = False
            named[from_megatron_name(name)] = parameter
    return named


class _LayerNorm(torch.nn.LayerNorm):
    """A LayerNorm as Megatron's layers want it; its own, without Apex, has no sequence parallelism.

    The mark tells finalize_model_grads to sum the gradients over the tensor group.
    """

    def __init__(self, config, hidden_size, eps=EPS):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel


class _SDPA(torch.nn.Module):
    """PyTorch's fused attention in the place of Megatron's formula: model.attention=sdpa."""

    def __init__(self, config, *args, **kwargs):
        super().__init__()
        self.dropout = config.attention_dropout
        self.sequence_parallel = config.sequence_parallel

    def forward(self, query, key, value, *args, **kwargs):
        """query, key, value: [s, b, a/t, h/a] -> [s, b, h/t]."""
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        p = self.dropout if self.training else 0.0
        # Heads of other ranks draw other masks. With the sequence cut, all that lies around this
        # draws from the tensor ranks' own states already.
        own = p > 0 and not self.sequence_parallel
        with tensor_parallel.get_cuda_rng_tracker().fork() if own else contextlib.nullcontext():
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return y.permute(2, 0, 1, 3).flatten(2)
