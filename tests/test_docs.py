"""README and the pages of docs/: every link to a file of the repository leads somewhere."""

import re
from pathlib import Path

import pytest

from minimtnlg.course.pages import repository

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "exercises" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_buttons_open_what_is_there():
    """Colab and Binder get an address of this repository's and the path of a file."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    name = repository().removeprefix("https://github.com/")
    colab = re.findall(r"colab\.research\.google\.com/github/([^)]+)/blob/main/([^)]+)", text)
    binder = re.findall(r"mybinder\.org/v2/gh/([^)]+)/main\?urlpath=lab/tree/([^)]+)", text)
    assert colab and binder and f"https://codespaces.new/{name})" in text
    for where, path in colab + binder:
        assert where == name and (ROOT / path).is_file(), path


def test_readme_speaks_of_commands_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for name in re.findall(r"(?:tests/)?scaling/[\w/.-]+\.(?:yaml|py)", text):
        assert (ROOT / name).is_file(), name
