"""The probe names who is slow, whatever the layout of nodes, and refuses what is no cluster."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from minimtnlg.errors import InputError
from minimtnlg.ranks import run

SCALING = Path(__file__).parents[2] / "scaling"
sys.path[:0] = [str(SCALING), str(Path(__file__).parent)]  # ranks look there as well

import probe  # noqa: E402
from slow import Slow  # noqa: E402

ENVIRONMENT = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.mark.parametrize("n", range(2, 12))
def test_neighbours_in_a_ring_meet_once(n):
    met = []
    for partners in probe.pairs(n):
        assert all(partners[other] == [i] for i, (other,) in partners.items())
        met += [tuple(sorted((i, other))) for i, (other,) in partners.items() if i < other]
    assert sorted(met) == sorted({tuple(sorted((i, (i + 1) % n))) for i in range(n)})
    assert len(probe.pairs(n)) == (1 if n == 2 else 2 + n % 2)


def test_slow_is_below_the_median_or_far_below_the_promise():
    rates = probe.Rates("products", "TFLOP/s", {"a": 99.0, "b": 100.0, "c": 70.0}, 250)
    assert [line.split(":")[0] for line in rates.slow(0.8)] == ["c", "a", "b"]
    assert next(rates.slow(0.8)) == "c: products at 70 TFLOP/s, 0.71 of the median"
    assert list(rates.slow(0.7))[1] == "a: products at 99 TFLOP/s, 0.40 of what is promised"
    alone = probe.Rates("products", "TFLOP/s", rates.values, None)
    assert len(list(alone.slow(0.8))) == 1 and not list(alone.slow(0.7))


def test_wires_are_promised_to_a_dgx_or_by_the_user():
    a100 = "8 x NVIDIA A100-SXM4-80GB"
    assert probe.promised(a100, 8) == (312, 300, 25)
    assert probe.promised(a100, 4) == (312, None, None)
    assert probe.promised(a100, 8, far=6.25) == (312, 300, 6.25)
    assert probe.promised("CPU, 2 threads", 8, near=5.0) == (None, 5.0, None)


def test_ranks_of_srun_that_were_told_nothing_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(InputError, match="told none its RANK: use on_all_ranks"):
        probe.place()


def test_without_a_launcher_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "nonsense")
    assert probe.place() == (0, 1, 0, 1)


def test_a_launcher_says_which_ranks_share_a_node(monkeypatch):
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    assert probe.place() == (1, 4, 1, 2)
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert probe.place() == (1, 4, 0, 1)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(InputError, match="RANK below WORLD_SIZE"):
        probe.place()


def met(*others):
    """What rank 0 hears if the ranks from 1 on say these (host, device, torch, size, local)."""
    store = dist.HashStore()
    for rank, told in enumerate(others, 1):
        store.set(f"probe/{rank}", json.dumps(told))
    return probe.meet(store, 0, 4, 0, 2)


def test_nodes_have_to_be_alike_and_ranks_in_a_row():
    here = socket.gethostname()
    name, torch_here = probe.device.name(), torch.__version__
    alike = [[here, name, torch_here, 2, 1], *(["b", name, torch_here, 2, i] for i in (0, 1))]
    assert met(*alike) == [here, here, "b", "b"]
    for rank, at, value, told in [
        (3, 1, "7 x A100", "7 x A100"),  # a GPU has fallen off
        (2, 2, "2.0", "torch 2.0"),
        (2, 3, 4, "b, with rank 2, has"),
        (1, 0, "c", f"rank 1 of 4 has LOCAL_RANK 1 on c, rank 0 is on {here}"),
        (2, 4, 1, "rank 2 of 4 has LOCAL_RANK 1"),
    ]:
        others = [list(facts) for facts in alike]
        others[rank - 1][at] = value
        with pytest.raises(InputError) as error:
            met(*others)
        assert told in str(error.value) and "\n" not in str(error.value)


def on_four_ranks():
    """What this rank finds in nodes of 1, 2 and 4 ranks, with a slow rank and with a slow wire."""
    rank, hosts, found = dist.get_rank(), ["a", "a", "b", "b"], {}
    multiply, timed = probe.multiply, probe._seconds
    probe.multiply = lambda seconds: 1e12
    # Calls take 1 s on ranks 0 and 2, 2 s on 1 and 3, by definition: what comes out is exact.
    probe._seconds = lambda call, seconds: (call(), 1.0 + rank % 2)[1]
    for size in (1, 2, 4):
        kinds = probe.measure(hosts if size == 2 else ["a"] * 4, rank, size, 0, 4096)
        found[size] = {kind.what: kind.values for kind in kinds}
    probe._seconds = timed
    # Rank 1 sends slowly between nodes only, to rank 3, which has index 1 in that group.
    with Slow("c10d::send", 0.5 if rank == 1 else 0, when=lambda args: args[2] == 1):
        found["slow wire"] = probe.measure(hosts, rank, 2, 0, 4096)
    probe.multiply = multiply
    with Slow("aten::mm", 0.1 if rank == 2 else 0):
        found["slow rank"] = probe.measure(hosts, rank, 2, 0, 4096)
    return found


@pytest.fixture(scope="module")
def four():
    return run(on_four_ranks, 4)


def test_all_ranks_have_the_same_rates(four):
    assert all(found == four[0] for found in four[1:])


def test_bus_bandwidth_is_that_of_a_ring_and_groups_are_nodes_and_their_peers(four):
    """4096 bytes in 1 or 2 s; of those who measured the same, the slower one counts."""
    quick, slow = 4096 / 1e9, 2048 / 1e9  # GB/s
    near, far = "inside nodes", "between nodes"
    two = four[0][2]
    assert two["products"] == {f"rank {i} on {host}": 1 for i, host in enumerate("aabb")}
    assert two[f"sums {near}"] == {"node 0 (a)": slow, "node 1 (b)": slow}  # 2 (n-1)/n is 1
    assert two[f"sums {far}"] == {"rank 0 of each node": quick, "rank 1 of each node": slow}
    assert two[f"exchanges {near}"] == {
        "rank 0 on a and rank 1 on a": slow, "rank 2 on b and rank 3 on b": slow,
    }  # fmt: skip
    assert two[f"exchanges {far}"] == {
        "rank 0 on a and rank 2 on b": quick, "rank 1 on a and rank 3 on b": slow,
    }  # fmt: skip
    assert four[0][1].keys() == {"products", f"sums {far}", f"exchanges {far}"}
    assert four[0][4].keys() == {"products", f"sums {near}", f"exchanges {near}"}
    assert four[0][4][f"sums {near}"] == {"node 0 (a)": pytest.approx(1.5 * slow)}
    assert len(four[0][4][f"exchanges {near}"]) == 4  # a ring of four


def test_a_slow_rank_is_named(four):
    products = four[0]["slow rank"][0]
    assert next(products.slow(0.5)).startswith("rank 2 on b: products at ")


def test_a_slow_wire_is_named(four):
    between = four[0]["slow wire"][-1]
    assert between.what == "exchanges between nodes"
    assert [line.split(":")[0] for line in between.slow(0.1)] == ["rank 1 on a and rank 3 on b"]


STRAGGLER = """
import contextlib, os, runpy, sys
sys.path.insert(0, {tests!r})
from slow import Slow
slow = os.environ["RANK"] == "2"
with Slow("aten::mm", 0.1) if slow else contextlib.nullcontext():
    runpy.run_path({probe!r}, run_name="__main__")
