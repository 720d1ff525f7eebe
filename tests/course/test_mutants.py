"""Every bug fits the package as it is, and is switched on for ranks alone.

That each is noticed by its test is shown by `make mutants`; here, by some that take a second.
"""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import minimtnlg
from minimtnlg import run
from minimtnlg.course.mutants import MUTANTS, PACKAGE, Mutant, mutant, patched
from minimtnlg.errors import InputError
from minimtnlg.parallel import tensor

ROOT = Path(__file__).parents[2]
BUGS = list(MUTANTS.values())
THE_ISSUE = (  # the bugs that have to be among them, as it words them
    "no_division_by_micro_batches f_without_all_reduce row_bias_added_by_every_rank "
    "tied_embedding_not_summed tied_embedding_summed_twice norm_of_own_shard chunks_side_by_side "
    "sent_before_the_last_micro_batch stale_shard mean_of_replica_means"
).split()


def test_they_are_many_and_each_has_its_own_name():
    files = PACKAGE.glob("course/bugs/*.toml")
    tables = [table for file in files for table in tomllib.loads(file.read_text()).values()]
    names = Counter(name for table in tables for name in table)
    assert set(names) == set(MUTANTS) and set(names.values()) == {1}
    assert len(MUTANTS) >= 25 and set(THE_ISSUE) <= set(MUTANTS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_it_fits_the_package(bug):
    """The text is there once, the patched file compiles, and the belief is one short sentence."""
    compile(bug.source(), bug.file, "exec")
    assert re.fullmatch(r"[A-Z][^\n]{20,99}\.", bug.belief)
    changed = [line for line in bug.diff().splitlines() if re.match(r"[+-](?![+-])", line)]
    assert 1 <= len(changed) <= 10


def test_a_text_that_is_not_there_once_is_refused():
    fields = dict(name="x", file="parallel/tensor.py", belief="", after="", killed_by="")
    for before, times in (("no such text", 0), ("return", r"\d+")):
        with pytest.raises(InputError, match=f"mutant x: .* its text {times} times, not once"):
            Mutant(before=before, **fields).source()


def test_every_test_that_kills_is_there(request):
    wanted = {bug.killed_by for bug in BUGS}
    if wanted <= {item.nodeid for item in request.session.items}:  # all tests run, these as well
        return
    files = sorted({test.partition("::")[0] for test in wanted})
    options = ["--collect-only", "-o", "addopts=-q --import-mode=importlib"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert wanted <= set(told.splitlines()), wanted - set(told.splitlines())


def seen_by_a_rank():
    """Where the package comes from, and whether f has its all-reduce."""
    import inspect

    import minimtnlg
    from minimtnlg.parallel import tensor

    return minimtnlg.__file__, "summed" in inspect.getsource(tensor._F)


def test_ranks_have_the_bug_and_the_caller_has_not():
    before, modules = list(sys.path), dict(sys.modules)
    right = (str(PACKAGE / "__init__.py"), True)
    assert run(seen_by_a_rank, 2) == [right] * 2
    with mutant("f_without_all_reduce") as bug:
        assert bug is MUTANTS["f_without_all_reduce"]
        (file, summed), other = run(seen_by_a_rank, 2)
        assert (file, summed) == other and not summed
        assert not file.startswith(str(PACKAGE)) and Path(file).exists()
        assert seen_by_a_rank() == right
    assert not Path(file).exists()
    assert run(seen_by_a_rank, 2) == [right] * 2
    assert sys.path == before and minimtnlg.__file__ == right[0]
    assert all(sys.modules[name] is module for name, module in modules.items())
    assert sys.modules[tensor.__name__] is tensor


def test_whatever_happens_in_the_block_ends_the_bug():
    before = list(sys.path)
    with pytest.raises(ZeroDivisionError), mutant("stale_shard"):
        raise ZeroDivisionError
    assert sys.path == before


def test_of_two_bugs_the_inner_one_counts():
    with mutant("f_without_all_reduce"):
        with mutant("stale_shard"):
            assert run(seen_by_a_rank, 1)[0][1]
        assert not run(seen_by_a_rank, 1)[0][1]


def test_a_copy_is_whole_and_differs_in_one_file():
    with patched("qkv_by_kind") as folder:
        copied = {path.relative_to(folder / "minimtnlg") for path in folder.rglob("*.*")}
        there = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.*")}
        assert copied == {path for path in there if "__pycache__" not in path.parts}
        text = {path: (PACKAGE / path).read_bytes() for path in copied}
        other = [p for p in copied if (folder / "minimtnlg" / p).read_bytes() != text[p]]
        assert other == [Path("model/attention.py")]


@pytest.mark.parametrize("name, nearest", [("stale_shards", "stale_shard"), ("", ""), (3, "")])
def test_an_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(InputError, match=f"no mutant {name!r}; did you mean '{nearest}"):
        with mutant(name):
            pass


# One that is quick, and one of those that need ranks; the others by `make mutants`.
ONE_OF_RANKS = pytest.param("rows_left_over_have_no_owner", marks=pytest.mark.long)


@pytest.mark.parametrize("name", ["one_warm_up_too_many", ONE_OF_RANKS])
def test_it_is_killed(name):
    command = [sys.executable, ROOT / "tests" / "mutants.py", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 mutants are killed" in done.stdout
