"""A run is disturbed in every way that we know of: it goes on exactly, or refuses in one line.

    make drills                                              # all of them, and docs/drills.md
    .venv/bin/python -m pytest tests/faults -k SIGTERM       # some of the fast ones

Nothing hangs, no process outlives its run, and what was saved stays.
"""

import pytest
from drills import DRILLS
from ground import PLACES, Ground, holder_of, left_behind

NAMES = [name for place in PLACES.values() for name in place.names.split()]
MARKS = {True: (), False: pytest.mark.long}


@pytest.mark.parametrize(
    "drill", [pytest.param(d, id=d.name, marks=MARKS[d.fast]) for d in DRILLS]
)
def test_drill(drill, base, outcomes, tmp_path):
    ground = Ground(base, drill, tmp_path)
    try:
        happened = drill.do(ground)
    except pytest.skip.Exception as reason:
        outcomes[drill] = f"not done: {reason}", ""
        raise
    assert not left_behind()
    outcomes[drill] = happened, ground.curve


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_what_is_to_be_disturbed_is_there(name):
    assert callable(getattr(*holder_of(name)))
