"""The site in a real browser: formulas, phone, paper, keyboard, search, accessibility."""

import json

import pytest

LESSON = "notebooks/11_pipeline.html"
KINDS = [
    "docs/index.html",
    LESSON,
    "exercises/11_one_f_one_b.html",
    "docs/teaching/lessons/11.html",
    "docs/api/parallel.html",
    "docs/bibliography.html",
    "search.html",
]
LOOK = """
const done = arguments[0];
const look = () => {
  const article = document.querySelector("article");
  const plain = article.cloneNode(true);
  plain.querySelectorAll("pre, code, mjx-container, script").forEach((x) => x.remove());
  done({
    text: article.innerText.length,
    dollars: (plain.textContent.match(/[$][^$\\n]{1,80}[$]|\\\\[(].{0,20}/g) || []),
    formulas: article.querySelectorAll(".math").length,
    typeset: article.querySelectorAll(".math mjx-container").length,
    wrong: article.querySelectorAll("mjx-merror, [data-mml-node=merror]").length,
    wide: document.documentElement.scrollWidth - window.innerWidth,
  });
};
const typeset = window.MathJax && MathJax.startup && MathJax.startup.promise;
typeset ? typeset.then(look) : look();
"""


def size(browser, width, height):
    metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(scope="module")
def seen(browser, address, pages):
    """{page: what a phone shows of it}; each page is visited once."""
    size(browser, 390, 844)
    found = {}
    for name in pages:
        browser.get(address + name)
        found[name] = browser.execute_async_script(LOOK)
        log = browser.get_log("browser")
        found[name]["errors"] = [x["message"] for x in log if x["level"] == "SEVERE"]
    return found


def where(seen, wrong):
    return {name: page for name, page in seen.items() if wrong(page)}


def test_every_page_renders_without_an_error(seen):
    assert len(seen) > 100
    assert not where(seen, lambda page: page["errors"] or page["text"] < 200)


def test_formulas_are_typeset(seen):
    assert not where(seen, lambda page: page["formulas"] != page["typeset"] or page["wrong"])
    assert not where(seen, lambda page: page["dollars"])
    assert sum(page["formulas"] for page in seen.values()) > 500


def test_no_page_is_wider_than_a_phone(seen):
    assert not where(seen, lambda page: page["wide"] > 0)


def test_search_finds_a_schedule(browser, address):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    size(browser, 1280, 900)
    browser.get(address + "search.html")
    fields = browser.find_elements(By.CSS_SELECTOR, "input[name=q]")
    next(field for field in fields if field.is_displayed()).send_keys("1F1B", Keys.ENTER)
    script = "return [...document.querySelectorAll('#search-results li a')].map(a => a.href)"
    for page in (LESSON, "exercises/11_one_f_one_b.html"):
        WebDriverWait(browser, 30).until(
            lambda b, page=page: any(page in link for link in b.execute_script(script)), page
        )


def test_what_is_folded_is_printed(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    hidden = """const seen = {contentVisibilityAuto: true, opacityProperty: true};
        return [...document.querySelectorAll("details > *:not(summary)")]
        .filter(x => !x.checkVisibility(seen)).length"""
    size(browser, 800, 1000)
    browser.get(address + LESSON)
    assert browser.execute_script(hidden) >= 5
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        # The next frame shows what the style unlocks.
        WebDriverWait(browser, 30).until(lambda b: b.execute_script(hidden) == 0)
        menu = "return document.querySelector('.bd-sidebar-primary').checkVisibility()"
        assert not browser.execute_script(menu)
        # Browsers that can't open it by style are helped by a script. Nothing may fade in.
        closed = "return document.querySelectorAll('details:not([open])').length"
        assert browser.execute_script(f"dispatchEvent(new Event('beforeprint')); {closed}") == 0
        moving = "return document.getAnimations().filter(a => a.effect.target.closest('details'))"
        assert browser.execute_script(f"{moving}.length") == 0
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(hidden) >= 5)


def test_the_keyboard_reaches_text_search_and_menu(browser, address):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    size(browser, 1280, 900)
    browser.get(address + LESSON)
    stops = []
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        stops.append((active.get_attribute("href") or "") + " " + active.get_attribute("class"))
    assert "#main-content" in stops[0]
    assert any("search" in stop for stop in stops)
    assert any("notebooks/00_why_530b" in stop for stop in stops), stops


@pytest.mark.parametrize("kind", KINDS)
def test_no_serious_barrier(browser, address, kind):
    axe = pytest.importorskip("axe_core_python.base").AXE_SCRIPT
    size(browser, 1280, 900)
    browser.get(address + kind)
    browser.execute_async_script(LOOK if kind != "search.html" else "arguments[0]()")
    browser.execute_script(axe)
    rules = json.dumps({"runOnly": ["wcag2a", "wcag2aa"], "resultTypes": ["violations"]})
    script = f"axe.run(document, {rules}).then(arguments[0], e => arguments[0](String(e)))"
    found = browser.execute_async_script(script)
    assert len(found["passes"]) > 5, found
    serious = {
        v["id"]: [node["html"][:200] for node in v["nodes"][:5]]
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    }
    assert not serious


def test_the_first_page_is_found(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 20).until(lambda b: b.current_url.endswith("/docs/index.html"))
    assert "minimtnlg" in browser.title
