"""Building, running and comparing notebooks. One notebook is executed, once, for all tests."""

import io
from contextlib import redirect_stdout

import nbformat
import pytest
from conftest import small_course
from lesson_rules import committed

from minimtnlg.course import build, execute, pages
from minimtnlg.course.sources import lessons
from minimtnlg.errors import InputError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A course whose one lesson was built, with a line on stderr and a path added to it."""
    root = small_course(tmp_path_factory.mktemp("built"))
    source = root / "notebooks" / "src" / "00_template.py"
    text = source.read_text(encoding="utf-8")
    noisy = (
        "import os\nimport tqdm\n\nfor _ in tqdm.tqdm(range(3)):\n    pass\n"
        "open('left', 'w').close()\nprint(os.getcwd(), agreeing)\n"
    )
    source.write_text(text.replace("assert agreeing(n, seed=2) > 0", noisy), encoding="utf-8")
    (root / "README.md").write_text(f"# x\n\n{pages.BEGIN}\nold\n{pages.END}\n\nend\n")
    with redirect_stdout(io.StringIO()):
        results = build.build(root=root)
    assert [(r.name, r.state) for r in results] == [("00_template", "ok")]
    return root


def notebook_of(root):
    return nbformat.read(root / "notebooks" / "00_template.ipynb", as_version=4)


def test_built_notebook_is_executed_clean_and_equal_to_its_source(built):
    notebook = notebook_of(built)
    assert committed(notebook) == []
    assert build.drift(pages.lesson_notebook(lessons(built)[0], built),
                       built / "notebooks" / "00_template.ipynb") == ""  # fmt: skip
    assert [c.id for c in notebook.cells][:2] == ["00_template-000", "00_template-001"]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(set(c.metadata) <= {"tags"} for c in notebook.cells)


def test_nothing_of_this_machine_or_run_is_left_in_it(built):
    text = nbformat.writes(notebook_of(built))
    for trace in ("papermill", str(built), "ipykernel", "/tmp/", "0x7", "it/s"):
        assert trace not in text
    assert "<function agreeing at 0x...>" in text
    assert not list(built.rglob("left")), "a lesson leaves no file behind"


def test_pages_are_written_along(built):
    readme = (built / "README.md").read_text()
    assert "notebooks/00_template.ipynb" in readme and "old" not in readme
    assert readme.startswith("# x\n") and readme.endswith("end\n")
    glossary = (built / "docs" / "glossary.md").read_text()
    assert "**bit.** One yes or no" in glossary and "`--micro-batch-size`" in glossary
    assert (built / "exercises" / "00_template.ipynb").exists()
    assert "exercises/00_template.ipynb" in notebook_of(built).cells[-1].source


def test_texts_change_without_execution_and_outputs_stay(built, capsys):
    source = built / "notebooks" / "src" / "00_template.py"
    before = source.read_text(encoding="utf-8")
    try:
        source.write_text(before.replace("# # Shared bits", "# # Common bits"), encoding="utf-8")
        said = build.drift(pages.lesson_notebook(lessons(built)[0], built),
                           built / "notebooks" / "00_template.ipynb")  # fmt: skip
        assert "first at cell 0" in said and "minimtnlg course build 00_template" in said
        build.build(["00"], execute=False, root=built)
        assert notebook_of(built).cells[0].source.startswith("# 00 · Common bits")
        assert committed(notebook_of(built)) == []
    finally:
        source.write_text(before, encoding="utf-8")
        build.build(["00"], execute=False, root=built)


def test_drift_fails_the_run_without_executing(course, capsys):
    (result,) = build.run(root=course)
    assert result.state == "FAILED" and "is not built" in result.text
    out = capsys.readouterr().out
    assert "00_template" in out and out.endswith(f"{'all':<28}      0.0     5\n")  # of 5 seconds


def test_failing_lesson_is_named_with_cell_and_error_and_not_written(course, monkeypatch, capsys):
    import papermill

    def fails(notebook, *arguments, **options):
        raise papermill.PapermillExecutionError(
            cell_index=7, exec_count=3, source="x = 1 / 0", ename="ZeroDivisionError",
            evalue="division\nby zero", traceback=[])  # fmt: skip

    monkeypatch.setattr(papermill, "execute_notebook", fails)
    (result,) = build.build(root=course)
    assert result.state == "FAILED"
    assert result.text == "cell 7 (x = 1 / 0): ZeroDivisionError: division by zero"
    assert not (course / "notebooks" / "00_template.ipynb").exists()


def test_lesson_without_its_engine_is_skipped(course, monkeypatch, capsys):
    source = course / "notebooks" / "src" / "00_template.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("needs: []", "needs: []\n# requires: [slurm]"), encoding="utf-8")
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    build.build(execute=False, root=course)
    (result,) = build.run(root=course)
    assert result.state == "skipped" and "slurm is not installed" in result.text


def test_parameters_reach_the_kernel(course, monkeypatch, capsys):
    import papermill

    seen = {}
    monkeypatch.setattr(papermill, "execute_notebook", lambda nb, out, **o: seen.update(o) or nb)
    build.build(execute=False, root=course)
    (result,) = build.run(["00"], parameters={"n": 10}, root=course)
    assert result.state == "ok" and seen["parameters"] == {"n": 10}


def test_what_lessons_need_is_made_before_they_run(course, monkeypatch, capsys):
    asked = []

    def need(name):
        asked.append(name)
        raise InputError("no network")

    monkeypatch.setattr(build, "need", need)
    monkeypatch.setattr(build, "run_notebook", lambda nb, *a: asked.append("lesson") or nb)
    source = course / "notebooks" / "src" / "00_template.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text + "\n# %%\nneed('nano'), need(\"corpus\")\n", encoding="utf-8")
    (result,) = build.build(root=course)
    assert asked == ["corpus", "nano", "lesson"] and result.state == "ok"
    assert "nano: no network" in capsys.readouterr().out


def test_overwritten_progress_and_split_streams_become_one_text():
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=text)
        for text in (" 1/3", "\r 2/3", "\r 3/3\n", "done\n")
    ]
    (merged,) = execute._merged(outputs)
    assert merged.text == " 3/3\ndone\n"


def test_unknown_lesson_is_one_line(course):
    with pytest.raises(InputError, match="no lesson '99'; there are 00_template"):
        build.select(["99"], course)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("# minutes: 25\n", "", "'minutes' is missing"),
        ("# minutes: 25\n", "# minutes: long\n", "'minutes' is str, int is needed"),
        ("# minutes: 25\n", "# minutes: 25\n# level: 3\n", "unknown field 'level'"),
        ("# needs: []\n", "# needs: [\n", "not YAML"),
        ("# ---\n# question", "# question", "front matter is missing"),
        ("# # Shared bits\n", "# Shared bits\n", "begins with '# Title'"),
    ],
)
def test_wrong_front_matter_is_one_line_with_the_file(course, old, new, words):
    source = course / "notebooks" / "src" / "00_template.py"
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        lessons(course)
    said = str(caught.value)
    assert words in said and "00_template.py" in said and "\n" not in said
