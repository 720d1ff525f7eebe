"""Loaded before any test imports torch, so that settings of threads hold."""

import os
import sys
import time
from pathlib import Path

import hypothesis
import pytest

import minimtnlg  # noqa: F401

# Two processes that test side by side have a core each. A second thread would find none, and those
# who wait for it would spin.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# No test asserts a time: on a busy machine an example takes as long as it takes.
SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("minimtnlg", deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("minimtnlg")
HERE, START = Path(__file__).parent, time.perf_counter()
BUDGET = 10  # minutes that `make test` may take on two cores
# What tests import: reference, commands, comparing, metrics, results, saving; ground, as ranks do.
sys.path[:0] = [*(str(HERE / name) for name in ("equivalence", "faults", "parallel")), str(HERE)]

from results import RECORDED, Clock  # noqa: E402


@pytest.fixture(scope="session")
def random_run(tmp_path_factory):
    """random_run(dtype, layers=2, ...) -> folder of a run at step 7; no weight of it is special."""
    import torch

    from minimtnlg import config as configuration
    from minimtnlg.data import tokenizer
    from minimtnlg.model import GPT
    from minimtnlg.train.checkpoint import save_model

    words = tokenizer.train(["one rank sends, the other rank's caf\u00e9 receives " * 9], 300)

    def make(dtype="float32", **changes):
        sizes = dict(layers=3, hidden=32, heads=4, seq=24, vocab=512, dropout=0.1) | changes
        config = configuration.load(
            "nano", [f"train.dtype={dtype}", *(f"model.{key}={n}" for key, n in sizes.items())]
        )
        model, g = GPT(config.model, dtype=torch.float64), torch.Generator().manual_seed(0)
        for x in model.state_dict().values():
            x += 0.3 * torch.randn(x.shape, generator=g)
        run = tmp_path_factory.mktemp("run") / "run"
        run.mkdir()
        configuration.save(configuration.sized(config), run / "config.yaml")
        words.save(run / "tokenizer.json")
        save_model(model.to(getattr(torch, dtype)), run, 7)
        return run

    return make


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every legal layout, every long test")
    parser.addoption("--record", choices=sorted(RECORDED), help="write results/NAME.json")


def pytest_configure(config):
    name = config.getoption("record")
    if name and not hasattr(config, "workerinput"):  # of several processes, the one that hears all
        config.pluginmanager.register(Recorder(name))


class Recorder:
    """Counts how tests came out; keeps the numbers when all that ran have passed."""

    def __init__(self, name):
        self.name, self.clock = name, Clock(*RECORDED[name])
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1

    def pytest_sessionfinish(self, exitstatus):
        if exitstatus == 0:
            self.clock.write(self.name, **self.counts)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    """Of a run of all tests, without the long ones: how long it took, and what it may take."""
    if config.args_source is not config.ArgsSource.ARGS and not config.getoption("full"):
        minutes = (time.perf_counter() - START) / 60
        terminalreporter.write_line(f"{minutes:.1f} of {BUDGET} minutes, the budget of two cores")


def pytest_collection_modifyitems(config, items):
    """What takes long runs with --full alone."""
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("full"):
            item.add_marker(pytest.mark.skip(reason="takes long: give --full"))
