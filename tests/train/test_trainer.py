"""A whole run on a small corpus: it learns, repeats itself bit for bit, refuses what cannot be."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from metrics import rows

from minimtnlg.config import Parallel, load, save, sized
from minimtnlg.data.prepare import prepare
from minimtnlg.errors import InputError
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import RankError
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.loop import validate
from minimtnlg.train.mini import Mini, draw_data
from minimtnlg.train.precision import LossScale
from minimtnlg.train.trainer import open_corpus, train


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """(folder, result) of one run."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, train(config, out, progress=False)


def corpus_texts(corpus):
    """The folder that `corpus` was prepared from."""
    return json.loads((corpus / "corpus.json").read_text())["options"]["sources"][0]


def test_it_learns_more_than_the_frequency_of_tokens(run):
    out, result = run
    assert result["valid_loss"] < result["unigram_entropy"] - 1
    assert rows(out)[0]["loss"] == pytest.approx(math.log(1024) + 1 / 6, abs=0.3)


def test_metrics_hold_one_object_a_step(run, config):
    out, result = run
    lines = rows(out)
    assert [row["step"] for row in lines] == list(range(1, result["steps"] + 1))
    assert lines[-1]["tokens"] == result["tokens"] >= config.train.tokens
    assert {row["batch_size"] for row in lines} == {4, 8}
    keys = "step tokens loss grad_norm lr batch_size step_s tokens_per_s tflops".split()
    assert all(set(row) - {"valid_loss"} == set(keys) for row in lines)
    measured = [row["step"] for row in lines if "valid_loss" in row]
    assert measured == [*range(10, result["steps"], 10), result["steps"]]
    assert sum(row["batch_size"] for row in lines) * config.model.seq == result["tokens"]


def test_the_folder_gives_the_model_back(run, config):
    out, result = run
    found, model = load_run(out)
    assert found == sized(config)
    _, valid = draw_data(config, open_corpus(config))
    engine = Mini(found, Mesh())
    engine.model.load_state_dict(model.state_dict())
    assert validate(found, engine, valid) == result["valid_loss"]
    assert (out / "tokenizer.json").is_file()
    assert not list(out.rglob("*.partial"))


def test_a_silent_run_prints_nothing_of_the_default_corpus_either(
    config, corpus, tmp_path, monkeypatch, capsys
):
    def default(_, **options):
        return prepare(corpus, [corpus_texts(corpus)], vocab=300, **options)

    monkeypatch.setattr("minimtnlg.train.trainer.prepare", default)
    settings = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=""),
        train=dataclasses.replace(config.train, tokens=0, steps=1),
    )
    train(settings, tmp_path / "run", progress=False)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_same_seed_gives_the_same_run(config, tmp_path, dtype):
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.1),
        train=dataclasses.replace(config.train, dtype=dtype, tokens=0, steps=6),
    )
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=2))
    losses = []
    for name, settings in (("a", config), ("b", config), ("c", other)):
        torch.rand(3)  # whatever was drawn before must not matter
        train(settings, tmp_path / name, progress=False)
        losses.append([(row["loss"], row["grad_norm"]) for row in rows(tmp_path / name)])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_fp16_trains_and_scales_its_loss(config, tmp_path):
    settings = dataclasses.replace(
        config, train=dataclasses.replace(config.train, dtype="float16", tokens=0, steps=12)
    )
    result = train(settings, tmp_path / "run", progress=False)
    assert result["loss"] < rows(tmp_path / "run")[0]["loss"] - 1


def test_metrics_are_json_even_when_fp16_overflows(config, tmp_path, monkeypatch):
    monkeypatch.setattr(LossScale.__init__, "__defaults__", (2.0**60, 1.0, 1000, 2))
    settings = dataclasses.replace(
        config, train=dataclasses.replace(config.train, dtype="float16", tokens=0, steps=3)
    )
    train(settings, tmp_path / "run", progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    norms = [json.loads(line, parse_constant=pytest.fail)["grad_norm"] for line in lines]
    assert norms == [None, None, None]


def test_recomputation_changes_no_number(config, tmp_path):
    short = dataclasses.replace(config.train, dtype="float64", tokens=0, steps=3)
    losses = []
    for recompute in ("none", "selective", "full"):
        settings = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, dropout=0.1, attention="readable"),
            parallel=dataclasses.replace(config.parallel, recompute=recompute),
            train=short,
        )
        losses.append(train(settings, tmp_path / recompute, progress=False)["loss"])
    assert losses[0] == losses[1] == losses[2]


