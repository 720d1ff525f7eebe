"""A run that was stopped and resumed is the run that was not: bit by bit, and in other layouts."""

import dataclasses
import shutil

import pytest
import torch
from metrics import timeless
from safetensors.torch import load_file

from minimtnlg.config import Config, Parallel, sized
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import RankError, run
from minimtnlg.train import checkpoint, loop, start
from minimtnlg.train.audit import complaints, contents, opened
from minimtnlg.train.mini import Mini, draw_data
from minimtnlg.train.precision import LossScale
from minimtnlg.train.reshard import reshard
from minimtnlg.train.saving import Saver
from minimtnlg.train.settings import settings_of
from minimtnlg.train.trainer import open_corpus, train

STEPS, RAMP = 12, (4, 4, 4 * 32 * 5)  # the batch doubles after five steps

LAYOUTS = {
    "serial": Parallel(),
    "tp2 pp2 dp2 zero1": Parallel(tp=2, pp=2, dp=2, zero=1),
    "tp4 sp": Parallel(tp=4, sequence_parallel=True),
    "pp3": Parallel(pp=3),  # 2, 1 and 1 layers
    "pp2 v2": Parallel(pp=2, virtual=2, schedule="interleaved"),
    "dp2": Parallel(dp=2),
    "dp4 zero1": Parallel(dp=4, zero=1),
    "dp2 zero2": Parallel(dp=2, zero=2),
    "tp2 dp2 zero3": Parallel(tp=2, dp=2, zero=3),
    "dp2 zero3": Parallel(dp=2, zero=3),
    "dp4 zero3": Parallel(dp=4, zero=3),
}


def changed(config, parallel=None, dropout=0.1, **train):
    """`config` with 4 layers, dropout, a ramp, few steps; `train` has keys of config.Train."""
    defaults = dict(tokens=0, steps=STEPS, global_batch=8, ramp=RAMP, micro_batch=1, eval_every=5)
    return Config(
        model=dataclasses.replace(config.model, layers=4, heads=4, dropout=dropout),
        parallel=parallel or Parallel(),
        data=config.data,
        optim=config.optim,
        train=dataclasses.replace(config.train, **defaults | train),
    )


def tensors(run, step):
    found = checkpoint.Checkpoint(checkpoint.folder_of(run, step))
    return {key: found.read(key) for key in found.tensors}


def bits(x):
    return x.contiguous().view(-1).view(torch.uint8)


def back_to(run, step):
    """Take away what was saved after `step`, as if the run had been stopped just there."""
    for later in checkpoint.steps(run):
        if later > step:
            shutil.rmtree(checkpoint.folder_of(run, later))
    (run / "latest").write_text(f"step-{step}")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_stopped_anywhere_it_ends_alike(config, tmp_path, dtype, monkeypatch):
    """After each step, across the ramp, the end of an epoch and, in fp16, changes of the scale."""
    monkeypatch.setattr(LossScale.__init__, "__defaults__", (2.0**40, 1.0, 3, 2))
    settings = changed(config, dtype=dtype, save_every=1, keep=0, micro_batch=2)
    few = dataclasses.replace(config.data, split=(5, 95, 0))
    settings = dataclasses.replace(settings, data=few)
    train_set, _ = draw_data(settings, open_corpus(settings))
    epoch = len(set(train_set.document_index.tolist()))
    assert len(train_set.document_index) > epoch  # more than one is read
    whole = tmp_path / "whole"
    train(settings, whole, progress=False)
    right, last = timeless(whole), tensors(whole, STEPS)
    assert {row["batch_size"] for row in right} == {4, 8}
    found = [checkpoint.Checkpoint(checkpoint.folder_of(whole, n)) for n in range(1, STEPS + 1)]
    scales = {each.index["numbers"]["loss_scale"] for each in found}
    assert (len(scales) > 2) == (dtype == "float16")
    for step in range(1, STEPS) if dtype == "bfloat16" else (2, 5, 9):
        again = tmp_path / f"from {step}"
        shutil.copytree(whole, again)
        back_to(again, step)
        part = dataclasses.replace(settings.train, async_save=step % 2 == 0)
        train(dataclasses.replace(settings, train=part), again, progress=False, resume=True)
        assert timeless(again) == right
        assert complaints(again) == []
        for key, x in tensors(again, STEPS).items():
            assert torch.equal(bits(x), bits(last[key])), (step, key)


@pytest.mark.parametrize(
    "name, dtype, asynchronous",
    [
        ("tp2 pp2 dp2 zero1", "bfloat16", True),
        ("dp2 zero3", "bfloat16", True),
        ("dp2 zero3", "float16", False),
    ],
)
def test_a_layout_resumes_bit_by_bit(config, tmp_path, name, dtype, asynchronous):
    settings = changed(
        config, LAYOUTS[name], dtype=dtype, save_every=4, keep=0, async_save=asynchronous
    )
    out = tmp_path / "run"
    train(settings, out, progress=False)
    right, last = timeless(out), tensors(out, STEPS)
    back_to(out, 4)
    train(settings, out, progress=False, resume=True)
    assert timeless(out) == right and checkpoint.steps(out) == [12, 8, 4]
    for key, x in tensors(out, STEPS).items():
        assert torch.equal(bits(x), bits(last[key])), key


