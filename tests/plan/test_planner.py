"""The planner: every legal layout and no other, the best of them, reports, and what can't be."""

import dataclasses
import itertools
import json

import pytest

from minimtnlg import config as configuration
from minimtnlg.config import Model, preset
from minimtnlg.errors import InputError
from minimtnlg.plan.estimate import Job, estimate, job_of
from minimtnlg.plan.hardware import Hardware, hardware, names, probed, stack
from minimtnlg.plan.memory import memory
from minimtnlg.plan.planner import broken, frontier, layouts, published, report, search

A100, NEW = hardware("a100-80gb"), stack("megatron-2022")
MTNLG = preset("mtnlg-530b")
FILE = "scaling/published_runs.csv"


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
def test_layouts_are_those_that_the_rules_allow(attention):
    shape = Model(layers=6, hidden=96, heads=6, seq=12, vocab=96, attention=attention)
    for gpus, rungs in ((8, [8]), (12, [24]), (1, [2]), (4, [4, 8, 12])):
        ours = set(layouts(shape, gpus, rungs, A100))
        every = {
            Job(shape, tp, pp, gpus // (tp * pp), b, rungs[-1], *rest)
            for tp, pp in itertools.product(range(1, 17), range(1, 7)) if gpus % (tp * pp) == 0
            for b in (1, 2, 4, 8, 16)
            for rest in itertools.product(
                range(1, 7), ("none", "selective", "full"), (False, True), range(4)
            )
        }  # fmt: skip
        assert ours == {job for job in every if not broken(job, rungs)}


def test_the_search_gives_the_fastest_that_fit():
    found, count = search(MTNLG, 2240, A100, NEW)
    assert count > len(found) > 50
    seconds = [one[0] for one in found]
    assert seconds == sorted(seconds)
    for time, most, job in found[:20]:
        assert time == estimate(job, A100, NEW).seconds and job.gpus == 2240 and not broken(job)
        assert most == max(stage.reserved for stage in memory(job, A100, NEW)) <= 80
    edge = frontier(found)
    assert edge[0] == found[0]
    for time, most, _ in found:
        assert any(t <= time and m <= most for t, m, _ in edge)


def test_what_the_search_finds_can_be_configured():
    """The whole run, its ramp included, by the rules of every run."""
    found, _ = search(MTNLG, 2240, A100, NEW)
    for _, _, job in found[::7]:
        names = "tp", "pp", "dp", "virtual", "recompute", "zero"
        chosen = [f"parallel.{name}={getattr(job, name)}" for name in names]
        chosen += [f"parallel.sequence_parallel={str(job.sequence_parallel).lower()}",
                   f"parallel.schedule={'interleaved' if job.virtual > 1 else '1f1b'}",
                   f"train.micro_batch={job.micro_batch}", "model.attention=readable"]  # fmt: skip
        settings = configuration.load("mtnlg-530b", chosen)
        assert job_of(settings) == job


def test_a_gpipe_holds_every_micro_batch():
    plain, gpipe = (report(configuration.load("mtnlg-530b", [f"parallel.schedule={kind}"]),
                           2240, A100, NEW) for kind in ("1f1b", "gpipe"))  # fmt: skip
    ratio = gpipe["memory_gib"][0]["activations"] / plain["memory_gib"][0]["activations"]
    assert 6 < ratio < 240 / 35
    assert gpipe["iteration_s"] == pytest.approx(plain["iteration_s"], rel=0.01)
    assert any("does not fit" in line for line in gpipe["warnings"])


def test_the_days_count_the_ramp():
    with_ramp = report(MTNLG, 2240, A100, NEW)
    without = report(configuration.load("mtnlg-530b", ["train.ramp=null"]), 2240, A100, NEW)
    assert with_ramp["tokens"] == pytest.approx(without["tokens"], rel=1e-3)
    assert 1.005 < with_ramp["days"] / without["days"] < 1.05
    steps = configuration.load("nano", ["train.steps=10", "train.tokens=0"])
    assert report(steps, 1, A100, NEW)["tokens"] == 10 * 8 * 128  # its ramp begins with 8


@pytest.mark.parametrize("overrides, cluster, soft, known", [
    ([], "a100-80gb", NEW, True), ([], "h100-80gb", NEW, False),
    (["train.dtype=float32"], "a100-80gb", NEW, False),
    (["parallel.zero=1"], "a100-80gb", NEW, False),
    ([], "a100-80gb", dataclasses.replace(NEW, transfers=3), False),
])  # fmt: skip
def test_an_expected_error_is_given_where_it_is_known(overrides, cluster, soft, known):
    found = report(configuration.load("mtnlg-530b", overrides), 2240, hardware(cluster), soft)
    assert (found["expected_error"] == 0.04) == known
    told = any("planned as if it had 16 bits" in line for line in found["warnings"])
    assert told == (overrides == ["train.dtype=float32"])


def test_no_stage_between_is_fuller_than_the_ends():
    """The search looks at the first and the last stage alone."""
    for job in itertools.islice(layouts(MTNLG.model, 420, [1920], A100), 0, None, 7):
        every = [stage.reserved for stage in memory(job, A100, NEW)]
        assert max(every) == max(every[0], every[-1])


def test_what_does_not_fit_anywhere():
    with pytest.raises(InputError, match="none of .* legal layouts on 8 GPUs fits"):
        search(MTNLG, 8, A100, NEW)
    with pytest.raises(InputError, match="no legal layout on 7919 GPUs for global batches from 32"):
        search(MTNLG, 7919, A100, NEW)


def test_the_report_of_the_real_job():
    found = report(MTNLG, 2240, A100, stack("deepspeed-2021"))
    assert found["iteration_s"] == pytest.approx(60.1, rel=0.05)
    assert found["layout"]["gpus"] == 2240 and found["micro_batches"] == 240
    parts = {k: v for k, v in found["seconds"].items() if k != "seconds"}
    assert sum(parts.values()) == pytest.approx(found["iteration_s"])
    assert found["tokens_per_s"] == pytest.approx(1920 * 2048 / found["iteration_s"])
    assert found["days"] == pytest.approx(270e9 / found["tokens_per_s"] / 86400, rel=0.05)
    assert found["mwh"] == pytest.approx(2240 * 812 * found["days"] * 24 / 1e6)
    assert len(found["memory_gib"]) == 35 and found["warnings"] == []
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("overrides, gpus, match", [
    (["parallel.recompute=none", "model.attention=readable"], 2240, "stage 0 reserves .* not fit"),
    (["parallel.dp=120", "train.global_batch=1920", "train.ramp=null"], None, "the bubble takes"),
    (["parallel.tp=16"], 4480, "tp=16 reaches over nodes of 8 GPUs"),
])  # fmt: skip
def test_warnings(overrides, gpus, match):
    import re

    config = configuration.load("mtnlg-530b", overrides)
    if gpus:
        parallel = dataclasses.replace(config.parallel, dp="auto")
        config = dataclasses.replace(config, parallel=parallel)
    lines = report(config, gpus, A100, NEW)["warnings"]
    assert any(re.search(match, line) for line in lines), lines


def test_gpus_that_a_layout_cannot_fill():
    with pytest.raises(InputError, match="make 2240 ranks, not 2241"):
        report(MTNLG, 2241, A100, NEW)


def test_presets_are_whole_and_a_file_may_be_yours(tmp_path):
    for name in names("hardware.yaml"):
        assert isinstance(hardware(name), Hardware)
    assert [stack(name).sends for name in names("stacks.yaml")] == ["slices", "slices", "whole"]
    path = tmp_path / "mine.yaml"
    values = dataclasses.asdict(A100) | {"nic": 6.25, "launch": list(A100.launch)}
    path.write_text("\n".join(f"{key}: {value}" for key, value in values.items()))
    assert hardware(path) == dataclasses.replace(A100, nic=6.25)


def test_a_probe_of_the_cluster_calibrates_it(tmp_path):
    """As scaling/probe.py writes it; rates above the wire's count as the wire's."""
    kinds = {"products": 250.0, "sums inside nodes": 400.0, "sums between nodes": 20.0,
             "exchanges between nodes": 12.0}  # fmt: skip
    rates = [{"what": what, "unit": "", "values": {"a": 0.5 * rate, "b": rate, "c": 2 * rate},
              "promised": None} for what, rate in kinds.items()]  # fmt: skip
    path = tmp_path / "probe.json"
    path.write_text(json.dumps({"rates": rates}))
    found = probed(A100, path)
    assert (found.near_share, found.nic_share, found.pair) == (1, 0.8, 12)
    assert found.matmul == pytest.approx(250 / 312) and found.error == 0
    path.write_text(json.dumps({"rates": rates[:1]}))  # one rank alone
    assert probed(A100, path).pair == A100.pair


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rates": [3]}', '{"rates": []}'])
def test_a_probe_that_cannot_be(tmp_path, content):
    path = tmp_path / "probe.json"
    path.write_text(content)
    with pytest.raises(InputError, match="isn't what scaling/probe.py --json writes"):
        probed(A100, path)


@pytest.mark.parametrize("content, match", [
    (None, "no hardware .*mine.yaml'?: a100-80gb"),
    ("nic: 3", "memory_gib is missing"),
    ("[", "mine.yaml: not YAML"),
    ("3", "mine.yaml: expected"),
    ("nik: 3", "unknown key 'nik'.*did you mean 'nic'"),
])  # fmt: skip
def test_a_cluster_that_cannot_be(tmp_path, content, match):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=match):
        hardware(str(path))


