"""What a teacher takes away: a table, a gradebook, a results.json for Gradescope.

Results are those of `grade.py`; nothing here looks at a submission. `table` is what `by_student`
makes of them, `row` what it holds of one student.
"""

import csv
import dataclasses
import io
import json
from pathlib import Path

from minimtnlg.course.grade import FULL, Result
from minimtnlg.errors import InputError


def read_roster(path):
    """{id: {"id", "name", "email"}} of a CSV file with the columns id, name and perhaps email.

    InputError for what is no such file, an id that is empty or there twice, and no student at all.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8: {error}") from None
    roster = {}
    for number, row in enumerate(rows, start=2):
        row = {(key or "").strip().lower(): (value or "").strip() for key, value in row.items()
               if not isinstance(value, list)}  # fmt: skip
        if "id" not in row or "name" not in row:
            raise InputError(f"{path}: the first line must be id,name or id,name,email")
        if not row["id"] or row["id"] in roster:
            raise InputError(f"{path}, line {number}: id {row['id']!r} is empty or there twice")
        roster[row["id"]] = {key: row.get(key, "") for key in ("id", "name", "email")}
    if not roster:
        raise InputError(f"{path}: there is no student in it")
    return roster


def by_student(results, roster=None, named=()):
    """({student: {NN_name: Result}}, the exercises), of the roster first, in its order.

    A student of the roster has a result for each exercise, if need be one of nothing. What can't be
    assigned to an exercise stands under its path. Who isn't in the roster gets a flag.

    named: exercises, as NN_name, that are listed even if nobody has handed one in.
    """
    stems = sorted({r.exercise for r in results if r.exercise} | set(named))
    table = {student: {} for student in roster or ()}
    for result in results:
        if roster and result.student not in roster:
            flags = [*result.flags, "not in the roster"]
            result = dataclasses.replace(result, flags=flags)
        table.setdefault(result.student, {})[result.exercise or result.path] = result
    for student in roster or ():
        for stem in stems:
            nothing = Result(student, stem, trouble="nothing handed in")
            table[student].setdefault(stem, nothing)
    return table, stems


def total(row):
    """Points of a student, a dict of Results."""
    return round(sum(result.points for result in row.values()), 2)


def flags(row):
    """What to look at, with the exercise that it is about."""
    found = []
    for key, result in row.items():
        found += [f"{key}: {flag}" for flag in result.flags]
        if not result.exercise:
            found.append(f"{key}: {result.trouble}")
    return found


def to_csv(table, stems, roster=None):
    """A row a student, a column an exercise, the total, and what a teacher may want to look at."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "name", "email", *stems, "total", "to look at"])
    for student, row in table.items():
        known = (roster or {}).get(student, {})
        points = [_number(row[stem].points) if stem in row else "" for stem in stems]
        start = [student, known.get("name", ""), known.get("email", "")]
        end = [_number(total(row)), "; ".join(flags(row))]
        writer.writerow([*map(_plain, start), *points, *map(_plain, end)])
    return text.getvalue()


def to_json(table, stems):
    """Everything, hidden checks included: for the teacher."""
    students = [
        {
            "student": student,
            "points": total(row),
            "of": FULL * len(stems),
            "results": [dataclasses.asdict(result) for result in row.values()],
        }
        for student, row in table.items()
    ]
    return json.dumps({"exercises": stems, "students": students}, indent=1) + "\n"


def to_gradescope(table):
    """The results.json of an autograder; InputError unless it is about one student."""
    if len(table) != 1:
        raise InputError(f"--gradescope is for the work of one student; here are {len(table)}")
    (row,) = table.values()
    tests = []
    for result in row.values():
        if not result.checks:
            tests.append({"name": result.title or result.path, "score": 0, "max_score": FULL,
                          "output": result.trouble, "visibility": "visible"})  # fmt: skip
        for check in result.checks:
            most = FULL / len(result.checks)
            passed = check["kind"] == "passed" and result.points > 0
            tests.append({
                "name": f"{result.title}: {check['title']}",
                "score": round(most * passed, 4),
                "max_score": round(most, 4),
                "status": "passed" if check["kind"] == "passed" else "failed",
                "output": "" if check["hidden"] else check["text"],
                "visibility": "after_due_date" if check["hidden"] else "visible",
            })  # fmt: skip
    return json.dumps({"score": total(row), "tests": tests}, indent=1) + "\n"


def to_text(table, stems):
    """A short table: a line for each exercise of one student, else a line for each student."""
    if len(table) == 1:
        ((student, row),) = table.items()
        lines = [("exercise", "points", "checks", student)]
        for key, result in row.items():
            passed = sum(check["kind"] == "passed" for check in result.checks)
            words = result.trouble or next((c["title"] for c in _failed(result)), "")
            words = words.partition("\n")[0]
            if words and not result.trouble:
                words = f"not yet: {words}"
            lines.append((key, _number(result.points), f"{passed} of {len(result.checks)}", words))
    else:
        lines = [("student", "points", "of", "exercises", "to look at")]
        for student, row in table.items():
            done = sum(bool(result.checks) for result in row.values())
            look = flags(row)
            more = f" and {len(look) - 1} more" if len(look) > 1 else ""
            most = str(FULL * len(stems))
            words = look[0] + more if look else ""
            lines.append((student, _number(total(row)), most, f"{done} of {len(stems)}", words))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def is_full(table):
    """Whether all that is in the table got all points, and something is."""
    rows = [result for row in table.values() for result in row.values()]
    return bool(rows) and all(result.points == FULL for result in rows)


def _failed(result):
    """Its checks that did not pass, those first that may be named."""
    return sorted((c for c in result.checks if c["kind"] != "passed"), key=lambda c: c["hidden"])


def _number(points):
    return f"{points:g}"


def _plain(text):
    """Text that no spreadsheet takes for a formula."""
    text = text.replace("\r", " ").replace("\n", " ")
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def write(path, text):
    """Write a file that is whole or not there."""
    from minimtnlg.files import appearing

    with appearing(Path(path)) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
