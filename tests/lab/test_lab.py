"""A learner in JupyterLab: `make lab`, a real browser, and little more than its keyboard.

The tests follow one another in one browser, as a learner's first hour does.
"""

import shutil

import nbformat
import pytest

pytest.importorskip("selenium", reason="selenium is missing: pip install 'minimtnlg[test]'")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium or chromedriver is missing", allow_module_level=True)

from learner import NOTEBOOK, TOKEN, Browser, Server, until  # noqa: E402

pytestmark = pytest.mark.long
LESSON, EXERCISE = "06_ranks_and_collectives.ipynb", "00_will_it_fit.ipynb"
PROMPTS = f"{NOTEBOOK} .jp-CodeCell .jp-InputPrompt"
IMAGES = f"{NOTEBOOK} .jp-OutputArea-output img"
ANSWER = (  # on one line: JupyterLab indents by itself what is typed
    "def will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1): "
    'stage = layers // pp if layers % pp == 0 else int("uneven"); '
    "held = 20 * parameters / (tp * pp) + 2 * batch * stage * seq * hidden; "
    "return held, held <= gpu_memory"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("lab"))
    yield server
    left = server.stop()
    assert not left, f"processes that outlive the server: {left}"


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    browser.driver.get(f"{server.address}/?token={TOKEN}")  # the address that make lab prints
    yield browser
    browser.driver.quit()


def cells(server, name):
    """The cells of one of the learner's notebooks, as they are on disk."""
    return nbformat.read(server.root / "work" / name, as_version=4).cells


def number_of(server, name, text):
    """The number of the first cell that holds this text."""
    return next(i for i, cell in enumerate(cells(server, name)) if text in cell.source)


def images(browser):
    """Widths of the pictures below the cells; 0 is one that the browser could not draw."""
    return browser.read(IMAGES, "naturalWidth")


def test_it_opens_on_the_course_map_and_asks_nothing(server, browser):
    browser.front("course_map.ipynb", cells=2)
    assert browser.read(f"{NOTEBOOK} h1")[0].startswith("The course")
    assert browser.read(f"{NOTEBOOK} .jp-KernelName") == ["minimtnlg"]
    assert not browser.all(".jp-Dialog, .Toastify__toast"), "a question before the first lesson"
    assert "0 of 21 lessons done" in browser.run(1)


def test_a_lesson_runs_from_top_to_bottom(server, browser):
    browser.click(f'{NOTEBOOK} a[href*="{LESSON}"]')
    browser.front(LESSON, cells=len(cells(server, LESSON)))
    next(menu for menu in browser.all(".lm-MenuBar-item") if menu.text == "Run").click()
    browser.click('.lm-Menu-item[data-command="runmenu:run-all"]')
    until(lambda: "[*]:" in browser.read(PROMPTS), "the first cell")
    until(lambda: not {"[ ]:", "[*]:"} & set(browser.read(PROMPTS)), "the last cell", 900)
    browser.save()
    outputs = [o for c in cells(server, LESSON) if c.cell_type == "code" for o in c.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    kinds = "image/svg+xml", "image/png"
    drawn = [o for o in outputs if set(kinds) & set(o.get("data", {}))]
    assert drawn and all(o.metadata[k]["alt"] for o in drawn for k in kinds if k in o.data)
    assert len(images(browser)) == len(drawn) and all(images(browser))


def test_a_guess_is_kept(server, browser):
    number = number_of(server, LESSON, "predict(")
    assert "no guess yet" in browser.output(number)
    name = cells(server, LESSON)[number].source.split('predict("')[1].split('"')[0]
    assert "your guess 3 is kept" in browser.run(number, f'predict("{name}", 3)')
    assert browser.active() == number + 1, "Shift+Enter moves on"


def test_figures_stay_when_the_lesson_is_opened_again(server, browser):
    before = len(images(browser))
    browser.save()
    browser.driver.get(f"{server.address}/lab/tree/work/{LESSON}")
    browser.front(LESSON, cells=len(cells(server, LESSON)))
    until(lambda: len(images(browser)) == before and all(images(browser)), "the figures")


def test_source_and_pages_open_beside_the_lesson(server, browser):
    browser.click(f'{NOTEBOOK} .jp-OutputArea-output a[href*="minimtnlg/"]')
    until(lambda: browser.tab().endswith(".py"), "a file of the package")
    browser.driver.get(f"{server.address}/lab/tree/docs/glossary.md")
    until(lambda: browser.all(".jp-MarkdownViewer h1"), "the page as one reads it")


def test_an_exercise_answers_in_words_and_is_solved(server, browser):
    browser.driver.get(f"{server.address}/lab/tree/work/exercises/{EXERCISE}")
    name = f"exercises/{EXERCISE}"
    browser.front(EXERCISE, cells=len(cells(server, name)))
    check = number_of(server, name, 'check("will_it_fit"')
    for number in range(check):
        browser.start(number)
    told = browser.run(check)
    assert "not written yet" in told and "Solved" not in told
    browser.start(number_of(server, name, "def will_it_fit"), ANSWER)
    assert "Solved." in browser.run(check)


@pytest.mark.parametrize("by", ["keyboard", "button"])
def test_an_interrupted_job_leaves_a_kernel_that_works_and_no_rank(server, browser, by):
    """Two ranks that would sleep for ten minutes; goes on in the notebook of the exercise."""
    browser.go(number_of(server, f"exercises/{EXERCISE}", 'check("will_it_fit"'))
    browser.press("b")  # a new cell below
    new = browser.active()
    job = "import time; from minimtnlg import run; run(time.sleep, 2, 600, timeout=900)"
    browser.start(new, job)
    until(lambda: len(server.ranks()) == 2, "two ranks")
    if by == "keyboard":
        browser.press("escape", "i", "i")
    else:
        browser.click(f'{NOTEBOOK} [data-command="notebook:interrupt-kernel"]')
    until(lambda: not server.ranks(), "the end of the ranks")
    until(lambda: "KeyboardInterrupt" in browser.output(new), "word of the interrupt")
    assert "[4, 4]" in browser.run(new, "run(max, 2, 3, 4)")
    assert server.ranks() == []


def test_a_link_of_an_exercise_leads_to_its_lesson(server, browser):
    browser.click(f'{NOTEBOOK} a[href*="00_why_530b.ipynb"]')
    until(lambda: browser.tab() == "00_why_530b.ipynb", "the lesson")
