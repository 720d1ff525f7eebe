"""verify: a layout that is right is equal, one that is wrong is not; what it refuses and prints."""

import json
import sys

import pytest

from minimtnlg import cli
from minimtnlg.course.mutants import mutant
from minimtnlg.errors import InputError
from minimtnlg.train.verify import configure, equal, verify

SMALL = ["model.layers=4", "model.hidden=16", "model.heads=4", "model.seq=8", "model.vocab=32"]
KINDS = ("loss", "gradient", "grad_norm", "sgd", "adam")


def small(*overrides):
    return configure("nano", [*SMALL, *overrides])


@pytest.mark.parametrize(
    "layout",
    [
        [],
        ["parallel.dp=2", "parallel.zero=2"],
        ["parallel.dp=2", "parallel.zero=3", "parallel.recompute=full"],
        ["parallel.pp=2", "parallel.schedule=interleaved", "parallel.virtual=2"],
        ["parallel.tp=2", "parallel.pp=2", "parallel.sequence_parallel=true"],
        ["parallel.pp=3", "parallel.zero=1", "parallel.schedule=gpipe"],  # 2, 1 and 1 layers
    ],
    ids=" ".join,
)
def test_a_layout_is_equal_to_one_process(layout):
    config = small(*layout)
    result = verify(config)
    assert equal(result)
    assert result["layout"] == vars(config.parallel)
    assert set(result["max_abs_diff"]) == set(result["worst"]) == set(KINDS)
    assert all(0 <= value < 1e-12 for value in result["max_abs_diff"].values())
    blocks = {f"blocks.{i}.mlp.up.weight" for i in range(4)}
    assert blocks | {"embedding.weight", "position.weight"} <= result["gradients"].keys()
    if layout:  # not bit for bit the same: so it was the layout that computed
        assert max(result["max_abs_diff"].values()) > 0


@pytest.mark.parametrize(
    "bug, layout, shows, worst",
    [
        ("f_without_all_reduce", "tp=2", KINDS[1:], ""),
        ("layer_norm_gradient_of_one_piece", "tp=2 sequence_parallel=true", KINDS[1:4], "norm"),
        ("sent_before_the_last_micro_batch", "dp=2", KINDS[1:], ""),
        ("mean_of_replica_means", "dp=2", KINDS, ""),
        ("tied_embedding_not_summed", "pp=2", KINDS[1:4], "embedding"),
        ("norm_of_own_stage", "pp=2", ("grad_norm",), ""),
        ("stale_shard", "dp=2 zero=3", ("sgd", "adam"), ""),
    ],
)
def test_a_mistake_stands_out(bug, layout, shows, worst):
    """shows: where, among other places. worst: part of the name of the parameter."""
    with mutant(bug):
        result = verify(small(*(f"parallel.{setting}" for setting in layout.split())))
    assert not equal(result)
    assert all(result["max_abs_diff"][kind] > 1e-6 for kind in shows), result
    assert worst in result["worst"]["gradient"]


def test_no_number_is_a_difference():
    right = {"max_abs_diff": dict.fromkeys(KINDS, 1e-13)}
    assert equal(right)
    for value in (float("nan"), float("inf"), 1e-9):
        assert not equal({"max_abs_diff": right["max_abs_diff"] | {"sgd": value}})


def test_the_batch_fits_the_layout_unless_it_is_given():
    config = small("parallel.pp=2", "parallel.dp=2", "model.dropout=0.1", "train.dtype=bfloat16")
    assert (config.train.global_batch, config.train.micro_batch) == (8, 1)
    assert (config.train.dtype, config.model.dropout) == ("float64", 0)
    config = small("parallel.dp=2", "train.global_batch=12", "train.micro_batch=2")
    assert (config.train.global_batch, config.train.micro_batch) == (12, 2)
    assert small().parallel.dp == 1
    with pytest.raises(InputError, match="did you mean 'layers'"):
        small("model.layer=3")


def test_a_model_too_large_is_refused_and_nano_proposed():
    layout = ["parallel.tp=2", "parallel.dp=2", "parallel.pp=5"]
    with pytest.raises(InputError) as error:
        verify(configure("mtnlg-530b", layout))
    words = str(error.value)
    assert "529,600,819,200 parameters" in words and "\n" not in words
    assert "minimtnlg verify nano" in words and "proves the same layout on a small model" in words
    for override in layout:
        assert override in words


@pytest.fixture
def call(monkeypatch, capsys):
    """call(*args) -> (exit status, stdout) of `minimtnlg verify ARGS`, run in this process."""

    def verify_(*args):
        monkeypatch.setattr(sys, "argv", ["minimtnlg", "verify", *args])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, capsys.readouterr().out

    return verify_


def test_json_on_the_command_line(call):
    status, out = call("nano", *SMALL, "parallel.dp=2", "--json")
    told = json.loads(out)
    assert status == 0 and out.count("\n") == 1
    assert told["layout"]["dp"] == 2
    assert set(told["max_abs_diff"]) == set(KINDS)


def test_the_command_line_says_what_is_wrong(call):
    """CONFIG may be left out; the exit status is 1 and the table names the worst tensor."""
    layout = [*SMALL, "parallel.pp=2"]
    status, out = call(*layout)
    assert status == 0 and "parallel and serial are equal: all within 1e-10" in out
    with mutant("tied_embedding_not_summed"):
        status, out = call(*layout)
    assert status == 1 and "NOT EQUAL" in out and "embedding.weight" in out
    assert out.splitlines()[0].startswith("layout  tp 1, pp 2")
