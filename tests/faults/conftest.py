"""What all drills share, and where their outcomes are kept."""

import pytest
from ground import Base
from page import SOURCES, write
from results import Clock


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """See ground.Base."""
    return Base(tmp_path_factory.mktemp("drills"))


@pytest.fixture(scope="session")
def outcomes(request):
    """{drill: (what happened, curve)}, filled by the tests; written when all have run."""
    from drills import DRILLS

    clock, found = Clock(*SOURCES), {}
    yield found
    if request.config.getoption("full") and set(found) == set(DRILLS):
        write(found, clock)
