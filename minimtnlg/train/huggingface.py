"""A run as a Hugging Face folder of the GPT-2 kind, and back, without the library transformers.

    config.json             the sizes, and what every GPT here computes, under GPT-2's names
    model.safetensors       weights under GPT-2's names, the tied output layer left out; its header
                            keeps the number of the step
    generation_config.json  where a text ends, and which rows only pad the vocabulary
    tokenizer.json          as in the run; tokenizer_config.json says how to read it
    config.yaml             the run's own, so that the folder can become a run again

transformers then reads the folder: AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer too.

A GPT-2 from elsewhere may bring GPT-2's older files vocab.json and merges.txt instead of
tokenizer.json. Its vocabulary of 50 257 gets rows of padding up to 51 200, so that tensor
parallelism can cut it.
"""

import dataclasses
import json
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

from minimtnlg.config import Model
from minimtnlg.data.tokenizer import EOD, Tokenizer, from_files
from minimtnlg.errors import InputError
from minimtnlg.model.convert import from_gpt2, to_gpt2
from minimtnlg.model.gpt import EPS
from minimtnlg.train.checkpoint import load_run, step_of
from minimtnlg.train.export import carry, new_folder, settings, write_run

# config.Model's field -> GPT-2's key
SIZES = {
    "layers": "n_layer",
    "hidden": "n_embd",
    "heads": "n_head",
    "seq": "n_positions",
    "vocab": "vocab_size",
}
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")  # here one number for all three

# What every GPT here computes: GPT-2's key -> the values that say so, first the one to write, which
# is also what a missing key means.
FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names for the tanh form
    "layer_norm_epsilon": (EPS,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks in old files; no parameters


def to_huggingface(run, out):
    """Write the run's latest weights as the new folder `out`; returns the step that they are of.

    InputError for a folder that is no run or damaged, and for an `out` that is there already.
    """
    run = Path(run)
    with new_folder(out) as folder:
        config, model = load_run(run)
        tokenizer, step = Tokenizer.load(run / "tokenizer.json"), step_of(run)
        weights = to_gpt2(model.state_dict(), config.model.heads)
        del weights["lm_head.weight"]  # wte's, as transformers itself saves it
        # Old versions of transformers want to read "format".
        header = {"format": "pt", "step": str(step)}
        save_file(weights, folder / "model.safetensors", header)
        _write(folder / "config.json", _config(config, tokenizer.eod))
        _write(folder / "generation_config.json", _generation(config.model, tokenizer))
        _write(folder / "tokenizer_config.json", _tokenizer(config.model))
        carry(run, folder)
    return step


def from_huggingface(source, out, given=None):
    """Write the Hugging Face folder `source` as a run, the new folder `out`; returns its step.

    The model's section of the run comes from config.json, the others from `given`, a YAML file or
    a preset's name, or from our own config.yaml where `source` has it. The step is 0 where the
    weights say none. InputError for a folder that is missing, damaged or of another kind of model.
    """
    source = Path(source)
    with new_folder(out) as folder:
        config = settings(source, given)
        model = _model(source / "config.json", config.model.attention)
        weights, step = _read_weights(source)
        state = _ours(weights, model, source)
        own = (source / "config.yaml").is_file()  # our export, which comes back as it was
        if not own and (words := _words(source)):
            words.save(folder / "tokenizer.json")
            model, state = _padded(model, state, words, source)
        write_run(folder, dataclasses.replace(config, model=model), state, step, source)
    return step


def _config(config, eod):
    """What config.json says. eod: id of the token that ends a document."""
    model = config.model
    sizes = {theirs: getattr(model, ours) for ours, theirs in SIZES.items()}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "dtype": config.train.dtype,
        **sizes,
        "n_inner": None,  # 4 n_embd
        **dict.fromkeys(DROPOUTS, model.dropout),
        **{key: values[0] for key, values in FIXED.items()},
        "initializer_range": model.init_std,
        "bos_token_id": eod,  # a document begins where the one before ended
        "eos_token_id": eod,
    }


def _generation(model, tokenizer):
    values = {"bos_token_id": tokenizer.eod, "eos_token_id": tokenizer.eod}
    padding = list(range(tokenizer.size, model.vocab))
    return values | ({"suppress_tokens": padding} if padding else {})


def _tokenizer(model):
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOD,
        "eos_token": EOD,
        "model_max_length": model.seq,
        "split_special_tokens": True,  # EOD in a text is read as the characters that it shows
        "clean_up_tokenization_spaces": False,
    }


