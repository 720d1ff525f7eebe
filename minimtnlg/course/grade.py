"""Grading: each submission meets the checks of its exercise in a sandbox; points come of it.

All checks of an exercise weigh alike. Unless the first one passes, the core property, there are no
points. What is kept in a folder is not graded again until submission, exercise, limits or grader
change.
"""

import dataclasses
import functools
import hashlib
import json
import os
import queue
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from minimtnlg.course import exercises, pages, submissions, suspicion
from minimtnlg.course.sandbox import LIMITS, Sandbox
from minimtnlg.course.sources import ROOT, class_id, exercise_sources, read_exercise
from minimtnlg.data.sources import cache_dir
from minimtnlg.errors import InputError
from minimtnlg.files import appearing, only_one

FULL = 10  # points of an exercise
KEPT = Path(".minimtnlg-grade")  # in the current folder
PARSING = threading.Lock()  # ast of Python 3.11 fails now and then where two threads parse at once


@dataclass(frozen=True)
class Result:
    """What one submission to one exercise is worth, and why."""

    student: str
    exercise: str  # NN_name
    title: str = ""
    path: str = ""
    points: float = 0.0  # of FULL
    checks: list = field(default_factory=list)  # dicts: name, title, hidden, kind, text
    trouble: str = ""  # why there are no points, or why it ended early
    flags: list = field(default_factory=list)  # for the teacher's eye
    seconds: float = 0.0
    lost: bool = False  # the grader failed, not the submission


def grade(
    paths,
    named=None,
    root=ROOT,
    students=(),
    jobs=None,
    kept=KEPT,
    afresh=False,
    tell=lambda text: None,
    **limits,
):
    """Results of all submissions below `paths`, in order of students and exercises.

    named     exercises that count; all of the course in `root` if None
    students  ids of a roster, by which folders are recognised
    jobs      how many run side by side; one a core if None
    kept      folder of earlier results, None for none; `afresh` doesn't look for any
    tell      is called with a line of text now and then
    limits    seconds, memory, disk, as in sandbox.LIMITS

    Of several files of a student for one exercise the best counts. InputError for a path or an
    exercise that is not there.
    """
    known = exercise_sources(root)
    if not known:
        raise InputError(f"{root}: there are no exercises in exercises/src")
    sources = {s.stem: s for s in known}
    wanted = set(sources) if named is None else {exercises.find(n, root).stem for n in named}
    found = submissions.find(paths, known, students)
    found = [s for s in found if s.exercise in wanted or not (s.exercise or named)]
    limits = LIMITS | limits
    results, waiting = {}, queue.SimpleQueue()
    for submission in found:
        begun = _begin(submission, sources.get(submission.exercise), limits)
        result = begun if isinstance(begun, Result) else _recall(kept, begun, afresh)
        if result:
            results[submission] = result
        else:
            waiting.put((submission, begun))
    if todo := waiting.qsize():
        jobs = min(jobs or os.cpu_count(), todo)
        secret = [str(Path(root).resolve() / "exercises" / "src"), str(ROOT / "exercises" / "src")]
        tell(f"{todo} to grade, {jobs} side by side")
        results |= _work(waiting, jobs, sources, limits, kept, secret, tell)
    own = class_id(root)
    return _best([_of_this_class(results[submission], submission, own) for submission in found])


def _of_this_class(result, submission, own):
    """The result, with a word to the teacher if its notebook was made for another class.

    own: the id of the class whose checks count, None for the public ones
    """
    try:
        text = submissions.code(submission.path.name, submissions.read(submission.path))
    except (InputError, OSError):
        return result
    made_for = re.search(r"""^setup\((?:"(\w+)")?\)$""", text, re.MULTILINE)
    if made_for is None or made_for[1] == own:
        return result
    name = f"the class {made_for[1]}" if made_for[1] else "the public course"
    words = f"made for {name}, graded by other checks: is --course right?"
    return dataclasses.replace(result, flags=[words, *result.flags])


def _begin(submission, source, limits):
    """The key under which the result is kept, or the Result of what can't be graded."""
    trouble = submission.trouble
    try:
        if not trouble:
            files = submission.files()
    except (InputError, OSError) as error:
        trouble = str(error)
    if trouble:
        title = source.title if source else ""
        return Result(submission.student, submission.exercise, title, str(submission.path),
                      trouble=trouble)  # fmt: skip
    how = [json.dumps(limits), submission.key, submission.student, str(submission.path)]
    parts = [_grader(), _secret(), source.path.read_bytes(), *map(os.fsencode, how)]
    for name, data in sorted(files.items()):
        parts += [os.fsencode(name), data]
    whole = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts))
    return whole.hexdigest()


@functools.cache
def _secret():
    """A number of this user's: else a student could lay a kept result beside the submission."""
    path = cache_dir() / "grader"
    with only_one(path.with_name("grader.lock"), path.name):
        if not path.exists():
            with appearing(path) as aside:
                aside.write_bytes(secrets.token_bytes(32))
        return path.read_bytes()


