"""The whole package on a device that is not the CPU: no tensor is made, or left, on the other one.

The numbers are those of the CPU, which carries it all out; but for such a device PyTorch takes
another kernel of attention, so they are nearly equal. See second_device.py.
"""

import dataclasses
import shutil

import pytest

from minimtnlg import run

# Two ranks each: (layout, other settings). Without recomputation: within the thread of a backward
# pass, PyTorch ends a process that has a device of this kind.
LAYOUTS = [
    ("tp=2", "model.attention=readable", "parallel.sequence_parallel=true"),
    ("pp=2", "train.dtype=float16"),
    ("dp=2", "parallel.zero=0"),
    ("dp=2", "parallel.zero=3"),
]
SMALL = (
    "layers=2 hidden=32 heads=4 seq=16 vocab=64 dropout=0.1".split(),
    "global_batch=8 micro_batch=2 ramp=null dtype=bfloat16".split(),
)


def steps(pretend):
    """[(loss, norm, loss of evaluation, how often the step waited)] of a step in each layout."""
    import torch

    if pretend:
        import second_device

        second_device.begin()
    from minimtnlg.config import load, sized
    from minimtnlg.data.batches import Batch
    from minimtnlg.device import device, generator
    from minimtnlg.parallel.layout import Layout
    from minimtnlg.parallel.mesh import Mesh
    from minimtnlg.train.mini import Mini

    waits = (lambda: second_device.Mode.waits) if pretend else (lambda: 0)
    small = [f"{part}.{x}" for part, xs in zip(("model", "train"), SMALL, strict=True) for x in xs]
    found = []
    for layout, *others in LAYOUTS:
        config = sized(load("nano", [*small, f"parallel.{layout}", *others]), 2)
        p = config.parallel
        mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
        engine = Mini(config, mesh)
        text = torch.randint(64, (4, 2, 17), generator=generator("text")).to(device())
        ones = torch.ones(2, 16, device=device())
        mine = [Batch(x[:, :-1], x[:, 1:], ones) for x in text[mesh.place.dp :: p.dp]]
        before = waits()
        loss, norm = engine.step(mine, 1e-3, 1, limits=(99.0, 99.0))
        found.append((loss, norm, engine.evaluate(mine), waits() - before))
    return found


def test_every_layout_stays_on_its_device():
    right, found = (run(steps, 2, pretend) for pretend in (False, True))
    for here, there in zip(found[0], right[0], strict=True):
        assert here[:3] == pytest.approx(there[:3], rel=1e-3)
    # The loss, the norm and the loss of the evaluation are read; nothing else is waited for.
    assert {row[3] for rank in found for row in rank} == {3}


def life(pretend, config, folder):
    """A run that saves, goes on, is loaded, writes and scores; all that came of it."""
    if pretend:
        import second_device

        second_device.begin()
    from minimtnlg.evaluate.generate import beam, generate
    from minimtnlg.evaluate.models import opened
    from minimtnlg.evaluate.scoring import scores
    from minimtnlg.train.trainer import train

    whole = train(config, folder, progress=False)
    shutil.rmtree(folder / "checkpoints" / "step-4")
    (folder / "latest").write_text("step-2\n")
    resumed = train(config, folder, progress=False, resume=True)
    losses = [result[key] for result in (whole, resumed) for key in ("loss", "valid_loss")]
    model, words = opened(folder)
    ids = words.encode("the node")
    options = dict(vocab=words.size, eod=words.eod)
    texts = [generate(model, [ids, ids[:1]], 4, **options, temperature=t) for t in (0, 1.0)]
    found = scores(model, [(ids, ids), ([], ids)], **options)
    return losses, [score.logprob for score in found], texts, beam(model, ids, 3, 2, **options)


def test_a_run_and_what_becomes_of_it(config, tmp_path):
    model = dataclasses.replace(config.model, dropout=0.1)
    train = dict(tokens=0, steps=4, ramp=None, save_every=2, keep=0, dtype="bfloat16")
    train = dataclasses.replace(config.train, **train)
    config = dataclasses.replace(config, model=model, train=train)
    right, found = (
        run(life, 1, pretend, config, tmp_path / str(pretend))[0] for pretend in (False, True)
    )
    assert found[0][:2] == found[0][2:]  # what was resumed
    for here, there in zip(found[:2], right[:2], strict=True):
        assert here == pytest.approx(there, rel=1e-3)
    assert [len(text) for texts in found[2] for text in texts] == [4] * 4 and len(found[3]) == 2


def refused():
    """What the device refuses, as any other would."""
    import second_device

    second_device.begin()
    import torch

    from minimtnlg.device import device, generator

    x, g = torch.ones(2, device=device()), generator("a")
    wrong = [
        lambda: x + torch.ones(2), lambda: x.numpy(), lambda: torch.cat([x, torch.ones(2)]),
        lambda: torch.rand(2, generator=g, device=device()), lambda: x.copy_(torch.ones(3)),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(RuntimeError):
            call()
    before = second_device.Mode.waits
    assert (x + 1).sum().item() == 4 and x.cpu().tolist() == [1, 1]
    return second_device.Mode.waits - before


def test_what_the_device_refuses():
    assert run(refused, 1) == [2]
