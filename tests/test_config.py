"""The configuration: exact counts, every preset legal, every mistake one line that helps."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.config import PRESETS, Config, Model, Optim, Parallel, Train, load, preset, save
from minimtnlg.errors import InputError


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("nano", 1_864_960),
        ("small", 4_001_664),
        ("micro", 10_067_456),
        ("gpt2-1.5b", 1_559_120_000),
        ("megatron-8b", 8_317_040_640),
        ("turing-17b", 17_180_859_136),
        ("gpt3-175b", 174_615_846_912),
        ("mtnlg-530b", 529_600_819_200),  # [S12, Table 1: 529.6 B]
        ("gpt-1t", 1_008_038_758_400),  # [S12, Table 1: 1008.0 B]
    ],
)
def test_parameter_count(name, parameters):
    assert preset(name).model.parameters() == parameters


def test_model_of_the_paper():
    config = preset("mtnlg-530b")
    model = config.model
    assert (model.layers, model.hidden, model.heads, model.seq) == (105, 20480, 128, 2048)
    assert (model.head_size, model.ffn) == (160, 81920)
    assert model.init_std == pytest.approx(4.034e-3, rel=1e-3)  # [S3] prints 4.0e-3
    assert config.parallel.tp * config.parallel.pp * config.parallel.dp == 2240
    assert len(config.train.batches()) == 60  # 32 to 1920 in 59 increments


def test_flops_are_those_of_the_papers():
    model, B = preset("mtnlg-530b").model, 1920
    L, h, s, V = model.layers, model.hidden, model.seq, model.vocab
    full = 96 * B * s * L * h**2 * (1 + s / (6 * h) + V / (16 * L * h))  # [S12, eq. 3]
    assert model.flops(B, "full") == pytest.approx(full, rel=1e-12)
    assert full == pytest.approx(1.69264e19, rel=1e-5)
    none = 72 * B * s * L * h**2 * (1 + s / (6 * h) + V / (12 * h * L))  # [S13, eq. 7]
    assert model.flops(B) == pytest.approx(none, rel=1e-12)
    assert model.flops(B) < model.flops(B, "selective") < 1.01 * model.flops(B)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_file(name, tmp_path):
    path = tmp_path / "config.yaml"
    save(preset(name), path)
    assert load(path) == preset(name) == load(name)


@pytest.mark.parametrize("name", ["nano", "small", "micro"])
def test_shipped_files_are_the_presets(name, request):
    path = request.config.rootpath / "scaling" / "configs" / f"{name}.yaml"
    assert load(path) == preset(name)


def test_nano_can_be_cut_eight_ways():
    nano = preset("nano")
    for cut in (Parallel(tp=8), Parallel(pp=8), Parallel(tp=2, pp=2, dp=2)):
        dataclasses.replace(nano, parallel=cut)


@pytest.mark.parametrize(
    "override, says",
    [
        ("model.layer=4", "unknown key 'model.layer'; Model has layers"),
        ("modle.layers=4", "no section 'modle'; there are model, parallel"),
        ("model.heads=7", "heads=7 does not divide model.hidden=128: choose one of [1, 2, 4, 8]"),
        ("model.layers=0", "model.layers=0: input should be greater than or equal to 1"),
        ("model.layers=true", "model.layers=True: input should be a number"),
        ("optim.lr=true", "optim.lr=True: input should be a number"),
        ("data.split=[0,0,0]", "data.split=[0.0, 0.0, 0.0]: shares"),
        ("model.layers=two", "model.layers='two': input should be a valid integer"),
        ("model.layers=", "model.layers=None"),
        ("model.layers=2.5", "model.layers=2.5"),
        ("model.dropout=1", "model.dropout=1: input should be less than 1"),
        ("model.dropout=.nan", "model.dropout=nan"),
        ("model.attention=flash", "should be 'sdpa' or 'readable'"),
        ("parallel.tp=3", "parallel.tp=3 does not divide model.heads=8"),
        ("parallel.pp=9", "parallel.pp=9 stages need at least one layer each"),
        ("parallel.recompute=selective", "choose model.attention=readable"),
        ("optim.min_lr=1", "optim.min_lr=1 is above the peak"),
        ("optim.warmup_tokens=2e9", "does not end before optim.decay_tokens"),
        ("optim.lr=-1e-3", "optim.lr=-0.001: input should be greater than 0"),
        ("train.steps=5", "set exactly one of them"),
        ("train.tokens=0", "set exactly one of them"),
        ("train.ramp=[8,7,100]", "does not reach train.global_batch=16"),
        ("train.micro_batch=16", "a global batch of 8 is not divisible"),
        ("train.dtype=fp16", "'bfloat16' or 'float16'"),
        ("data.split=[98,2]", "data.split"),
        ("data.weights={wikipedia: 0}", "data.weights.wikipedia=0"),
        ("data.weights={1: 2}", "data.weights.1"),
        ("train.seed=-1", "train.seed=-1: input should be greater than or equal to 0"),
        ("train.seed=4294967296", "train.seed=4294967296: input should be less than 4294967296"),
        ("model.layers=" + "9" * 5000, "not YAML: Exceeds the limit"),
        ("model.layers=" + "[" * 1000, "not YAML"),
        ("layers=4", "write section.key=value"),
        ("model.layers", "write section.key=value"),
        ("model.layers=[", "not YAML"),
    ],
)
def test_overrides_that_can_not_be(override, says):
    with pytest.raises(InputError) as error:
        load("nano", [override])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_nearest_name_comes_last():
    for override, near in (("model.layer=4", "layers"), ("modle.layers=4", "model")):
        with pytest.raises(InputError) as error:
            load("nano", [override])
        assert str(error.value).endswith(f"did you mean {near!r}?")


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "expected the sections model, parallel, data, optim, train"),
        ("model: 3\n", "section 'model' should hold keys"),
        ("modell: {}\n", "did you mean 'model'?"),
        ("model: {layers: 2}\n", "is missing"),
        ("model: {layers: 2, layers: 3}\n", "duplicate key"),
        ("model: [\n", "not YAML"),
    ],
)
def test_files_that_can_not_be(text, says, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_is_not_there():
    with pytest.raises(
        InputError, match="neither a YAML file nor a preset; .* did you mean 'nano'"
    ):
        load("nanoo")
    with pytest.raises(InputError, match="neither a YAML file nor a preset"):
        load("nano\0")
    with pytest.raises(InputError, match="did you mean 'gpt-1t'"):
        preset("gpt-2t")


def test_numbers_may_be_written_with_an_exponent():
    config = load("nano", ["train.tokens=1e6", "optim.lr=5e-3"])
    assert config.train.tokens == 1_000_000 and isinstance(config.train.tokens, int)
    assert config.optim.lr == 5e-3


def test_sections_are_checked_when_made_in_python():
    with pytest.raises(InputError, match="unknown key 'layer'; .* did you mean 'layers'"):
        Model(layer=2, hidden=8, heads=2, seq=4, vocab=8)
    with pytest.raises(InputError, match="does not divide"):
        dataclasses.replace(preset("nano").model, heads=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("nano").model.layers = 3


@given(
    layers=st.integers(1, 6),
    heads=st.integers(1, 5),
    head_size=st.integers(1, 9),
    seq=st.integers(1, 33),
    vocab=st.integers(1, 99),
)
def test_any_model_survives_a_file(layers, heads, head_size, seq, vocab, tmp_path_factory):
    model = Model(layers=layers, hidden=heads * head_size, heads=heads, seq=seq, vocab=vocab)
    config = Config(
        model=model,
        optim=Optim(lr=1e-3, min_lr=1e-4, warmup_tokens=0, decay_tokens=10),
        train=Train(steps=1, global_batch=1, micro_batch=1),
    )
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    save(config, path)
    assert load(path) == config
