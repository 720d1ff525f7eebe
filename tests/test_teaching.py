"""docs/teaching: every lesson has its page, what it demonstrates is run, and the hours add up.

`python tests/test_teaching.py` writes the generated tables of module.md anew: the plans of its
classes from the pages of the lessons, its homework from the front matter of lessons and exercises.
"""

import contextlib
import doctest
import io
import re
import sys
from math import prod
from pathlib import Path

import pytest

from minimtnlg import cli
from minimtnlg.course.sources import ROOT, exercise_sources, lessons

FOLDER = ROOT / "docs" / "teaching"
PAGES = sorted(FOLDER.rglob("*.md"))
LESSONS = {lesson.number: lesson for lesson in lessons()}
HEADINGS = ["Goals", "Opening question", "Minutes", "Demonstration", "The board",
            "Where students stop", "Exam question"]  # fmt: skip
VERBS = {"carry out", "choose", "compute", "convert", "count", "criticise", "decide", "derive",
         "describe", "distinguish", "draw", "explain", "find", "identify", "list", "name",
         "predict", "read", "refute", "say", "score", "show", "state", "write", "apply",
         "justify", "defend"}  # fmt: skip
CLASS, HOME = 90, 360  # minutes of a class, and of a week at home,
RESERVE = 30  # of which some stay for what takes longer


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def sections(text, level="##"):
    """{heading: text below it, up to the next heading of the same or a higher level}."""
    parts = re.split(rf"(?m)^(#{{1,{len(level)}}}) (.+)$", text)
    triples = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return {heading: body for marks, heading, body in triples if marks == level}


def blocks(text, language):
    """The fenced blocks of a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def plan(text):
    """[(minutes, what)] of the first table of minutes in `text`, and the sum that it states."""
    rows = re.findall(r"(?m)^\| (\**)(\d+)\** \|(?: \S+ \|)? ?(.*?) ?\|$", text)
    told = [int(minutes) for bold, minutes, _ in rows if bold]
    return [(int(minutes), what) for bold, minutes, what in rows if not bold], told[0]


def bullets(text):
    return re.findall(r"(?m)^- ", text)


# The pages of the lessons.


@pytest.mark.parametrize("number", LESSONS)
def test_a_lesson_has_its_page_with_all_parts(number):
    text = read(f"lessons/{number}.md")
    assert text.startswith(f"# {number} {LESSONS[number].title}\n")
    assert f"](../../../notebooks/{LESSONS[number].name}.ipynb)" in text
    parts = sections(text)
    assert list(parts) == HEADINGS
    verbs = re.findall(r"(?m)^- \*\*([a-z ]+)\*\*", parts["Goals"])
    assert len(verbs) == len(bullets(parts["Goals"])) in (3, 4) and set(verbs) <= VERBS
    assert "?" in parts["Opening question"]
    assert 3 <= len(re.findall(r'(?m)^- \*\*"', parts["Where students stop"])) <= 5
    assert "**Answer.**" in parts["Exam question"] and blocks(parts["Exam question"], "python")
    assert blocks(parts["The board"], "text")


@pytest.mark.parametrize("number", LESSONS)
def test_minutes_of_a_page_add_up(number):
    rows, told = plan(sections(read(f"lessons/{number}.md"))["Minutes"])
    assert sum(minutes for minutes, _ in rows) == told and told in (45, 90)


@pytest.mark.parametrize("number", LESSONS)
def test_minutes_of_a_page_name_the_predictions_of_its_lesson(number):
    source = LESSONS[number].path.read_text(encoding="utf-8")
    count = {3: "three", 4: "four", 5: "five"}[len(re.findall(r"(?m)^predict\(", source))]
    (found,) = re.findall(r"(\w+) predictions", sections(read(f"lessons/{number}.md"))["Minutes"])
    assert found == count


@pytest.mark.parametrize("number", LESSONS)
def test_the_demonstration_shows_what_the_page_says(number, tmp_path, monkeypatch):
    demonstration = sections(read(f"lessons/{number}.md"))["Demonstration"]
    (code,), (told,) = blocks(demonstration, "python"), blocks(demonstration, "text")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 15, f"{len(lines)} lines are too many to type in front of a class"
    monkeypatch.chdir(tmp_path)
    shown = carried_out(code, f"lessons/{number}.md")
    assert doctest.OutputChecker().check_output(told, shown, doctest.ELLIPSIS), shown


@pytest.mark.parametrize("number", LESSONS)
def test_the_answer_of_the_exam_question_holds(number):
    for code in blocks(sections(read(f"lessons/{number}.md"))["Exam question"], "python"):
        assert "assert " in code
        carried_out(code, f"lessons/{number}.md")


def carried_out(code, where):
    """What a block prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, where, "exec"), {"__name__": "demonstration"})
    return out.getvalue()


# The module.


