"""The files of scaling/configs: complete, legal, true to the presets, for the machines they name.

Memory is checked by arithmetic: the parameters of each kind of stage, counted on a model without
memory, times the 20 bytes of training state [S3, sec. 2.1.1], less what ZeRO cuts, and activations
by the published formulas [S13, secs. 4 and 5].
"""

import re
from pathlib import Path

import pytest
import torch.distributed as dist

from minimtnlg.config import SECTIONS, build, load, sized, values_of
from minimtnlg.engines import ENGINES, installed, named
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout, virtual_stages
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.schedules import OneFOneB
from minimtnlg.parallel.zero import bytes_held
from minimtnlg.presets import PRESETS
from minimtnlg.ranks import run

FOLDER = Path(__file__).parents[2] / "scaling" / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
LAPTOP = {"nano", "small", "micro"}
CLUSTER = [path for path in FILES if path.stem not in LAPTOP]
BIBLIOGRAPHY = (FOLDER.parents[1] / "docs" / "bibliography.md").read_text()
MEMORY = {"A100 80 GB": 80e9}  # bytes; a tenth is left to the libraries and to fragmentation
PRESET_OF = {  # which preset a file is, where its name isn't that of one
    "mtnlg-530b-280-nodes": "mtnlg-530b",
    "mtnlg-530b-350-nodes": "mtnlg-530b",
    "mtnlg-530b-420-nodes": "mtnlg-530b",
    "gpt3-175b-64-nodes": "gpt3-175b",
    "gpt3-175b-128-nodes": "gpt3-175b",
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
each_cluster = pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.stem)


def machines(path):
    """(nodes, GPUs a node, the GPU's name, ranks) as the comment at the top of a file says."""
    line = r"^# Machines: (\d+) nodes? of (\d+) (A100 80 GB) \((\d+) ranks?\)"
    nodes, gpus, name, ranks = re.search(line, path.read_text(), re.MULTILINE).groups()
    return int(nodes), int(gpus), name, int(ranks)


def layout(config):
    p = sized(config).parallel
    return Layout(tp=p.tp, pp=p.pp, dp=p.dp)


@each_file
def test_every_key_is_there_and_every_source_exists(path):
    """A file is read by people: it relies on no default, and says where its numbers come from."""
    values = values_of(path)
    config = build(values)
    for section in SECTIONS:
        fields = set(vars(getattr(config, section)))
        length = {"steps", "tokens"} if section == "train" else set()  # exactly one of the two
        assert fields - length <= set(values[section]) <= fields, section
        assert len(length & set(values[section])) == bool(length)
    sources = set(re.findall(r"\bS\d+", path.read_text()))
    assert sources <= set(re.findall(r"\*\*(S\d+)\.\*\*", BIBLIOGRAPHY))


@each_cluster
def test_layout_fills_the_machines(path):
    nodes, gpus, _, ranks = machines(path)
    size = layout(load(path))
    assert nodes * gpus == ranks == size.world
    assert gpus % size.tp == 0  # a tensor group stays inside its node


def test_the_table_names_each_file_and_its_machines():
    table = (FOLDER / "README.md").read_text()
    for path in CLUSTER:
        nodes, gpus, name, _ = machines(path)
        places = "1 GPU" if gpus == 1 else f"{nodes} node{'s' * (nodes > 1)}"
        assert re.search(rf"\[{path.name}\]\({path.name}\) .*\| {places} ", table), path.name
        assert name in table
    assert set(re.findall(r"\((\S+\.yaml)\)", table)) == {path.name for path in FILES}


