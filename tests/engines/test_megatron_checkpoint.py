"""A run and a Megatron folder are the same weights, to Megatron-Core itself and on the way back.

Loading Megatron takes seconds: four jobs of ranks do all that needs it, in fixtures.
"""

import argparse
import dataclasses
import functools
import json
import shutil

import pytest
import torch

from minimtnlg import config as configuration
from minimtnlg import run as start
from minimtnlg.engines import installed, megatron_checkpoint
from minimtnlg.engines.megatron_checkpoint import from_megatron, to_megatron
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.tensor import cut
from minimtnlg.ranks import RankError
from minimtnlg.train.checkpoint import load_run

needs_megatron = pytest.mark.skipif(
    not installed("megatron.core"), reason="pip install 'minimtnlg[engines]' brings megatron.core"
)
SIZES = dict(layers=4, hidden=32, heads=4, seq=24, vocab=512)
DTYPES = ("float64", "float32", "bfloat16", "float16")
LAYOUTS = [dict(tp=2), dict(pp=2), dict(pp=2, virtual=2, schedule="interleaved")]


def convert(calls):
    """The outcome of each (function's name, *args): its value, or the text of an InputError."""
    from minimtnlg.engines import megatron_checkpoint

    megatron_checkpoint._in_a_rank = megatron_checkpoint._rank  # in this one, all of them
    outcomes = []
    for name, *args in calls:
        try:
            outcomes.append(getattr(megatron_checkpoint, name)(*args))
        except InputError as error:
            outcomes.append(str(error))
    return outcomes


def load_in_layouts(source, ours, out):
    """Weights that Megatron's loader finds in `source` otherwise than they are in the run `ours`.

    Each layout saves what it has loaded in a folder of its own in `out`, as Megatron-LM does.
    """
    from megatron.core import dist_checkpointing

    from minimtnlg.engines import megatron

    config, model = load_run(ours)
    whole, wrong = model.state_dict(), []

    @megatron.on_device
    def load(number, parallel):
        settings = dataclasses.replace(
            config, parallel=dataclasses.replace(config.parallel, dp=1, **parallel)
        )
        mesh = Mesh(Layout(tp=settings.parallel.tp, pp=settings.parallel.pp))
        megatron.take_over_groups(settings)
        chunks = megatron.gpt_chunks(settings, megatron.settings(settings))
        for chunk in chunks:
            chunk.double()  # the table of positions too

        def shards():
            return {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(chunks)}

        found = dist_checkpointing.load(shards(), str(source))
        for i, chunk in enumerate(chunks):
            chunk.load_state_dict(found[f"model{i}"])  # strict: none is missing, none left over
        for name, x in megatron.our_names(chunks).items():
            dimension = x.partition_dim if x.tensor_model_parallel else None
            if not torch.equal(x, cut(whole[name], dimension, mesh.tp)):
                wrong.append((parallel, name))
        folder = out / str(number)
        folder.mkdir(exist_ok=True)
        torch.distributed.barrier()
        moments = dist_checkpointing.ShardedTensor.from_rank_offsets(
            "optimizer.state.exp_avg.decoder.final_layernorm.bias",
            torch.zeros(32),
            replica_id=torch.distributed.get_rank(),
        )
        extra = dict(iteration=12, checkpoint_version=3.0, args=argparse.Namespace(lr=0.1))
        dist_checkpointing.save(shards() | extra | {"optimizer": moments}, str(folder))
        return len(whole)

    counts = [load(number, parallel) for number, parallel in enumerate(LAYOUTS)]
    return wrong, counts


