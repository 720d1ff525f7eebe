"""A run and a Hugging Face folder are the same model, to transformers itself and on the way back.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
)
from transformers.utils import logging

from minimtnlg.config import load
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.evaluate.generate import greedy
from minimtnlg.train import huggingface
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.huggingface import from_huggingface, to_huggingface

FOREIGN = dict(n_layer=2, n_embd=24, n_head=4, n_positions=9, vocab_size=40)


@pytest.fixture(scope="module")
def run(random_run):
    return random_run("float64")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run in float64 as a Hugging Face folder."""
    out = tmp_path_factory.mktemp("exported") / "hf"
    assert to_huggingface(run, out) == 7
    return out


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """theirs(cls, dtype, **changes) -> folder that transformers saved, of a GPT-2 of its own."""

    def make(cls=GPT2LMHeadModel, dtype=torch.float32, shard="1GB", **changes):
        torch.manual_seed(1)
        config = GPT2Config(**(FOREIGN | dict(bos_token_id=0, eos_token_id=0) | changes))
        model = cls(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp("theirs")
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        return folder

    return make


def copy_of(folder, tmp_path, **changes):
    """A copy with other values in config.json."""
    copy = shutil.copytree(folder, tmp_path / "source")
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | changes))
    return copy


def logits(run, tokens):
    """[b, s, V] of our model; tokens: [b, s]."""
    _, model = load_run(run)
    with torch.no_grad():
        return model(tokens).transpose(0, 1)


def some_tokens(vocab, s, b=3):
    return torch.randint(vocab, (b, s), generator=torch.Generator().manual_seed(2))


def same_files(one, other):
    """Whether two folders hold the same files, byte for byte."""
    files = [[path for path in folder.rglob("*") if path.is_file()] for folder in (one, other)]
    mine, other = (
        {path.relative_to(folder): path.read_bytes() for path in paths}
        for folder, paths in zip((one, other), files, strict=True)
    )
    return mine == other


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_transformers_computes_the_same(random_run, tmp_path, capfd, dtype):
    run = random_run(dtype)
    to_huggingface(run, tmp_path / "hf")
    logging.disable_progress_bar()
    capfd.readouterr()
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values()), info
    assert capfd.readouterr() == ("", "")  # not a warning
    assert model.dtype == getattr(torch, dtype)
    tokens = some_tokens(512, 24)
    with torch.no_grad():
        found = model(tokens).logits
    # In 16 bits each order of roundings is another; its weights were exact in the round trip.
    limits = dict(rtol=0.05, atol=0.2) if dtype == "bfloat16" else {}
    torch.testing.assert_close(found, logits(run, tokens), **limits)