def _model(path, attention):
    """config.Model of a config.json; InputError names what a GPT here can't be."""
    values = _read(path)
    kind = values.get("model_type")
    if kind != "gpt2":
        raise InputError(f"{path}: model_type={kind!r}: only 'gpt2' becomes a run")
    missing = [key for key in SIZES.values() if key not in values]
    if missing:
        raise InputError(f"{path}: {missing[0]} is missing")
    allowed = FIXED | {"n_inner": (None, 4 * values["n_embd"])}
    for key, good in allowed.items():
        found = values.get(key, good[0])
        if found not in good:
            raise InputError(f"{path}: {key}={found!r}: every GPT here has {key}={good[0]!r}")
    rates = [values.get(key, 0.1) for key in DROPOUTS]  # GPT-2's own
    if rates != rates[:1] * 3:
        told = ", ".join(f"{key}={rate!r}" for key, rate in zip(DROPOUTS, rates, strict=True))
        raise InputError(f"{path}: {told}: here one rate serves all three, make them equal")
    sizes = {ours: values[theirs] for ours, theirs in SIZES.items()}
    return Model(**sizes, dropout=rates[0], attention=attention)


def _read_weights(source):
    """({GPT-2's name: tensor}, number of the step) of the safetensors files of a folder."""
    names, index = ["model.safetensors"], source / "model.safetensors.index.json"
    if not (source / names[0]).is_file() and index.is_file():  # large models come in several files
        listed = _read(index).get("weight_map")
        if not isinstance(listed, dict):
            raise InputError(f"{index}: weight_map is missing, which names the files of weights")
        names = sorted({Path(str(name)).name for name in listed.values()})
    state, header = {}, {}
    for path in (source / name for name in names):
        try:
            state |= load_file(path)
            with safetensors.safe_open(path, "pt") as file:
                header |= file.metadata() or {}
        except (OSError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"can't read the weights in {path}: {reason}") from None
    step = header.get("step", "")
    return state, int(step) if step.isascii() and step.isdecimal() else 0


def _ours(weights, model, source):
    """The weights under our names. The prefix "transformer." may be missing, as in OpenAI's."""
    state = {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": x
        for name, x in weights.items()
        if not name.endswith(BUFFERS)
    }
    embedding, output = state.get("transformer.wte.weight"), state.pop("lm_head.weight", None)
    if output is not None and not (embedding is not None and output.equal(embedding)):
        raise InputError(f"{source}: lm_head.weight is not wte.weight: here the two are tied")
    count = sum(x.numel() for x in state.values())
    if count != model.parameters():
        raise InputError(
            f"{source} holds {count:,} weights, the sizes in its config.json make "
            f"{model.parameters():,}"
        )
    try:
        return from_gpt2(state, model.layers, model.heads)
    except KeyError as error:
        raise InputError(f"{source} has no weight {error.args[0]!r}") from None
    except RuntimeError as error:  # a shape that can't be queries, keys and values
        reason = " ".join(str(error).split())
        raise InputError(f"the weights in {source} do not fit its sizes: {reason}") from None


def _words(source):
    """The Tokenizer of a folder, None if it has none."""
    if (source / "tokenizer.json").is_file():
        return Tokenizer.load(source / "tokenizer.json")
    if (source / "vocab.json").is_file():
        return from_files(source / "vocab.json", source / "merges.txt")
    return None


def _padded(model, state, words, source):
    """Model and weights with rows of padding, where the embedding has none.

    A row of padding is the mean of all others, so its logit is their mean: less than a mean token's
    by Jensen's inequality. Rows of zeros would take nearly all of the probability, since GPT-2's
    logits are far below zero.
    """
    if words.size > model.vocab:
        raise InputError(
            f"the tokenizer of {source} has {words.size:,} tokens, its model has only "
            f"{model.vocab:,} rows"
        )
    if words.size < model.vocab or words.size == words.padded:
        return model, state
    rows = state["embedding.weight"]
    mean = rows.double().mean(0).to(rows.dtype).expand(words.padded - words.size, -1)
    state = state | {"embedding.weight": torch.cat([rows, mean])}
    return dataclasses.replace(model, vocab=words.padded), state


def _write(path, values):
    path.write_text(json.dumps(values, indent=2) + "\n")


def _read(path):
    """The dict in a JSON file."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object of keys and values")
    return values
