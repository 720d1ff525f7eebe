"""Every lesson that is there keeps the rules; and each rule catches a lesson that breaks it."""

import re
from types import SimpleNamespace

import nbformat
import pytest
from lesson_rules import breaches, committed
from number_rules import typed, unproven

from minimtnlg import config
from minimtnlg.course import pages
from minimtnlg.course.build import drift
from minimtnlg.course.sources import ROOT, lessons, read_lesson

LESSONS = lessons()


@pytest.mark.parametrize("i", range(len(LESSONS)), ids=[x.name for x in LESSONS])
def test_lesson_keeps_the_rules(i):
    assert breaches(LESSONS[i], LESSONS[:i]) == []


@pytest.mark.parametrize("lesson", LESSONS, ids=[x.name for x in LESSONS])
def test_committed_notebook_is_its_source_executed(lesson):
    path = ROOT / "notebooks" / f"{lesson.name}.ipynb"
    assert drift(pages.lesson_notebook(lesson), path) == ""
    notebook = nbformat.read(path, as_version=4)
    assert committed(notebook) == []
    assert unproven(lesson, notebook) == []
    assert typed(lesson, notebook) == []


def test_readme_shows_the_course_map():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not LESSONS:
        pytest.skip("no lesson yet")
    assert pages.BEGIN in text, f"README.md needs the lines {pages.BEGIN} and {pages.END}"
    assert pages.readme(text) == text, "run: minimtnlg course build"


def test_glossary_is_generated():
    if not LESSONS:
        pytest.skip("no lesson yet")
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert text == pages.glossary(), "run: minimtnlg course build"


def test_symbols_name_fields_of_the_configuration():
    fields = vars(config.preset("nano"))
    for symbol, _, code, *_ in pages.SYMBOLS:
        for section, name in re.findall(r"`([a-z]+)\.([a-z_]+)`", code):
            assert hasattr(fields[section], name), f"{symbol}: no {section}.{name}"


TEMPLATE = ROOT / "notebooks" / "src" / "_template.py"


def test_template_keeps_the_rules():
    assert breaches(read_lesson(TEMPLATE), []) == []


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("# ## Proof\n", "# ## Prove\n", "headings are"),
        ("# ## Proof\n", "# So\n#\n# ## Proof\n", "headings are"),
        ("# ## Proof\n", "# # Proof\n", "one heading of the first level"),
        ("# ## Proof\n", "# ## Proof\n#\n# #### So\n", "level 4 skips one"),
        ("One comparison a bit.", "As [here](https://example.org).", "where it leads"),
        ("<summary>Answer</summary>", "<summary></summary>", "a fold is not"),
        ("needs: []", "needs: [byte]", "no earlier lesson has it"),
        ("the smallest unit of information.", "small", "not one sentence"),
        ("come closer to one half.\"", "\"", "not one short sentence"),
        ("bits agree?\n# needs", "bits agree\n# needs", "question mark"),
        ("minutes: 25", "minutes: 90", "90 minutes"),
        ("seconds: 5", "seconds: 500", "500 seconds"),
        ('predict("shared_bits", None)', 'predict("shared_bits", 500)', "leave the guess at None"),
        ('predict("shared_bits", None)', "", "at least two are needed"),
        ('predict("shared_bits", None)', "", "without or before its predict"),
        ('measured("shared_bits_of_longer", "same share")', "", "never measured"),
        ('tags=["predict"]\nassert', "\nassert", "no tag predict"),
        ('"shared_bits_of_longer"', '"Shared bits"', "not snake_case"),
        ('"shared_bits_of_longer"', '"shared_bits"', "is there twice"),
        ("<details><summary>Answer</summary>\n#\n# Four.\n#\n# </details>", "Four.", "2 folded"),
        ("<details><summary>Answer</summary>\n#\n# Four.", "<details>\n#\n# Four.", "2 folded"),
        ("One comparison a bit.", "One <b>comparison</b> a bit.", "HTML"),
        ("One comparison a bit.", "| a | b |\n# |---|---|", "pipe table"),
        ("One comparison a bit.", "```{note}\n# x\n# ```", "MyST"),
        ("One comparison a bit.", "A cheap thing!", "exclamation"),
        ("One comparison a bit.", "It costs $3.", "a lone $"),
        ("One comparison a bit.", "![bits](bits.png)", "an image"),
        ("n: int = 1000", "print(1)\nn: int = 1000", "more than assignments"),
        ("agreeing(n, seed=2) > 0", "agreeing(n, seed=2) > spread - 100", "used outside"),
        ('tags=["deeper"]\n# ### Deeper', "\n# ### Deeper", "do not agree"),
        ('tags=["predict"]\nassert', 'tags=["hidden"]\nassert', "unknown tag"),
        ("fig, ax = plt.subplots()", "%matplotlib inline\nfig, ax = 1, 2", "not Python"),
        ("figure(fig, alt=", "plt.show()\nprint(fig, ", "plt.show"),
    ],
)
def test_a_broken_rule_is_named(tmp_path, old, new, sentence):
    text = TEMPLATE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "00_template.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    found = breaches(read_lesson(path), [])
    assert any(sentence in breach for breach in found), found


