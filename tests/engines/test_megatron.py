"""What is Megatron-Core's alone: its reader, bfloat16, refusals. For the rest see parity.py."""

import shutil

import numpy as np
import parity
import pytest
import torch

from minimtnlg import engines, run
from minimtnlg.config import load, sized
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.prepare import prepare
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import RankError
from minimtnlg.train.mini import Mini, draw_data

pytestmark = pytest.mark.skipif(
    not engines.installed("megatron.core"),
    reason="pip install 'minimtnlg[engines]' brings Megatron-Core",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two sources, of 12 and of 30 documents."""
    folder, sources = tmp_path_factory.mktemp("text"), []
    for name, count in (("few", 12), ("many", 30)):
        (folder / name).mkdir()
        for i in range(count):
            (folder / name / f"{i}.txt").write_text(f"rank {i} of {name} sends a slice " * (9 + i))
        sources.append(str(folder / name))
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    prepare(out, sources, vocab=300, progress=False)
    return out


def config_of(corpus, *overrides):
    small = "model.seq=32 model.vocab=1024 train.tokens=0 train.steps=9 train.global_batch=8"
    split = "data.split=[80,20,0] train.eval_batches=2 train.ramp=[4,4,500]"
    return load("nano", [*small.split(), *split.split(), f"data.path={corpus}", *overrides])


def samples(configs):
    """What Megatron's reader gives for each Config: [all samples of train, all of valid]."""
    from minimtnlg.engines.megatron_data import read

    told = []
    for config in configs:
        parts = read(config, Corpus(config.data.path))
        told.append([[part[i] for i in range(len(part))] for part in parts])
    return told


def test_its_reader_gives_our_samples(corpus):
    names = list(Corpus(corpus).readers)
    blend = f"data.weights={{{names[0]}: 0.7, {names[1]}: 0.3}}"
    one = f"data.weights={{{names[1]}: 1}}"
    configs = [config_of(corpus, weights) for weights in (blend, one, "data.weights={}")]
    for told in run(samples, 2, configs):
        for config, parts in zip(configs, told, strict=True):
            for part, ours in zip(parts, draw_data(config, Corpus(corpus)), strict=True):
                assert len(part) == len(ours) > 8
                for i, sample in enumerate(part):
                    assert sample.dtype == np.int64 and np.array_equal(sample, ours[i])


def test_a_folder_that_takes_no_indices_is_one_line(corpus, tmp_path):
    folder = shutil.copytree(corpus, tmp_path / "corpus", ignore=lambda *_: ["megatron"])
    (folder / "megatron").write_text("in the way")
    with pytest.raises(RankError, match="keeps its indices beside the data") as error:
        run(samples, 1, [config_of(folder, "data.weights={}")])
    assert error.value.type == "InputError"


def both(configs):
    """[(what `trained` says of Mini, and of Megatron)] for each Config, on these ranks."""
    results = []
    for config in configs:
        p = config.parallel
        mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
        results.append([trained(make(config, mesh)) for make in (Mini, engines.named("megatron"))])
    return results


def trained(engine):
    """([(loss, norm)] of three steps, validation loss, {name: weight}); masks are uneven."""
    told = [engine.step(parity.mine(engine, 1), parity.LR, number) for number in range(3)]
    return told, engine.evaluate(parity.mine(engine, 1)), engine.state()


def test_in_bfloat16_it_is_as_near_as_rounding_lets_it():
    """Not bit for bit: its layers round at other places. Masters and sums are fp32 in both."""
    cases = ["dp=2", "dp=2 zero=1", "tp=2", "pp=2 zero=1"]
    configs = [parity.configure(f"{case} train.dtype=bfloat16") for case in cases]
    for results in run(both, 2, configs, timeout=600):
        for case, (ours, theirs) in zip(cases, results, strict=True):
            assert np.allclose(ours[0][0], theirs[0][0], rtol=2**-8), case
            assert np.allclose(ours[0], theirs[0], rtol=2**-5), case
            assert theirs[1] == pytest.approx(ours[1], rel=2**-8), case
            for name, x in theirs[2].items():
                assert x.dtype is torch.bfloat16
                # three steps at rate 1e-2 may differ by a step's length where a gradient is zero
                assert (x.float() - ours[2][name].float()).abs().max() <= 0.02, (case, name)


def test_a_source_without_a_document_to_validate_is_one_line(corpus):
    """Megatron would look for one forever; ours leaves the source out."""
    with pytest.raises(RankError, match="leaves no document of few for valid") as error:
        run(samples, 1, [config_of(corpus, "data.weights={}", "data.split=[98,2,0]")])
    assert error.value.type == "InputError"


def slopes(configs):
    """(gradients of one batch, the seed of the masks) of this rank, for each Config."""
    told = []
    for config in configs:
        p = config.parallel
        engine = engines.named("megatron")(config, Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp)))
        seed, before = torch.initial_seed(), engine.state()
        engine.step(parity.mine(engine, 0), 1e6, 0)
        told.append(({name: before[name] - x for name, x in engine.state().items()}, seed))
    return told


