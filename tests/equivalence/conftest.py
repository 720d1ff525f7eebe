"""One test a case; ranks are started once for all selected cases of a world size."""

import pytest
from cases import everything, few
from outcomes import SOURCES, outcomes, write
from results import Clock
from special import SPECIAL


def chosen(config):
    """Cases of this session: with --full all there are.

    Else all pairs of values in the product, but for eight replicas; and the special cases on the
    layouts of the fewest ranks. Small worlds first: what is wrong everywhere is found soon.
    """
    if config.getoption("full"):
        cases = everything() + SPECIAL
    else:
        cases = few([case for case in everything() if case.dp < 8]) + smallest(SPECIAL)
    return sorted(cases, key=lambda case: case.layout.world)


def smallest(cases):
    """Those that no other of the same name needs fewer ranks for."""
    fewest = {}
    for case in cases:
        fewest[case.about] = min(case.layout.world, fewest.get(case.about, 99))
    return [case for case in cases if case.layout.world == fewest[case.about]]


def pytest_generate_tests(metafunc):
    if "outcome" in metafunc.fixturenames:
        metafunc.parametrize("case", chosen(metafunc.config), ids=str)


@pytest.fixture(scope="session")
def outcome(request):
    """outcome(case) -> Outcome. The first one of a world size that is asked for runs them all."""
    tests = [item for item in request.session.items if "outcome" in item.fixturenames]
    selected = [test.callspec.params["case"] for test in tests]
    clock, found = Clock(*SOURCES), {}

    def of(case):
        if case not in found:
            world = case.layout.world
            found.update(outcomes([case for case in selected if case.layout.world == world]))
        return found[case]

    yield of
    if request.config.getoption("full") and set(found) == set(chosen(request.config)):
        write(found, clock)