def test_terms_and_predictions_are_new_once():
    lesson = read_lesson(TEMPLATE)
    found = breaches(lesson, [lesson])
    assert "introduces 'bit' again" in found
    assert "the prediction 'shared_bits' is there twice" in found


def test_committed_notebook_with_an_error_or_a_bare_figure_is_named():
    notebook = pages.lesson_notebook(read_lesson(TEMPLATE))
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    for i, cell in enumerate(cells, 1):
        cell.execution_count = i
    assert committed(notebook) == []
    cells[0].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="")]
    cells[1].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "AA=="})]
    cells[2].outputs = [nbformat.v4.new_output("stream", name="stderr", text="warning")]
    cells[3].execution_count = 99
    said = " ".join(committed(notebook))
    for part in ("ValueError", "alternative text", "stderr", "in order"):
        assert part in said


def lesson_of(prose, code="", output=""):
    """(lesson, notebook) of two cells, one of which printed `output`."""
    cells = [nbformat.v4.new_markdown_cell(prose), nbformat.v4.new_code_cell(code)]
    ran = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    ran.cells[0].outputs = [nbformat.v4.new_output("stream", text=output)]
    return SimpleNamespace(name="00_of_two_cells", cells=cells), ran


@pytest.mark.parametrize(
    "right, wrong, code, output",
    [
        ("It takes 12.5 s.", "It takes 12.6 s.", "", "took 12.5 s"),
        ("It costs 41 300 kWh.", "It costs 41 500 kWh.", "assert energy == 41_300", ""),
        ("A byte in 77.", "A byte in 78.", "n = 77\nax.plot(x, lw=78)", ""),
        ("It took 77.7 s [S3].", "It took 77.7 s.", "", ""),
        ("It is 77.7 [S3].\n\nAs 77.7.", "It is 77.7 [S3].\n\nAs 77.9.", "", ""),
        ("With $3 \\cdot 40 = 120$ bytes.", "With $3 \\cdot 40 = 130$ bytes.", "", ""),
        ("It is $7/32 = 21.9$ %.", "It is $7/32 = 22.9$ %.", "", ""),
        ("$\\log(0.03 / 0.06) = -0.69$", "$\\log(0.03 / 0.06) = -0.79$", "", ""),
        ("What do 333 do?\n\nAs 333.", "What do 333 do?\n\nAs 334.", "", ""),
        ("On 2240 GPUs.", "On 2241 GPUs.", "", ""),
        ("In 2021 three of them, `444`, and $10^{77}$.", "In 2021 444 of them.", "", ""),
    ],
)
def test_a_number_that_nothing_gives_is_named(right, wrong, code, output):
    assert unproven(*lesson_of(right, code, output)) == []
    assert unproven(*lesson_of(wrong, code, output)) != []


def test_a_number_typed_into_an_alternative_text_is_named():
    code = 'print(seconds)\nfigure(fig, alt=f"It falls from {seconds} to 77.7 s.")'
    assert typed(*lesson_of("", code, "12.5")) == ["77.7 in 'to 77.7 s.'"]
    assert typed(*lesson_of("", code, "12.5 77.7")) == []