def test_transformers_finds_every_setting(exported):
    model = AutoModelForCausalLM.from_pretrained(exported)
    config = model.config
    assert (config.eos_token_id, config.bos_token_id) == (0, 0)
    assert config.tie_word_embeddings and model.lm_head.weight is model.transformer.wte.weight
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.1} == {config.attn_pdrop}
    norms = {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert norms == {1e-5}
    assert config.activation_function == "gelu_new" and config.n_inner is None


def test_transformers_writes_the_same_text(run, exported):
    """Padding rows, most of the vocabulary here, are chosen by neither."""
    _, ours = load_run(run)
    model = AutoModelForCausalLM.from_pretrained(exported)
    own, words = Tokenizer.load(run / "tokenizer.json"), AutoTokenizer.from_pretrained(exported)
    prompt = words("the other rank", return_tensors="pt")
    assert prompt["input_ids"].tolist() == [own.encode("the other rank")]
    expected = greedy(ours, own.encode("the other rank"), 12, own.eod, own.size)
    found = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert found[0, prompt["input_ids"].shape[1] :].tolist() == expected
    assert own.size < 300 and max(expected) < own.size and len(set(expected)) > 2


@pytest.mark.parametrize("text", [" rank's caf\u00e9\n\n  \u65e5 x .", "one<|endoftext|>two", ""])
def test_transformers_reads_text_as_we_do(run, exported, text):
    own, words = Tokenizer.load(run / "tokenizer.json"), AutoTokenizer.from_pretrained(exported)
    assert words(text)["input_ids"] == own.encode(text)
    assert words.decode(own.encode(text)) == text
    assert (words.eos_token_id, words.model_max_length) == (own.eod, 24)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_there_and_back_changes_no_byte(random_run, tmp_path, dtype):
    run = random_run(dtype)
    to_huggingface(run, tmp_path / "hf")
    assert from_huggingface(tmp_path / "hf", tmp_path / "back") == 7
    assert same_files(run, tmp_path / "back")


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(dtype=torch.bfloat16),
        dict(cls=GPT2Model),  # names without "transformer."
        dict(shard="9KB"),
        dict(activation_function="gelu_pytorch_tanh", n_inner=96),
    ],
    ids=str,
)
def test_a_model_of_transformers_becomes_a_run(theirs, tmp_path, capsys, options):
    source = theirs(**options)
    assert (len(list(source.glob("*.safetensors"))) > 1) == ("shard" in options)
    assert from_huggingface(source, tmp_path / "run", "nano") == 0
    assert "has no tokenizer.json" in capsys.readouterr().err
    config, _ = load_run(tmp_path / "run")
    assert config.optim == load("nano").optim
    assert config.model == load("nano", [
        "model.layers=2", "model.hidden=24", "model.heads=4", "model.seq=9", "model.vocab=40",
        "model.dropout=0.1",
    ]).model  # fmt: skip
    dtype = options.get("dtype", torch.float32)
    assert config.train.dtype == str(dtype).removeprefix("torch.")
    model = GPT2LMHeadModel.from_pretrained(source)
    tokens = some_tokens(40, 9)
    with torch.no_grad():
        found = model(tokens).logits
    limits = dict(rtol=0.05, atol=0.2) if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(logits(tmp_path / "run", tokens), found, **limits)


def test_our_export_saved_again_by_transformers(run, exported, tmp_path):
    AutoModelForCausalLM.from_pretrained(exported).save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(exported).save_pretrained(tmp_path / "again")
    from_huggingface(tmp_path / "again", tmp_path / "run", run / "config.yaml")
    assert load_run(tmp_path / "run")[0] == load_run(run)[0]
    back, first = (load_run(folder)[1].state_dict() for folder in (tmp_path / "run", run))
    assert all(torch.equal(back[name], first[name]) for name in first)
    words = [Tokenizer.load(folder / "tokenizer.json") for folder in (tmp_path / "run", run)]
    assert words[0].encode("one<|endoftext|>") == words[1].encode("one<|endoftext|>")


def test_old_files_with_masks_and_an_output_layer(exported, run, tmp_path):
    """As OpenAI's own: no prefix, each layer's causal mask among the weights."""
    source = copy_of(exported, tmp_path)
    weights = load_file(source / "model.safetensors")
    old = {name.removeprefix("transformer."): x for name, x in weights.items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 24, 24) for i in range(3)}
    old |= {"h.0.attn.masked_bias": torch.tensor(-1e4)}
    old |= {"lm_head.weight": old["wte.weight"].clone()}
    save_file(old, source / "model.safetensors")
    assert from_huggingface(source, tmp_path / "out") == 0
    back, first = (load_run(folder)[1].state_dict() for folder in (tmp_path / "out", run))
    assert all(torch.equal(back[name], first[name]) for name in first)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(model_type="llama"), "model_type='llama': only 'gpt2' becomes a run"),
        (dict(activation_function="relu"), "activation_function='relu'"),
        (dict(activation_function="gelu"), "every GPT here has activation_function='gelu_new'"),
        (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True"),
        (dict(scale_attn_weights=False), "scale_attn_weights=False"),
        (dict(tie_word_embeddings=False), "tie_word_embeddings=False"),
        (dict(add_cross_attention=True), "add_cross_attention=True"),
        (dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon=1e-06"),
        (dict(n_inner=100), "n_inner=100"),
        (dict(attn_pdrop=0.2), "attn_pdrop=0.2, resid_pdrop=0.1: here one rate serves all three"),
        (dict(n_layer="many"), "layers='many': input should be a valid integer"),
        (dict(n_head=5), "model.heads=5 does not divide model.hidden=32"),
        (dict(n_layer=10**9), "the sizes in its config.json make"),
        (dict(n_layer=2), "the sizes in its config.json make"),
    ],
    ids=str,
)
def test_what_our_gpt_is_not(exported, tmp_path, changes, says):
    source = copy_of(exported, tmp_path, **changes)
    with pytest.raises(InputError) as error:
        from_huggingface(source, tmp_path / "out")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def weights_without(name):
    def change(folder):
        weights = load_file(folder / "model.safetensors")
        weights["extra"] = weights.pop(name)
        save_file(weights, folder / "model.safetensors")

    return change