def test_recomputation_repeats_the_dropout_masks():
    sgd = "optim.eps=1e6 optim.weight_decay=0 optim.clip=0 model.dropout=0.2"
    layouts = ["tp=2", "tp=2 sequence_parallel=true", "pp=2"]
    cases = [f"{case} {sgd} recompute={how}" for case in layouts for how in ("none", "full")]
    for rank in run(slopes, 2, [parity.configure(case) for case in cases]):
        for case, (kept, _), (again, _) in zip(layouts, rank[::2], rank[1::2], strict=True):
            for name, x in kept.items():
                assert (x - again[name]).abs().max() < 1e-6, (case, name)


def test_stages_draw_masks_of_their_own():
    [(_, first)], [(_, second)] = run(slopes, 2, [parity.configure("pp=2 model.dropout=0.2")])
    assert first != second


def dropped(config):
    """(losses of one batch in training and without dropout, twice) at rate 0: nothing moves."""
    engine = engines.named("megatron")(config, Mesh(Layout(tp=2)))
    batch = parity.mine(engine, 0)
    return [[engine.step(batch, 0.0, 0)[0], engine.evaluate(batch)] for _ in range(2)]


def test_dropout_is_on_in_training_alone():
    for attention in ("sdpa", "readable"):
        config = parity.configure(f"tp=2 model.dropout=0.3 model.attention={attention}")
        (first, without), (second, again) = run(dropped, 2, config)[0]
        assert len({first, second, without}) == 3 and without == again


@pytest.mark.parametrize(
    "case, words",
    [
        ("train.dtype=float64", "has no train.dtype=float64: choose float32 or bfloat16"),
        ("train.dtype=float16", "has no train.dtype=float16: choose float32 or bfloat16"),
        ("pp=2 schedule=gpipe", "has no parallel.schedule=gpipe: choose 1f1b or interleaved"),
        ("zero=2", "has no parallel.zero=2: choose 0, or 1"),
        ("pp=3", "has no parallel.pp=3 stages of unequal size: choose a divisor of model.layers=4"),
    ],
)
def test_what_it_refuses(case, words):
    with pytest.raises(InputError, match="--engine megatron") as error:
        engines.named("megatron").refuse(parity.configure(case))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["", "schedule=gpipe", f"pp=2 {parity.INTERLEAVED}", "zero=1"])
def test_what_it_does_not_refuse(case):
    engines.named("megatron").refuse(parity.configure(case))


def test_its_settings_are_those_of_the_configuration():
    from minimtnlg.engines.megatron import settings

    config = sized(load("mtnlg-530b", ["train.dtype=bfloat16"]))
    theirs = settings(config)
    assert (theirs.num_layers, theirs.hidden_size, theirs.num_attention_heads) == (105, 20480, 128)
    assert (theirs.tensor_model_parallel_size, theirs.pipeline_model_parallel_size) == (8, 35)
    assert theirs.ffn_hidden_size == config.model.ffn and theirs.bf16
    assert theirs.hidden_dropout == theirs.attention_dropout == config.model.dropout
    assert theirs.recompute_granularity == config.parallel.recompute