def test_a_folder_that_holds_a_run_is_left_alone(run, config):
    out, _ = run
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds a run or other files"):
        train(config, out, progress=False)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_no_file_of_another_kind_is_overwritten(config, tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(InputError, match="holds a run or other files"):
        train(config, tmp_path, progress=False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_larger_than_this_machine_is_refused(config, tmp_path):
    huge = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden=2_000_000))
    with pytest.raises(InputError, match=r"take [\d,]+ GB with gradients and moments"):
        train(huge, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_does_not_fit(config, tmp_path):
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab=128))
    with pytest.raises(InputError, match="has 300 different tokens, more than model.vocab=128"):
        train(small, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_stops(config, tmp_path):
    wild = dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, lr=1e30, warmup_tokens=0, clip=0)
    )
    with pytest.raises(InputError, match=r"step \d+: .* the run has diverged: lower optim.lr"):
        train(wild, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "latest").exists()


@pytest.mark.parametrize(
    "parallel",
    [
        dict(tp=2, pp=2, dp=2, zero=1, schedule="interleaved", virtual=2, sequence_parallel=True),
        dict(tp=2, dp=2, zero=3, recompute="full"),
        dict(pp=3, schedule="gpipe"),  # stages of 2, 1 and 1 layers; the middle one reads no data
    ],
)
def test_a_layout_trains_as_one_process_does(config, tmp_path, parallel):
    """Rows, validation losses and the weights on disk; in float64 nothing but rounding differs."""
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, layers=4),
        train=dataclasses.replace(
            config.train, dtype="float64", tokens=0, steps=4, eval_every=2, micro_batch=1
        ),
    )
    layout = dataclasses.replace(config, parallel=Parallel(**parallel))
    results = [
        train(settings, tmp_path / name, progress=False)
        for name, settings in (("serial", config), ("layout", layout))
    ]
    assert results[0]["valid_loss"] == pytest.approx(results[1]["valid_loss"], abs=1e-10)
    both = zip(rows(tmp_path / "serial"), rows(tmp_path / "layout"), strict=True)
    for one, other in both:
        assert one.keys() == other.keys()
        for key in one.keys() - {"step_s", "tokens_per_s", "tflops"}:
            assert other[key] == pytest.approx(one[key], abs=1e-10), key
    states = [load_run(tmp_path / name)[1].state_dict() for name in ("serial", "layout")]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert (tensor - states[1][name]).abs().max() < 1e-10, name


def test_the_number_of_ranks_decides_the_replicas(config, tmp_path):
    settings = dataclasses.replace(
        config,
        parallel=Parallel(tp=2),
        train=dataclasses.replace(config.train, tokens=0, steps=1, micro_batch=1),
    )
    train(settings, tmp_path / "run", progress=False, ranks=4)
    assert load(tmp_path / "run" / "config.yaml").parallel.dp == 2
    with pytest.raises(InputError, match="make 2 ranks, not 3: give a multiple of tp x pp = 2"):
        train(settings, tmp_path / "other", progress=False, ranks=3)
    assert not (tmp_path / "other").exists()


def test_a_folder_that_can_not_be_made_is_one_line(config, tmp_path):
    (tmp_path / "file").write_text("mine")
    two = dataclasses.replace(config, parallel=Parallel(dp=2))
    with pytest.raises(InputError, match="can't write the run into"):
        train(two, tmp_path / "file" / "run", progress=False)


def test_a_validation_loss_that_is_no_number_ends_the_run(config, tmp_path):
    """The only step diverges: its own loss is still that of the initial weights."""
    wild = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=1e30, warmup_tokens=0, clip=0),
        train=dataclasses.replace(config.train, tokens=0, steps=1),
    )
    with pytest.raises(InputError, match="step 1: valid_loss is nan, the run has diverged"):
        train(wild, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "latest").exists()


def test_a_layout_that_diverges_ends_in_one_line(config, tmp_path):
    wild = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=1e30, warmup_tokens=0, clip=0),
        parallel=Parallel(dp=2),
    )
    with pytest.raises(RankError) as error:
        train(wild, tmp_path / "run", progress=False)
    assert error.value.type == "InputError"
    assert "the run has diverged: lower optim.lr" in error.value.message
    assert not (tmp_path / "run" / "latest").exists()


def test_runs_that_can_not_be_read(run, config, tmp_path):
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        load_run(tmp_path)
    out, _ = run
    save(config, tmp_path / "config.yaml")
    (tmp_path / "latest").write_text((out / "latest").read_text())
    with pytest.raises(InputError, match="index.json is missing"):
        load_run(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    [weights] = copy.rglob("rank-00000.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="rank-00000.safetensors is damaged: .* bytes of"):
        load_run(copy)


def test_a_length_beyond_all_bounds_is_refused_at_once(config, tmp_path):
    endless = dataclasses.replace(
        config, train=dataclasses.replace(config.train, tokens=0, steps=10**12)
    )
    with pytest.raises(InputError, match="more than 2\\*\\*31 samples"):
        train(endless, tmp_path / "run", progress=False)