def weights_with(name, make):
    def change(folder):
        weights = load_file(folder / "model.safetensors")
        save_file(weights | {name: make(weights)}, folder / "model.safetensors")

    return change


def written(name, text):
    return lambda folder: (folder / name).write_bytes(text)


def sharded(text):
    def change(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(text)

    return change


def truncate(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


QKV = "transformer.h.1.attn.c_attn.weight"


@pytest.mark.parametrize(
    "damage, says",
    [
        (truncate, "can't read the weights in"),
        (lambda folder: (folder / "model.safetensors").unlink(), "can't read the weights in"),
        (written("model.safetensors", b""), "can't read the weights in"),
        (sharded('{"weight_map": {"x": "../a.safetensors"}}'), "source/a.safetensors"),
        (sharded("{}"), "weight_map is missing"),
        (written("config.json", b"{"), "config.json is not JSON"),
        (written("config.json", b"\xff\xfe"), "config.json is not JSON"),
        (written("config.json", b"[1]"), "expected an object of keys and values"),
        (written("config.json", b'{"model_type": "gpt2"}'), "n_layer is missing"),
        (lambda folder: (folder / "config.json").unlink(), "can't read"),
        (weights_without("transformer.h.1.mlp.c_fc.bias"), "has no weight 'transformer.h.1.mlp"),
        (weights_with(QKV, lambda w: w[QKV].t().contiguous()), "do not fit its sizes"),
        (weights_with("lm_head.weight", lambda w: torch.zeros(512, 32)), "here the two are tied"),
        (weights_with("score.weight", lambda w: torch.zeros(2, 32)), "its config.json make"),
        (lambda folder: (folder / "config.yaml").unlink(), "has no config.yaml"),
        (written("config.yaml", b"model: {layer: 3}"), "did you mean 'layers'"),
    ],
)
def test_damaged_folders(exported, tmp_path, damage, says):
    source = copy_of(exported, tmp_path)
    damage(source)
    with pytest.raises(InputError) as error:
        from_huggingface(source, tmp_path / "out")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_weights_in_numbers_that_no_run_has(exported, tmp_path):
    source = copy_of(exported, tmp_path)
    weights = load_file(source / "model.safetensors")
    save_file({name: x.to(torch.int8) for name, x in weights.items()}, source / "model.safetensors")
    with pytest.raises(InputError, match="are torch.int8: expected float64"):
        from_huggingface(source, tmp_path / "out")


def test_what_is_there_already_stays(run, exported, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(InputError, match="is there already: choose another --out"):
            to_huggingface(run, tmp_path / name)
        with pytest.raises(InputError, match="is there already: choose another --out"):
            from_huggingface(exported, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_runs_that_can_not_be_exported(run, tmp_path):
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        to_huggingface(tmp_path / "nowhere", tmp_path / "out")
    for name, says in (("tokenizer.json", "no tokenizer at"), ("config.yaml", "can't read the")):
        copy = shutil.copytree(run, tmp_path / "copy")
        (copy / name).unlink()
        with pytest.raises(InputError, match=says):
            to_huggingface(copy, tmp_path / "out")
        shutil.rmtree(copy)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(run, exported, tmp_path, monkeypatch, stop):
    def fail(*_, **__):
        raise stop

    monkeypatch.setattr(huggingface, "carry", fail)
    with pytest.raises(type(stop)):
        to_huggingface(run, tmp_path / "out")
    monkeypatch.setattr("minimtnlg.train.export.save_model", fail)
    with pytest.raises(type(stop)):
        from_huggingface(exported, tmp_path / "out")
    assert not list(tmp_path.iterdir())
