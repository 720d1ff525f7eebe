"""A learner's folder: unedited copies follow the course, edited ones are never touched."""

import nbformat
import pytest

from minimtnlg.course.start import start


@pytest.fixture
def source(course):
    return course / "notebooks" / "src" / "00_template.py"


def change(source, new):
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("One comparison a bit.", new), encoding="utf-8")


def edit(path, text):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].source = text
    nbformat.write(notebook, path)


def text_of(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def test_first_start_copies_everything_without_outputs(course, capsys):
    page = start(root=course)
    assert page == course / "work" / "course_map.ipynb"
    assert "](00_template.ipynb)" in text_of(page)
    assert "](exercises/00_template.ipynb)" in text_of(page)
    lesson, exercise = (course / "work" / name for name in
                        ("00_template.ipynb", "exercises/00_template.ipynb"))  # fmt: skip
    assert "](exercises/00_template.ipynb)" in text_of(lesson)
    assert "](../00_template.ipynb)" in text_of(exercise)
    cells = nbformat.read(lesson, as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells)
    assert "4 new" in capsys.readouterr().out


def test_second_start_changes_nothing(course, capsys):
    start(root=course)
    before = {p: p.read_bytes() for p in (course / "work").rglob("*.ipynb")}
    start(root=course)
    assert {p: p.read_bytes() for p in (course / "work").rglob("*.ipynb")} == before
    assert "4 unchanged" in capsys.readouterr().out


def test_unedited_copy_is_refreshed_even_after_it_was_run(course, source):
    start(root=course)
    lesson = course / "work" / "00_template.ipynb"
    notebook = nbformat.read(lesson, as_version=4)
    notebook.cells[1].execution_count = 1
    notebook.metadata["kernelspec"]["display_name"] = "mine"
    nbformat.write(notebook, lesson)
    change(source, "Two comparisons.")
    start(root=course)
    assert "Two comparisons." in text_of(lesson)
    assert not (course / "work" / "00_template.new.ipynb").exists()


def test_edited_copy_stays_and_the_newer_lands_beside_it(course, source, capsys):
    start(root=course)
    lesson = course / "work" / "00_template.ipynb"
    edit(lesson, "mine = 1")
    start(root=course)
    assert list((course / "work").glob("*.new*")) == [], "no newer version yet"
    change(source, "Two comparisons.")
    start(root=course)
    beside = course / "work" / "00_template.new.ipynb"
    assert "mine = 1" in text_of(lesson) and "Two comparisons." in text_of(beside)
    assert "1 that you edited" in capsys.readouterr().out


def test_edited_newer_version_is_not_overwritten_either(course, source):
    start(root=course)
    folder = course / "work"
    edit(folder / "00_template.ipynb", "mine = 1")
    change(source, "Two comparisons.")
    start(root=course)
    edit(folder / "00_template.new.ipynb", "mine = 2")
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("Two comparisons.", "Three comparisons."), encoding="utf-8")
    start(root=course)
    assert "mine = 1" in text_of(folder / "00_template.ipynb")
    assert "mine = 2" in text_of(folder / "00_template.new.ipynb")
    assert "Three comparisons." in text_of(folder / "00_template.new2.ipynb")


def test_a_file_that_is_no_notebook_or_unknown_is_the_learners(course, source):
    start(root=course)
    lesson = course / "work" / "00_template.ipynb"
    lesson.write_text("my notes")
    (course / "work" / ".copies.json").unlink()
    change(source, "Two comparisons.")
    start(root=course)
    assert lesson.read_text() == "my notes"
    assert (course / "work" / "00_template.new.ipynb").exists()


def test_adapters_follow_the_course_until_they_are_edited(course):
    start(root=course)
    mine = course / "work" / "exercises" / "adapters.py"
    assert '"template": None' in mine.read_text()
    mine.write_text(mine.read_text().replace("None", '"own.bits:agreeing"'))
    source = course / "exercises" / "src" / "00_template.py"
    source.write_text(source.read_text().replace("# # Count", "# # Count well"))
    start(root=course)
    assert "own.bits:agreeing" in mine.read_text() and "Count well" not in mine.read_text()
    assert "Count well" in mine.with_name("adapters.new.py").read_text()