"""


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_nodes_under_torchrun_and_a_straggler(tmp_path):
    """Two launchers on one machine are two nodes; exit status 1 says that someone is slow."""
    script = tmp_path / "straggler.py"
    script.write_text(
        STRAGGLER.format(tests=str(Path(__file__).parent), probe=str(SCALING / "probe.py"))
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = tmp_path / "probe.json"
    nodes = [
        torchrun("--nnodes", 2, "--node-rank", node, "--nproc-per-node", 2, "--master-port", port,
                 "--master-addr", "127.0.0.1", script, "--seconds", 0, "--mib", 1, "--slow", 0.5,
                 "--json", result)
        for node in (0, 1)
    ]  # fmt: skip
    told = [node.communicate(timeout=300) for node in nodes]
    assert all(node.returncode == 1 for node in nodes), told
    assert "exchanges between nodes" in told[0][0] and not told[1][0]  # rank 0 alone prints
    verdict = told[0][0].partition("not fit:\n")[2].splitlines()
    assert verdict[0].startswith(f"rank 2 on {socket.gethostname()}: products at ")
    written = json.loads(result.read_text())
    assert written["found"] == verdict and written["ranks_per_node"] == 2
    assert len(written["hosts"]) == 4 and len(written["rates"]) == 5
    assert os.listdir(tmp_path).count("probe.json") == 1


def test_one_node_that_is_fit():
    node = torchrun("--standalone", "--nproc-per-node", 2, SCALING / "probe.py",
                    "--seconds", 0, "--mib", 1, "--slow", 0)  # fmt: skip
    out, err = node.communicate(timeout=300)
    assert node.returncode == 0, err
    assert out.splitlines()[-1] == "fit: nobody is slow" and "between nodes" not in out


def test_a_wrong_environment_ends_in_one_line_and_status_2():
    environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT} | {"RANK": "0"}
    command = [sys.executable, SCALING / "probe.py"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("probe.py: RANK='0', WORLD_SIZE=''")
    assert result.stderr.count("\n") == 1


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(probe, "measure", None)
    for file in (tmp_path, tmp_path / "no" / "probe.json"):
        with pytest.raises(InputError, match="no file can be written there"):
            probe.check(0, 1, 0.8, file)
