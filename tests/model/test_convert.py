"""The same numbers as an independent implementation: GPT-2 of transformers."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from minimtnlg.config import Model
from minimtnlg.model import GPT
from minimtnlg.model.convert import (
    from_gpt2,
    from_megatron_name,
    gpt2_name,
    megatron_name,
    to_gpt2,
)


def gpt2(config):
    """An untrained GPT-2 of config's shape, in float64, without dropout."""
    sizes = GPT2Config(
        n_layer=config.layers,
        n_embd=config.hidden,
        n_head=config.heads,
        n_positions=config.seq,
        vocab_size=config.vocab,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
        loss_type="ForCausalLMLoss",
    )
    return GPT2LMHeadModel(sizes).double()


def test_names():
    assert gpt2_name("blocks.3.mlp.up.weight") == "transformer.h.3.mlp.c_fc.weight"
    assert gpt2_name("norm.bias") == "transformer.ln_f.bias"


def test_megatron_names(tiny):
    """What megatron-core 0.16.1 calls the parameters of a GPTModel of local layers."""
    ours = GPT(tiny(layers=2)).state_dict()
    block = (
        "input_layernorm", "self_attention.linear_qkv", "self_attention.linear_proj",
        "pre_mlp_layernorm", "mlp.linear_fc1", "mlp.linear_fc2",
    )  # fmt: skip
    modules = [f"decoder.layers.{layer}.{inner}" for layer in (0, 1) for inner in block]
    theirs = {"embedding.word_embeddings.weight", "embedding.position_embeddings.weight"} | {
        f"{module}.{kind}"
        for module in [*modules, "decoder.final_layernorm"]
        for kind in ("weight", "bias")
    }
    assert {megatron_name(name) for name in ours} == theirs
    assert [from_megatron_name(megatron_name(name)) for name in ours] == list(ours)
    assert megatron_name("blocks.13.mlp.up.bias") == "decoder.layers.13.mlp.linear_fc1.bias"


def test_there_and_back(tiny, scramble):
    config = tiny(layers=3)
    ours = scramble(GPT(config)).state_dict()
    theirs = to_gpt2(ours, config.heads)
    back = from_gpt2(theirs, config.layers, config.heads)
    assert list(back) == list(ours)
    assert all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
@pytest.mark.parametrize("layers, hidden, heads", [(1, 8, 1), (3, 24, 4)])
def test_logits_loss_and_every_gradient(
    batch_of, scramble, gradients, attention, layers, hidden, heads
):
    config = Model(layers=layers, hidden=hidden, heads=heads, seq=9, vocab=23, attention=attention)
    ours = scramble(GPT(config, dtype=torch.float64))
    theirs = gpt2(config)
    theirs.load_state_dict(to_gpt2(ours.state_dict(), heads))
    batch = batch_of(config, b=3)
    labels = batch.labels.masked_fill(batch.mask == 0, -100)  # what transformers leaves out

    logits = theirs(batch.tokens).logits
    torch.testing.assert_close(ours(batch.tokens).transpose(0, 1), logits)

    loss, grads = gradients(ours, batch)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())

    grads = to_gpt2(grads, heads)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, msg=lambda m, n=name: f"{n}: {m}")
    assert set(grads) == {name for name, _ in theirs.named_parameters()} | {"lm_head.weight"}


def test_their_own_loss_is_our_mean(tiny, batch_of, scramble):
    """transformers shifts the labels itself and takes the mean."""
    config = tiny()
    theirs = gpt2(config)
    scramble(theirs, std=0.1)
    ours = GPT(config, dtype=torch.float64)
    ours.load_state_dict(from_gpt2(theirs.state_dict(), config.layers, config.heads))
    ids = batch_of(config).tokens
    batch = batch_of(config)._replace(
        tokens=ids[:, :-1], labels=ids[:, 1:], mask=torch.ones(ids[:, 1:].shape)
    )
    mean = (ours.loss(batch) / batch.mask.sum()).float()  # theirs is computed in float32
    torch.testing.assert_close(mean, theirs(ids, labels=ids).loss)