def from_to(config, source, out, step):
    """On a rank: load the checkpoint in `source`, save it unchanged in `out`; the index."""
    p = config.parallel
    mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
    engine = Mini(config, mesh)
    settings = settings_of(config, start.digest_of(open_corpus(config)))
    found = Saver(engine, source, settings).restore()
    saver = Saver(engine, out, settings)
    saver.begin({key: found[key] for key in ("step", "samples", "recent", "beside")})
    saver.finish()
    return found["step"]


@pytest.fixture(scope="module")
def origin(config, tmp_path_factory):
    """(settings, folder) of a bf16 run of one process, saved after six steps."""
    folder = tmp_path_factory.mktemp("origin") / "run"
    settings = changed(config, dtype="bfloat16", save_every=6, keep=0)
    train(settings, folder, progress=False)
    back_to(folder, 6)
    return settings, folder


def test_from_layout_to_layout_no_bit_changes(origin, tmp_path):
    """Once around all layouts and back: weights, masters and moments are those of the start."""
    settings, folder = origin
    right, here = tensors(folder, 6), folder
    for number, (name, parallel) in enumerate([*LAYOUTS.items(), ("serial", Parallel())]):
        config = sized(dataclasses.replace(settings, parallel=parallel))
        p, out = config.parallel, tmp_path / str(number)
        shutil.copytree(folder, out, ignore=shutil.ignore_patterns("checkpoints"))
        run(from_to, p.tp * p.pp * p.dp, config, here, out, 6)
        for key, x in tensors(out, 6).items():
            assert torch.equal(bits(x), bits(right[key])), (name, key)
        here = out
        # Every rank writes, and nothing is written twice.
        about = contents(opened(out))
        assert about["files"] == p.tp * p.pp * p.dp
        held = sum(row["bytes"] for row in about["kinds"])
        written = sum(
            x.nbytes
            for path in out.rglob("*.safetensors")
            for x in load_file(path).values()
        )
        assert held == written == 14 * settings.model.parameters()


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "serial"])
def test_the_rewritten_file_is_what_the_layout_writes_itself(origin, tmp_path, name):
    settings, folder = origin
    config = sized(dataclasses.replace(settings, parallel=LAYOUTS[name]))
    p = config.parallel
    shutil.copytree(folder, tmp_path / "ranks", ignore=shutil.ignore_patterns("checkpoints"))
    run(from_to, p.tp * p.pp * p.dp, config, folder, tmp_path / "ranks", 6)
    keys = [f"parallel.{key}={value}" for key, value in dataclasses.asdict(p).items()]
    assert reshard(folder, tmp_path / "rewritten", keys) == config
    assert complaints(tmp_path / "rewritten") == []
    both = [checkpoint.folder_of(tmp_path / kind, 6) for kind in ("ranks", "rewritten")]
    names = [sorted(path.name for path in each.iterdir()) for each in both]
    assert names[0] == names[1]
    for file in names[0]:
        assert (both[0] / file).read_bytes() == (both[1] / file).read_bytes(), file


@pytest.fixture(scope="module")
def exact(config, tmp_path_factory):
    """(settings, folder) of a run of one process in float64 without dropout, saved thrice."""
    folder = tmp_path_factory.mktemp("exact") / "run"
    settings = changed(config, dropout=0.0, dtype="float64", save_every=4, keep=0)
    train(settings, folder, progress=False)
    return settings, folder


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "serial"])
def test_another_layout_goes_on_with_the_same_losses(exact, tmp_path, name):
    """One process makes four steps, a layout goes on, and one process ends what it has saved.

    Where four ranks share every layer, they take four sequences at once: they talk less often.
    """
    settings, folder = exact
    out, p = tmp_path / "run", LAYOUTS[name]
    shutil.copytree(folder, out)
    wide = dataclasses.replace(settings.train, micro_batch=4 if p.tp == 4 else 1)
    for step, parallel, own in ((4, p, wide), (8, Parallel(), settings.train)):
        back_to(out, step)
        going = dataclasses.replace(settings, parallel=parallel, train=own)
        train(going, out, progress=False, resume=True)
        for mine, theirs in zip(timeless(out), timeless(folder), strict=True):
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                assert value == pytest.approx(theirs[key], abs=1e-11), (mine["step"], key)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(optim=dict(lr=3e-3)), "optim.lr=0.01, and not 0.003"),
        (dict(train=dict(seed=2)), "train.seed=1, and not 2"),
        (dict(train=dict(steps=13)), "train.steps=12, and not 13"),
        (dict(train=dict(dtype="float32")), "train.dtype=bfloat16, and not float32"),
        (dict(model=dict(hidden=64)), "model.hidden=32, and not 64"),
        (dict(data=dict(split=(80, 20, 0))), "data.split="),
    ],
    ids=str,
)
def test_other_settings_are_refused(origin, tmp_path, change, says):
    settings, folder = origin
    shutil.copytree(folder, tmp_path / "run")
    for section, values in change.items():
        settings = dataclasses.replace(
            settings, **{section: dataclasses.replace(getattr(settings, section), **values)}
        )
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=says) as error:
        train(settings, tmp_path / "run", progress=False, resume=True)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in before}