@each_file
def test_what_is_published_is_as_in_the_preset(path):
    name = PRESET_OF.get(path.stem, path.stem)
    if name not in PRESETS:  # two of one GPU, made for this folder
        return
    ours, published = load(path), load(name)
    assert (ours.model, ours.optim) == (published.model, published.optim)
    assert ours.train.global_batch == published.train.global_batch
    assert (ours.train.steps, ours.train.tokens) == (published.train.steps, published.train.tokens)
    if name == "mtnlg-530b":
        assert (ours.parallel.tp, ours.parallel.pp, ours.train.global_batch) == (8, 35, 1920)
        assert sum(ours.data.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("nodes, dp, nearest", [(350, 10, 30), (420, 12, 24)])
def test_where_the_ramp_of_mtnlg_can_not_be_the_file_says_so(nodes, dp, nearest):
    path = FOLDER / f"mtnlg-530b-{nodes}-nodes.yaml"
    assert load(path).train.ramp is None
    with pytest.raises(InputError, match=f"a global batch of 32 is not divisible .* 1 \\* {dp}"):
        load(path, ["train.ramp=[32, 32, 12000000000]"])
    ramps = {step: f"train.ramp=[{step}, {step}, 12000000000]" for step in range(1, 64)}
    legal = [step for step, override in ramps.items() if not refused(path, override)]
    assert min(legal, key=lambda step: abs(step - 32)) == nearest
    assert f"nearest ramp is [{nearest}, {nearest}, 12000000000]" in path.read_text()


def refused(path, override):
    try:
        load(path, [override])
    except InputError:
        return True
    return False


@each_cluster
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_can_do_it(path, engine):
    if not installed(ENGINES[engine][2]):
        pytest.skip(f"{engine} is not installed")
    config = load(path)
    if engine == "deepspeed" and config.parallel.zero == 0:  # as a comment in these files says
        assert "--engine deepspeed wants parallel.zero=1" in path.read_text()
        with pytest.raises(InputError, match="choose parallel.zero=1"):
            named(engine).refuse(sized(config))
        config = load(path, ["parallel.zero=1"])
    named(engine).refuse(sized(config))


def parameters(paths):
    """{file: {stage: parameters of one of its ranks}}: first, second and last stage, exact.

    No memory is used: the other ranks of a replica are pretended, and weights stay on the meta
    device. A process of its own runs this, so nothing has to be put back.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from minimtnlg.model import gpt

    gpt.device, gpt.initialize = lambda: "meta", lambda *_: None
    counted = {}
    for path in paths:
        config = load(path, ["parallel.dp=1"])
        size = layout(config)
        for stage in {0, min(1, size.pp - 1), size.pp - 1}:
            dist.destroy_process_group()
            rank = size.rank(stage)
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size.world)
            model = gpt.build(config, Mesh(size))
            counted.setdefault(path, {})[stage] = sum(p.numel() for p in model.parameters())
    return counted


@pytest.fixture(scope="module")
def counted():
    [result] = run(parameters, 1, CLUSTER, timeout=300)
    return result


def activations(config, stage):
    """Bytes that a rank of `stage` keeps of its micro-batches for backward, at the fullest moment.

    In units of sbh, a layer keeps 34 [S13, sec. 4.1], of which t ranks share 24, all 34 with
    sequence parallelism; the fused kernel keeps no s x s weights. Recomputed layers keep their
    input, 2, and one of them at a time the rest. Outside of the layers: the embedding's mask, and
    the logits in 16 bits and fp32 with their gradients.
    """
    model, p, b = config.model, config.parallel, config.train.micro_batch
    s, h, t = model.seq, model.hidden, p.tp
    m = config.train.global_batch // (b * p.dp)
    flying = min(OneFOneB(pp=p.pp, m=m).warm_up(stage) + 1, m)
    layers = len(virtual_stages(model.layers, p.pp)[stage])
    whole = 34 / t if p.sequence_parallel else 10 + 24 / t
    kept = whole * layers * flying
    if p.recompute == "full":
        kept = 2 * layers * flying + whole
    mask = flying if stage == 0 and model.dropout else 0
    logits = 12 * s * b * model.vocab / t if stage == p.pp - 1 else 0
    return (kept + mask) * s * b * h + logits


@each_cluster
def test_it_fits_into_memory(path, counted):
    config = sized(load(path))
    p = config.parallel
    for stage, count in counted[path].items():
        state = bytes_held(count, p.dp, p.zero, gradient=6)  # 2 of backward, 4 of the sum [S3]
        held = state + activations(config, stage)
        assert held < 0.9 * MEMORY[machines(path)[2]], f"stage {stage}: {held / 1e9:.1f} GB"


def test_the_count_is_that_of_the_real_engine(counted):
    """MT-NLG's stages as Megatron-Core's GPTModel has them, and in sum the published formula."""
    first, inner, last = counted[FOLDER / "mtnlg-530b-280-nodes.yaml"].values()
    assert (first, inner, last) == (2_060_874_240, 1_887_859_200, 2_018_972_160)


def test_the_formula_gives_published_activations():
    """8.8 GB of layer inputs on MT-NLG's first stage; 35 masks, and the layer at work, beside."""
    config = sized(load(FOLDER / "mtnlg-530b-280-nodes.yaml"))
    unit = 2048 * 20480
    assert activations(config, 0) == (2 * 3 * 35 + 13 + 35) * unit
    assert 2 * 3 * 35 * unit == pytest.approx(8.808e9, rel=1e-4)