def compute_in_megatron(source, tokens, untied, mixed):
    """Logits of a GPTModel made as Megatron's users make one, with the weights in `source`.

    A model whose output layer is not tied is saved in `untied`, one of two types in `mixed`.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    from minimtnlg.engines import megatron

    def gpt(share, dtype):
        settings = TransformerConfig(
            num_layers=SIZES["layers"],
            hidden_size=SIZES["hidden"],
            num_attention_heads=SIZES["heads"],
            activation_func=functools.partial(torch.nn.functional.gelu, approximate="tanh"),
            params_dtype=dtype,
            use_cpu_initialization=True,
            masked_softmax_fusion=False,
            bias_dropout_fusion=False,
            attention_softmax_in_fp32=False,
        )
        return GPTModel(
            settings,
            get_gpt_layer_local_spec(),
            vocab_size=SIZES["vocab"],
            max_sequence_length=SIZES["seq"],
            share_embeddings_and_output_weights=share,
        )

    @torch.no_grad()
    @megatron.on_device
    def compute():
        megatron.take_over_groups(configuration.load("nano"))
        model = gpt(True, torch.float64).double().eval()
        model.load_state_dict(dist_checkpointing.load(model.sharded_state_dict(), str(source)))
        s = tokens.shape[1]
        mask = torch.ones(1, 1, s, s, dtype=torch.bool).triu(1)
        logits = model(tokens, torch.arange(s).expand_as(tokens), mask)
        for folder, model in (
            (untied, gpt(False, torch.float32)),
            (mixed, gpt(True, torch.bfloat16)),  # its table of positions is float32
        ):
            folder.mkdir()
            dist_checkpointing.save(model.sharded_state_dict(), str(folder))
        return logits

    return compute()


def keep(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def remove(name):
    return lambda folder: (folder / name).unlink()


DAMAGES = [
    (remove(".metadata"), "has no .metadata"),
    (remove("common.pt"), "has no common.pt"),
    (remove("metadata.json"), "has no metadata.json"),
    (remove("config.yaml"), "has no config.yaml, it is not minimtnlg's own export"),
    (remove("__0_0.distcp"), "No such file"),
    (keep("__0_0.distcp", lambda content: content[:-600]), "can't read the Megatron folder"),
    (keep(".metadata", lambda content: content[:-9]), "UnpicklingError"),
    (keep("common.pt", lambda content: content[:-9]), "can't read the Megatron folder"),
    (keep("metadata.json", lambda content: content[:-9]), "JSONDecodeError"),
    (keep("metadata.json", lambda content: b"[]"), "can't read the Megatron folder"),
    (keep("step", lambda content: b"many"), "can't read the Megatron folder"),
]
OTHER_SIZES = [
    ("model.hidden=64", "decoder.final_layernorm.bias is [32], by the run's configuration [64]"),
    ("model.layers=3", "is [4, 128], by the run's configuration [3, 128]"),
    ("model.vocab=1024", "is [512, 32], by the run's configuration [1024, 32]"),
    ("model.seq=16", "is [24, 32], by the run's configuration [16, 32]"),
]


@pytest.fixture(scope="module")
def runs(random_run):
    return {dtype: random_run(dtype, **SIZES) for dtype in DTYPES}


@pytest.fixture(scope="module")
def there_and_back(runs, tmp_path_factory):
    """A folder: float64, float32 ... are the runs as Megatron folders, X-back as runs again."""
    at = tmp_path_factory.mktemp("exported")
    calls = [("to_megatron", run, at / dtype) for dtype, run in runs.items()]
    calls += [("from_megatron", at / d, at / f"{d}-back", None, True) for d in DTYPES]
    assert start(convert, 1, calls, timeout=600) == [[7] * 8]
    return at


@pytest.fixture(scope="module")
def layouts(runs, there_and_back, tmp_path_factory):
    """(what load_in_layouts says on each rank, the folder where the layouts have saved)."""
    at = tmp_path_factory.mktemp("layouts")
    told = start(load_in_layouts, 2, there_and_back / "float64", runs["float64"], at, timeout=600)
    return told, at


@pytest.fixture(scope="module")
def done(runs, there_and_back, layouts, tmp_path_factory):
    """(tokens, Megatron's logits, outcomes of all other conversions by name, their folder)."""
    at, exported = tmp_path_factory.mktemp("done"), there_and_back / "float64"
    given = runs["float64"] / "config.yaml"
    calls = {
        f"layout {number}": (layouts[1] / str(number), at / f"layout {number}", given)
        for number, _ in enumerate(LAYOUTS)
    }
    calls |= {name: (at / f"of {name}", at / name, given) for name in ("untied", "mixed")}
    for i, (damage, _) in enumerate(DAMAGES):
        source = shutil.copytree(exported, at / f"damage {i}")
        damage(source)
        calls[f"damage {i}"] = (source, at / "nothing", None)
    for override, _ in OTHER_SIZES:
        other = at / f"{override}.yaml"
        configuration.save(configuration.load(given, [override]), other)
        calls[override] = (exported, at / "nothing", other)

    def program(tokens, *folders):
        logits = compute_in_megatron(exported, tokens, *folders)
        return logits, convert([("from_megatron", *call, True) for call in calls.values()])

    tokens = torch.randint(512, (3, 24), generator=torch.Generator().manual_seed(2))
    folders = (calls["untied"][0], calls["mixed"][0])
    [(logits, outcomes)] = start(program, 1, tokens, *folders, timeout=600)
    return tokens, logits, dict(zip(calls, outcomes, strict=True)), at


def files(folder):
    return {x.relative_to(folder): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


@needs_megatron
@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back_changes_no_byte(runs, there_and_back, dtype):
    assert files(runs[dtype]) == files(there_and_back / f"{dtype}-back")


@needs_megatron
def test_what_is_in_the_folder(runs, there_and_back):
    folder, run = there_and_back / "float32", runs["float32"]
    assert json.loads((folder / "metadata.json").read_text())["sharded_backend"] == "torch_dist"
    for name in ("config.yaml", "tokenizer.json"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()


@needs_megatron
def test_any_layout_of_megatron_reads_it(layouts):
    """Two ranks hold what is theirs of each weight, cut along tensors or along layers."""
    for wrong, counts in layouts[0]:
        assert wrong == [] and counts == [2 + 4 * 12 + 2] * len(LAYOUTS)


@needs_megatron
@pytest.mark.parametrize("number", range(len(LAYOUTS)))
def test_what_a_layout_of_megatron_wrote_becomes_a_run(runs, done, number):
    _, _, outcomes, at = done
    assert outcomes[f"layout {number}"] == 12  # its iteration
    (config, model), (expected, first) = (
        load_run(folder) for folder in (at / f"layout {number}", runs["float64"])
    )
    assert config == expected
    state = model.state_dict()
    assert all(torch.equal(state[name], x) for name, x in first.state_dict().items())


@needs_megatron
def test_megatrons_own_model_computes_the_same(runs, done):
    tokens, logits, *_ = done
    _, model = load_run(runs["float64"])
    with torch.no_grad():
        torch.testing.assert_close(logits, model(tokens).transpose(0, 1))


@needs_megatron
def test_models_that_megatron_makes_otherwise(done):
    _, _, outcomes, at = done
    assert "output_layer.weight is [512, 32], by the run's conf" in outcomes["untied"]
    assert outcomes["mixed"] == 0
    config, _ = load_run(at / "mixed")
    assert config.train.dtype == "float32"  # which holds bfloat16 as it is


@needs_megatron
@pytest.mark.parametrize(
    "name, says",
    [*((f"damage {i}", says) for i, (_, says) in enumerate(DAMAGES)), *OTHER_SIZES],
)
def test_what_can_not_be_read(done, name, says):
    _, _, outcomes, at = done
    assert says in outcomes[name] and "\n" not in outcomes[name]
    assert not (at / "nothing").exists() and not list(at.glob(".*"))


@needs_megatron
def test_one_conversion_by_itself(there_and_back, tmp_path, capfd):
    source = there_and_back / "float32"
    assert from_megatron(source, tmp_path / "out", trust=True) == 7
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == f"reading the pickles in {source}, which can run any code\n"
    assert files(tmp_path / "out") == files(there_and_back / "float32-back")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("type, raised", [("InputError", InputError), ("KeyError", RankError)])
@needs_megatron
def test_a_mistake_found_in_the_rank(tmp_path, monkeypatch, type, raised):
    def fail(*_, **__):
        raise RankError("rank 0 of 1 raised ...", 0, type, "no run", "lines")

    monkeypatch.setattr(megatron_checkpoint, "run", fail)
    with pytest.raises(raised, match="no run" if raised is InputError else "rank 0 of 1"):
        to_megatron(tmp_path / "nowhere", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_read_without_trust(tmp_path, capfd):
    with pytest.raises(InputError, match="can run any code .* if you trust whoever made it, say"):
        from_megatron(tmp_path / "nowhere", tmp_path / "out")
    assert capfd.readouterr().err == "" and not list(tmp_path.iterdir())


def test_without_megatron(tmp_path, monkeypatch):
    monkeypatch.setattr(megatron_checkpoint, "installed", lambda package: False)
    configuration.save(configuration.load("nano"), tmp_path / "config.yaml")
    for call in (to_megatron, from_megatron):
        options = dict(trust=True) if call is from_megatron else {}
        with pytest.raises(InputError, match=r"pip install 'minimtnlg\[engines\]' brings it"):
            call(tmp_path, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_what_is_there_already_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    for call in (to_megatron, from_megatron):
        options = dict(trust=True) if call is from_megatron else {}
        with pytest.raises(InputError, match="is there already: choose another --out"):
            call(tmp_path / "nowhere", tmp_path / "out", **options)
    assert [path.read_text() for path in tmp_path.rglob("file")] == ["mine"]