def test_damaged_checkpoints_are_set_aside(origin, tmp_path, capsys):
    """The newest sound one is resumed from; where there is none, the run is left as it is."""
    settings, folder = origin
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    train(settings, out, progress=False, resume=True)
    right = timeless(out)
    path = checkpoint.folder_of(out, 12) / "rank-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    train(settings, out, progress=False, resume=True)
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert "it is now damaged-step-12, and the run goes on from step 6" in said
    assert timeless(out) == right and complaints(out) == []
    for step in (6, 12):
        (checkpoint.folder_of(out, step) / "index.json").write_text("{}")
    with pytest.raises(InputError, match="no checkpoint of .* is sound: .*index.json is damaged"):
        train(settings, out, progress=False, resume=True)
    assert timeless(out) == right and checkpoint.steps(out) == [12, 6]


def test_a_pointer_that_is_stale_or_lost_does_not_mislead(origin, tmp_path):
    settings, folder = origin
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    train(settings, out, progress=False, resume=True)
    for text in ("step-6", "step-99", ""):
        (out / "latest").write_text(text)
        assert train(settings, out, progress=False, resume=True)["steps"] == STEPS
        assert (out / "latest").read_text() == "step-12"


def test_weights_alone_are_no_run(origin, tmp_path):
    settings, folder = origin
    _, model = checkpoint.load_run(folder)
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    shutil.rmtree(out / "checkpoints")
    checkpoint.save_model(model, out, 6)
    with pytest.raises(InputError, match="holds weights without the optimizer's state"):
        train(settings, out, progress=False, resume=True)


def test_resuming_what_has_not_begun_begins(config, tmp_path):
    settings = changed(config, steps=2, ramp=None)
    train(settings, tmp_path / "run", progress=False, resume=True)
    assert len(timeless(tmp_path / "run")) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    with pytest.raises(InputError, match="holds files, but no run to go on with"):
        train(settings, tmp_path / "other", progress=False, resume=True)


@pytest.mark.parametrize("parallel", [Parallel(), Parallel(dp=2)], ids=["alone", "dp2"])
def test_a_full_disk_ends_the_run_and_loses_nothing(config, tmp_path, monkeypatch, parallel):
    settings = changed(config, parallel, save_every=4)
    out = tmp_path / "run"
    error = _full(settings, out, monkeypatch)
    message = getattr(error, "message", None) or str(error)
    assert "can't save step 8: " in message and "No space left on device" in message
    assert message.endswith("; the last good checkpoint is step-4")
    assert complaints(out) == [] and checkpoint.steps(out) == [4]
    assert not list(out.rglob("*.partial"))
    monkeypatch.undo()
    train(settings, out, progress=False, resume=True)
    train(settings, tmp_path / "whole", progress=False)
    assert timeless(out) == timeless(tmp_path / "whole")


def _full(settings, out, monkeypatch):
    """The error of a run whose second save finds the disk full, on the last rank."""
    p = sized(settings).parallel
    if p.dp == 1:
        monkeypatch.setattr(checkpoint, "write", _no_space(checkpoint.write))
        with pytest.raises(InputError) as error:
            train(settings, out, progress=False)
        return error.value

    def program(settings, out):
        from minimtnlg.train.trainer import _rank

        if start.torch.distributed.get_rank() == 1:
            checkpoint.write = _no_space(checkpoint.write)
        _rank(settings, out, False, Mini)

    with pytest.raises(RankError) as error:
        run(program, 2, sized(settings), out)
    assert error.value.type == "InputError"
    return error.value


def _no_space(write):
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(*args)

    return full


def test_two_runs_in_one_folder(config, tmp_path, monkeypatch):
    """The second is refused while the first is at work, and does it no harm."""
    settings = changed(config, steps=3, ramp=None)
    refused, one = [], loop.Run._one

    def second(self, batch):
        monkeypatch.setattr(loop.Run, "_one", one)
        with pytest.raises(InputError, match="is being trained by another process") as error:
            train(settings, tmp_path / "run", progress=False, resume=True)
        refused.append(str(error.value))
        return self._one(batch)

    monkeypatch.setattr(loop.Run, "_one", second)
    train(settings, tmp_path / "run", progress=False)
    assert len(refused) == 1 and len(timeless(tmp_path / "run")) == 3