@pytest.mark.parametrize("key, value", [
    ("nic", 0), ("matmul", 1.2), ("sms", 1.5), ("tflops", float("nan")), ("hbm", "fast"),
    ("per_node", True),
])  # fmt: skip
def test_numbers_that_no_hardware_has(key, value):
    with pytest.raises(InputError, match=f"{key}="):
        dataclasses.replace(A100, **{key: value})


def changed(tmp_path, column, value):
    """The published file with one value of its third row replaced."""
    lines = [line.split(",") for line in open(FILE).read().splitlines()]
    lines[3][lines[0].index(column)] = value
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(",".join(line) for line in lines))
    return path


@pytest.mark.parametrize("column, value, match", [
    ("layers", "many", "row 4, column layers: 'many' is no such number"),
    ("layers", "9" * 400, "row 4, column layers"),
    ("global_batch", "0", "row 4, column global_batch: '0'"),
    ("zero", "7", "row 4, column zero: 7"),
    ("sequence_parallel", "true", "row 4, column sequence_parallel: 'true', not 0 or 1"),
    ("iteration_s", "0", "row 4, column iteration_s: '0'"),
    ("iteration_s", "nan", "row 4, column iteration_s: 'nan' is no such number"),
    ("iteration_s", "-3", "row 4, column iteration_s"),
    ("iteration_s", "", "row 4, column iteration_s"),
    ("hidden", "20481", "row 4: model.heads=128 does not divide"),
    ("gpu", "abacus", "row 4: no hardware 'abacus'"),
    ("stack", "punch-cards", "row 4: no stack 'punch-cards'"),
    ("gpus", "3361", "row 4: tp x pp x dp = 3360 ranks, column gpus says 3361"),
    ("recompute", "some", "row 4, column recompute: 'some'"),
    ("global_batch", "1921", "row 4: a global batch of 1921 is not divisible"),
    ("nic_gbytes_s", "0", "row 4, column nic_gbytes_s"),
])  # fmt: skip
def test_a_row_that_cannot_be(tmp_path, column, value, match):
    with pytest.raises(InputError, match=match):
        published(changed(tmp_path, column, value))


def test_rows_of_a_spreadsheet(tmp_path):
    """With a byte order mark; and one that is cut short."""
    path = tmp_path / "rows.csv"
    text = open(FILE).read()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(published(path)) == 21
    path.write_text(text.rstrip()[: -len(text.splitlines()[-1]) + 3])
    with pytest.raises(InputError, match="row 22 ends before column"):
        published(path)


@pytest.mark.parametrize("content, match", [
    (None, "can't read"), ("", "has no rows"), ("a,b\n1,2\n", "has no column dp, global_batch"),
    ("source\n\xff", "can't read|no column"),
])  # fmt: skip
def test_a_file_that_holds_no_rows(tmp_path, content, match):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=match):
        published(path)