def classes():
    """{class: the numbers of its lessons}, as the headings of module.md say."""
    found = re.findall(r"(?m)^### Class (\d): (\d\d(?:, \d\d)*)", read("module.md"))
    return {int(number): re.findall(r"\d\d", told) for number, told in found}


def path():
    """The lessons of the module, in order."""
    return [number for numbers in classes().values() for number in numbers]


def boxed(page):
    """{lesson: terms that a box of `page` tells instead of it}."""
    boxes = sections(read(page), "##")
    found = {}
    for heading, body in boxes.items():
        if match := re.fullmatch(r"What you need from lesson (\d\d)", heading):
            found[match[1]] = [term for term in re.findall(r"(?m)^- \*\*(.+?)\*\*", body)]
    return found


def test_the_module_has_eight_classes_and_thirteen_lessons():
    assert list(classes()) == list(range(1, 9))
    assert path() == "00 01 04 05 06 07 08 09 10 11 12 15 16".split()


def test_no_lesson_of_the_path_needs_one_outside_it():
    told = boxed("module.md")
    known = {term for terms in told.values() for term in terms}
    for number, terms in told.items():
        assert number not in path() and set(terms) <= set(LESSONS[number].introduces)
        needed = {term for other in path() for term in LESSONS[other].needs}
        assert set(terms) <= needed, "a box tells what nobody needs"
    for number in path():
        missing = set(LESSONS[number].needs) - known
        assert not missing, f"lesson {number} needs {missing}"
        known |= set(LESSONS[number].introduces)
        for exercise in exercise_sources():
            if exercise.number == number:
                assert set(exercise.needs) <= known, f"{exercise.stem}: {exercise.needs}"


def test_seminar_topics_need_the_path_and_each_other_only():
    known = {term for number in path() for term in LESSONS[number].introduces}
    for number in sorted(set(LESSONS) - set(path())):
        assert set(LESSONS[number].needs) <= known, f"lesson {number}"
        known |= set(LESSONS[number].introduces)


def weeks():
    """[(lessons of the week, minutes of the project)], as the headings of module.md say."""
    found = re.findall(r"(?m)^### At home, week (\d)(?:, with (\d+) minutes for the project)?$",
                       read("module.md"))  # fmt: skip
    both = classes()
    return [(both[2 * int(w) - 1] + both[2 * int(w)], int(project or 0)) for w, project in found]


def homework(numbers, project):
    """(exercises that are asked, those left over, minutes that remain) of a week at home.

    Lessons take turns, each with its easiest exercise first, until all but the reserve is full.
    """
    waiting = {number: [e for e in exercise_sources() if e.number == number] for number in numbers}
    order = [exercise for exercises in waiting.values() for exercise in exercises]
    left = HOME - project - sum(LESSONS[number].minutes for number in numbers)
    asked, over = [], []
    while any(waiting.values()):
        for exercises in filter(None, waiting.values()):
            exercise = exercises.pop(0)
            fits = exercise.minutes <= left - RESERVE
            (asked if fits else over).append(exercise)
            left -= exercise.minutes if fits else 0
    return sorted(asked, key=order.index), sorted(over, key=order.index), left


def generated():
    """{name of a block: its lines} of module.md."""
    made = {}
    for number, numbers in classes().items():
        lines = ["| Minutes | Lesson | What |", "|---:|---|---|"]
        total = 0
        for lesson in numbers:
            rows, told = plan(sections(read(f"lessons/{lesson}.md"))["Minutes"])
            lines += [f"| {m} | [{lesson}](lessons/{lesson}.md) | {what} |" for m, what in rows]
            total += told
        if total < CLASS:
            lines.append(f"| {CLASS - total} | | The project: groups, questions, first layouts |")
        made[f"class {number}"] = [*lines, f"| **{CLASS}** | | |"]
    for week, (numbers, project) in enumerate(weeks(), start=1):
        asked, over, left = homework(numbers, project)
        lines = ["| Minutes | What |", "|---:|---|"]
        for number in numbers:
            lesson = LESSONS[number]
            link = f"[{number} {lesson.title}](../../notebooks/{lesson.name}.ipynb)"
            lines.append(f"| {lesson.minutes} | read and run {link} |")
        lines += [f"| {e.minutes} | {linked(e)}, mark {e.mark} |" for e in asked]
        if project:
            lines.append(f"| {project} | the [project](projects.md) |")
        lines.append(f"| {left} | in reserve: what took longer |")
        lines.append(f"| **{HOME}** | |")
        if over:
            more = ", ".join(f"{linked(e)} ({e.minutes} minutes)" for e in over)
            lines += ["", f"For those who want more: {more}."]
        made[f"home {week}"] = lines
    return made


def linked(exercise):
    return f"[{exercise.title}](../../exercises/{exercise.stem}.ipynb)"


def renewed(text):
    """module.md with its generated blocks as they are now."""
    for name, lines in generated().items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        assert text.count(begin) == text.count(end) == 1, name
        head, rest = text.split(begin)
        text = "\n".join([head + begin, *lines, end + rest.split(end)[1]])
    return text


