"""Shows that each bug of minimtnlg/course/bugs is noticed by the test named for it: `make mutants`.

    make mutants                                                    # all of them
    .venv/bin/python tests/mutants.py stale_shard qkv_by_kind       # these

A mutant is killed when its test runs against the patched package and fails. First all those tests
run against the package as it is: a test that fails there kills nothing.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from results import Clock

from minimtnlg.course.mutants import MUTANTS, find, patched

ROOT = Path(__file__).parents[1]
FAILED = 1  # what pytest exits with when a test has failed, and not its collection
CHECKED = """
import importlib, sys
folder, module, *arguments = sys.argv[1:]
file = importlib.import_module(module).__file__
if not file.startswith(folder):
    print(f"{module} was imported from {file}, not from {folder}")
    sys.exit(99)
import hypothesis, pytest
hypothesis.settings.register_profile("mutants", deadline=None)  # slowness kills nobody
sys.exit(pytest.main(["--hypothesis-profile=mutants", *arguments]))
"""


def pytest(folder, file, tests, timeout=300):
    """(exit status, output) of tests against the package in `folder`.

    file: one of the package, of which it is made sure that it is imported from there.
    """
    module = ".".join(["minimtnlg", *Path(file).with_suffix("").parts])
    # -P: else the package in the current folder would come first
    command = [sys.executable, "-P", "-c", CHECKED, str(folder), module]
    command += ["-x", "-p", "no:cacheprovider", *tests]
    env = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout + done.stderr


def hunt(name):
    """{name, killed_by, killed, seconds} of one mutant; RuntimeError where its test doesn't run."""
    bug, start = find(name), time.perf_counter()
    with patched(name) as folder:
        status, output = pytest(folder, bug.file, [bug.killed_by])
    if status not in (0, FAILED):
        raise RuntimeError(f"{name}: {bug.killed_by} can't be run:\n{output}")
    seconds = round(time.perf_counter() - start, 1)
    killed = status == FAILED
    return {"name": name, "killed_by": bug.killed_by, "killed": killed, "seconds": seconds}


def sources():
    """What the outcome depends on: the bugs, the files that have them, the tests that kill them."""
    files = {"minimtnlg/course/bugs"}
    for bug in MUTANTS.values():
        files |= {f"minimtnlg/{bug.file}", bug.killed_by.split("::")[0]}
    return sorted(files)


def main(names):
    bugs, clock = [find(name) for name in names or MUTANTS], Clock(*sources())
    tests = sorted({bug.killed_by for bug in bugs})
    status, output = pytest(ROOT, "errors.py", tests, timeout=1200)
    if status:
        sys.exit(f"without any mutant:\n{output}")
    rows, width = [], max(len(bug.name) for bug in bugs)
    with ThreadPoolExecutor(2) as two:
        for row in two.map(hunt, [bug.name for bug in bugs]):
            verdict = row["killed_by"] if row["killed"] else "SURVIVES " + row["killed_by"]
            print(f"{row['name']:{width}}  {row['seconds']:5.1f} s  {verdict}", flush=True)
            rows.append(row)
    survivors = [row["name"] for row in rows if not row["killed"]]
    if not names:
        clock.write("mutants", mutants=rows)
    print(f"{len(rows) - len(survivors)} of {len(rows)} mutants are killed")
    if survivors:
        sys.exit(f"survivors: {', '.join(survivors)}")


if __name__ == "__main__":
    main(sys.argv[1:])