@functools.cache
def _grader():
    """A hash of the package's course: other checks of feedback are another grader."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


def _recall(kept, key, afresh):
    """The kept result of this key, or None."""
    if kept is None or afresh:
        return None
    try:
        return Result(**json.loads((kept / f"{key}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _work(waiting, jobs, sources, limits, kept, secret, tell):
    """Grade what is waiting; one thread and one sandbox for each job."""
    results, boxes, failures = {}, [], []
    said = set()
    total, began = waiting.qsize(), time.monotonic()

    def labour():
        """What one thread does: take a submission, grade it, keep the result; until none waits."""
        box = None
        try:
            while not failures:
                try:
                    submission, key = waiting.get_nowait()
                except queue.Empty:
                    return
                if box is None:
                    box = Sandbox()
                    boxes.append(box)
                    for text in box.open:
                        if text not in said:
                            said.add(text)
                            tell(f"not kept out: {text}")
                result, box = _one(box, boxes, submission, sources, limits, secret)
                results[submission] = result
                if kept is not None and not result.lost:
                    with appearing(kept / f"{key}.json") as aside:
                        aside.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")
                if len(results) % 50 == 0:
                    tell(f"{len(results)} of {total} after {time.monotonic() - began:.0f} s")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=labour, daemon=True) for _ in range(jobs)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        failures.append(None)  # after an interrupt: the threads take no more
        for box in boxes:
            box.close()
    if failures[0] is not None:
        raise failures[0]
    return results


def _one(box, boxes, submission, sources, limits, secret):
    """(Result, the sandbox for the next) of one submission."""
    source, files = sources[submission.exercise], submission.files()
    with PARSING:
        job = {
            "files": files,
            "main": submission.path.name,
            "key": submission.key,
            "exercise": exercises.questions(source),
            "secret": secret,
            "limits": limits,
        }
    began = time.monotonic()
    try:
        became = box.run(job)
    except (OSError, ValueError):  # its server is gone
        became = {"said": [], "ended": "the process that runs submissions has ended", "lost": True}
        box.close()
        boxes.append(box := Sandbox())
    seconds = time.monotonic() - began
    with PARSING:
        code = "\n".join(submissions.code(name, data) for name, data in files.items())
        given = _given(source.path)
        for cell in given:  # what a student left as it was needs no look
            code = code.replace(cell, "")
        flags = suspicion.scan(code, "\n".join(given))
        return judge(submission, source, became, flags, seconds), box


@functools.cache
def _given(path):
    """The code cells of the notebook that students begin with, set-up and stub included."""
    cells = pages.exercise_notebook(read_exercise(path)).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def judge(submission, source, became, flags=(), seconds=0.0):
    """The Result of what a sandbox says became of a submission."""
    said = became["said"]
    outcomes = {s["check"]: s for s in said if "check" in s}
    trouble = next((s["missing"] for s in said if "missing" in s), "")
    if replaced := [s["replaced"] for s in said if "replaced" in s]:
        trouble = f"your code replaces {replaced[0]}, so no points are given"
    fault = next((s["fault"] for s in said if "fault" in s), "")
    if fault:
        trouble = f"the exercise can't be checked here: {fault.strip().splitlines()[-1]}"
    elif became["ended"]:
        trouble = f"your code was ended: {became['ended']}"
    elif not trouble and not any("done" in s for s in said):
        trouble = "your code ended the process that checks it"
    _, asked = exercises.asked(source)
    core = outcomes.get(asked[0][0], {}).get("kind") == "passed"
    checks = []
    for name, title, hidden in asked:
        how = outcomes.get(name)
        if how is None:
            why = trouble.partition("\n")[0] or "it is asked once the first check passes"
            how = {"kind": "not run", "text": why}
        checks.append({"name": name, "title": title, "hidden": hidden, "kind": how["kind"],
                       "text": how["text"]})  # fmt: skip
    passed = sum(check["kind"] == "passed" for check in checks)
    points = round(FULL * passed / len(checks), 2) if core and not replaced else 0.0
    tried = sorted({f"tried: {s['tried']}" for s in said if "tried" in s})
    return Result(
        submission.student,
        submission.exercise,
        source.title,
        str(submission.path),
        points,
        checks,
        trouble,
        [*flags, *tried, *(["replaced: " + replaced[0]] if replaced else [])],
        round(seconds, 2),
        bool(fault) or became.get("lost", False),
    )


def one_student(results):
    """The results as those of one student, the first who has an answer."""
    names = [r.student for r in sorted(results, key=lambda r: not r.exercise)]
    return _best([dataclasses.replace(r, student=names[0]) for r in results])


def _best(results):
    """One result for each student and exercise: the best, of equal ones the first."""
    best = {}
    for result in results:
        key = result.student, result.exercise or result.path
        if key not in best or result.points > best[key].points:
            best[key] = result
    return list(best.values())