def test_the_tables_of_the_module_are_current():
    hint = "run python tests/test_teaching.py, which writes them"
    assert renewed(read("module.md")) == read("module.md"), hint


def test_the_hours_of_the_module_add_up():
    made = generated()
    for name, lines in made.items():
        rows, told = plan("\n".join(lines))
        assert sum(minutes for minutes, _ in rows) == told, name
        assert told == (CLASS if name.startswith("class") else HOME)
    for numbers, project in weeks():
        asked, _, left = homework(numbers, project)
        assert left >= 0 and {e.number for e in asked} == set(numbers), "each lesson has homework"


def test_marks_add_up_with_a_project_and_without():
    table = sections(read("module.md"))["Marks"]
    rows = [row.split("|")[2:4] for row in re.findall(r"(?m)^\| .*%.*$", table)]
    shares = [[int((re.findall(r"\d+", cell) or [0])[0]) for cell in row] for row in rows]
    for *parts, together in zip(*shares, strict=True):
        assert sum(parts) == together == 100


def test_exercises_that_may_come_out_as_the_public_ones_are_named():
    told = sections(read("release.md"), "###")["Where the public solution still passes"]
    two = [e.stem for e in exercise_sources() if prod(map(len, e.draws.values())) <= 2]
    assert re.findall(r"`(\d\d_\w+)`", told.split("- **The")[0]) == two


# The other formats.


def test_the_workshop_is_a_day():
    rows = re.findall(r"(?m)^\| (\d+):(\d\d) \| (\d+) \|", read("workshop.md"))
    ends = None
    for hour, minute, minutes in rows:
        start = 60 * int(hour) + int(minute)
        assert ends in (None, start), f"{hour}:{minute}"
        ends = start + int(minutes)
    assert len(rows) > 6 and 6 * 60 <= ends - (60 * int(rows[0][0]) + int(rows[0][1])) <= 8 * 60


def test_the_workshop_tells_what_its_lessons_need():
    text = read("workshop.md")
    shown = re.findall(r"\]\(lessons/(\d\d)\.md\)", sections(text)["The day"])
    told = set(re.findall(r"(?m)^- \*\*(.+?)\*\*", sections(text)["What is told, not taught"]))
    known = {term for number in shown for term in LESSONS[number].introduces}
    missing = {term for number in shown for term in LESSONS[number].needs} - known
    assert told == missing


def test_the_semester_has_every_lesson_once_in_order():
    rows = re.findall(r"(?m)^\| (\d+) \| (.+) \|$", sections(read("semester.md"))["The weeks"])
    assert [int(week) for week, _ in rows] == list(range(1, 15))
    found = [number for _, row in rows for number in re.findall(r"\]\(lessons/(\d\d)\.md\)", row)]
    assert found == sorted(found) and set(found) == set(LESSONS)


def test_rubrics_add_up():
    for name, body in sections(read("projects.md")).items():
        if not name.startswith("Project"):
            continue
        levels = re.findall(r"(?m)^\| [^|]+ \| 0: .*?\| (\d+): [^|]+ \|$", body)
        assert len(levels) >= 4 and sum(map(int, levels)) == 20, name


# What the pages name.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(FOLDER)))
def test_links_and_named_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    missing = [x for x in links if not re.match(r"[a-z]+:", x) and not (page.parent / x).exists()]
    named = r"`((?:docs|exercises|minimtnlg|notebooks|scaling|tests)/[\w/.-]+\.\w+)`"
    missing += [name for name in re.findall(named, text) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(FOLDER)))
def test_commands_exist(page, monkeypatch, capsys):
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    known = text_of_help(monkeypatch, capsys, [])
    for words in commands(text):
        command = words[:2] if words[0] in ("course", "data", "checkpoint") else words[:1]
        assert re.search(rf"(?m)^  {command[0]} ", known), f"minimtnlg {command[0]}"
        told = text_of_help(monkeypatch, capsys, command)
        for option in (word for word in words if word.startswith("--")):
            assert option in told, f"minimtnlg {' '.join(command)} {option}"


def commands(text):
    """The words after `minimtnlg` of each command in `text`: in code spans and indented lines."""
    text = re.sub(r"(?ms)^```.*?^```", "", text).replace("\\\n", " ")
    found = re.findall(r"`minimtnlg ([^`]+)`", text)
    found += re.findall(r"(?m)^ {4,}minimtnlg (.+)$", text)
    return [command.split("#")[0].split() for command in found]


def text_of_help(monkeypatch, capsys, words):
    """What `minimtnlg WORDS --help` prints; fails if there is no such command."""
    monkeypatch.setattr(sys, "argv", ["minimtnlg", *words, "--help"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capsys.readouterr()
    assert not exit_.value.code, f"minimtnlg {' '.join(words)}: {err}"
    return out


if __name__ == "__main__":
    page = Path(FOLDER / "module.md")
    page.write_text(renewed(read("module.md")), encoding="utf-8")
