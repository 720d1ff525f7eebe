"""Steps over shards: counted, in parallel the same as one by one, going on where they stopped."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from minimtnlg.data.records import Document, reading, writing
from minimtnlg.data.shards import SHOWN, Outcome, Tally, Workers, tally_of, transform
from minimtnlg.errors import InputError


def halved(document, reason="odd"):
    """Even numbers go on as two halves, odd ones go."""
    number = int(document.id)
    if number % 2:
        return Outcome(reason=reason, counts=("seen", "odd"))
    half = Document("h" * number, document.source, f"{number}/2")
    return Outcome((half, half), counts=("seen",))


def chosen(document, value):
    return Outcome((document,)) if value else Outcome(reason="not chosen")


def failing(document):
    raise InputError(f"{document.id} is wrong")


def dying(document):
    os._exit(9)


@pytest.fixture
def shards(tmp_path):
    """Three shards of 10 documents; `é` so that bytes are more than characters."""
    paths = [tmp_path / "in" / f"web-{number:05d}.jsonl.zst" for number in range(3)]
    for number, path in enumerate(paths):
        with writing(path) as write:
            for i in range(10 * number, 10 * number + 10):
                write(Document("é" * i, "web" if i < 25 else "book", str(i)))
    return paths


def test_counts_and_documents(shards, tmp_path):
    tally = transform(halved, shards[2], tmp_path / "out.jsonl.zst")
    assert tally.into == {"web": [5, 2 * (20 + 21 + 22 + 23 + 24)], "book": [5, 2 * 135]}
    assert tally.out == {"web": [6, 2 * (20 + 22 + 24)], "book": [4, 2 * (26 + 28)]}
    assert tally.removed == {"odd": 5} and tally.counts == {"seen": 10, "odd": 5}
    out = [document.id for document in reading(tmp_path / "out.jsonl.zst")]
    assert out == [f"{i}/2" for i in (20, 20, 22, 22, 24, 24, 26, 26, 28, 28)]


def test_processes_do_not_matter(shards, tmp_path):
    found = []
    for processes in (1, 2):
        with Workers(processes, progress=False) as workers:
            folder = tmp_path / str(processes)
            tally = workers.tally("halve", halved, shards, folder)
            found.append((tally, [(folder / s.name).read_bytes() for s in shards]))
    assert found[0] == found[1]
    assert found[0][0].removed == {"odd": 15}


def test_samples_are_those_of_any_order(shards):
    documents = [document for shard in shards for document in reading(shard)]
    seen = set()
    for order in itertools.islice(itertools.permutations(documents[:6]), 0, 720, 37):
        left, right = Tally(), Tally()
        for number, document in enumerate(order):
            (left if number < 2 else right).add(document, Outcome(reason="all"))
        left.merge(right)
        seen.add(str(left.samples))
    assert len(seen) == 1


def test_samples_are_cut_and_silent_about_personal_text():
    tally = Tally()
    tally.add(Document("x" * 9999, "web", "1"), Outcome(reason="long"))
    secret = Document("secret", "mail", "2", meta={"private": True})
    tally.add(secret, Outcome(reason="mail"))
    assert len(tally.samples["long"][0][1]["text"]) == SHOWN
    assert "secret" not in str(tally.samples)


def test_a_tally_survives_the_disk(shards, tmp_path):
    tally = transform(halved, shards[0], tmp_path / "out.jsonl.zst")
    assert Tally.load(tally_of(tmp_path / "out.jsonl.zst")) == tally
    tally.merge(tally)
    assert tally.counts["seen"] == 20


def test_a_finished_shard_is_not_made_again_an_unfinished_one_is(shards, tmp_path):
    target = tmp_path / "out.jsonl.zst"
    first = transform(halved, shards[0], target)
    assert transform(failing, shards[0], target) == first
    tally_of(target).unlink()  # as if killed between the two
    with pytest.raises(InputError, match="0 is wrong"):
        transform(failing, shards[0], target)
    target.unlink()
    assert transform(halved, shards[0], target) == first


def test_rows_go_with_their_documents(shards, tmp_path):
    values = np.arange(10) % 3 == 0
    np.save(tmp_path / "rows.npy", values)
    with Workers(1, progress=False) as workers:
        rows = [tmp_path / "rows.npy"] * 3
        tally = workers.tally("choose", chosen, shards, tmp_path / "out", rows)
    assert tally.removed == {"not chosen": 18}
    assert [d.id for d in reading(tmp_path / "out" / shards[1].name)] == ["10", "13", "16", "19"]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_worker_is_the_users(shards, tmp_path, processes):
    with Workers(processes, progress=False) as workers:
        with pytest.raises(InputError, match="0 is wrong"):
            workers.tally("fail", failing, shards, tmp_path / "out")
        with pytest.raises(InputError, match="^die: a worker process died"):
            if processes == 1:
                raise InputError("die: a worker process died")  # in this process there is none
            workers.tally("die", dying, shards, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.zst"))


def test_workers_end_with_a_parent_that_is_killed(shards, tmp_path):
    """Even one that has no time to say so."""
    code = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from minimtnlg.data.shards import Workers
        if __name__ == "__main__":
            with Workers(2, progress=False) as workers:
                workers.each("start", abs, [(1,), (2,), (3,)])
                print("ready", flush=True)
                time.sleep(60)
    """
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(code))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_step_with_options_travels(shards, tmp_path):
    with Workers(2, progress=False) as workers:
        tally = workers.tally("halve", partial(halved, reason="why"), shards, tmp_path / "out")
    assert tally.removed == {"why": 15}
