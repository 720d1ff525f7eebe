"""What the files of the built site hold: nothing from elsewhere, links that lead somewhere."""

import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import nbformat
import pytest
from lxml import html

ROOT = Path(__file__).parents[2]
FOLDERS = ("notebooks", "exercises")
SITE = ROOT / "build" / "site"
REPOSITORY = re.compile(r"https://github\.com/minimtnlg/minimtnlg/(?:blob|tree)/main/([^#]+)")


@pytest.fixture(scope="module")
def trees(pages):
    return {name: html.parse(str(path)).getroot() for name, path in pages.items()}


def committed(name):
    """The notebook that a page is made of."""
    return nbformat.read((ROOT / name).with_suffix(".ipynb"), as_version=4)


def test_nothing_is_fetched_from_elsewhere(trees):
    loads = "//script/@src | //link[not(@rel='canonical')]/@href | //img/@src | //iframe/@src"
    outside = {
        (name, str(address))
        for name, tree in trees.items()
        for address in tree.xpath(loads)
        if re.match(r"(https?:)?//", address)
    }
    sheets = [*(SITE / "_static").rglob("*.css")]
    outside |= {s.name for s in sheets if re.search(r"(url\(|@import).{0,2}https?:", s.read_text())}
    assert not outside and sheets


def test_every_local_link_and_anchor_leads_somewhere(trees):
    anchors = {name: set(tree.xpath("//@id | //a/@name")) for name, tree in trees.items()}
    wrong = set()
    for name, tree in trees.items():
        for link in tree.xpath("//a/@href"):
            parts = urlparse(link)
            if parts.scheme or parts.netloc:
                continue
            target = (SITE / name).parent / unquote(parts.path) if parts.path else SITE / name
            page = target.resolve().relative_to(SITE).as_posix()
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and anchor not in anchors.get(page, {anchor})):
                wrong.add((name, link))
    assert not wrong


def test_every_link_to_the_repository_has_its_file(trees):
    links = [link for tree in trees.values() for link in tree.xpath("//a/@href")]
    paths = {found[1] for found in map(REPOSITORY.match, links) if found}
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert any(path.startswith("tests/") for path in paths)


def test_a_notebook_can_be_opened_elsewhere(trees):
    notebooks = [n for n in trees if re.match(r"(notebooks|exercises)/\d", n)]
    assert len(notebooks) == sum(len(list((ROOT / f).glob("*.ipynb"))) for f in FOLDERS)
    for name in notebooks:
        links = trees[name].xpath("//div[contains(@class,'dropdown-launch-buttons')]//a/@href")
        binder, colab, codespaces = links
        assert ROOT / colab.partition("/blob/main/")[2] == (ROOT / name).with_suffix(".ipynb")
        (place,) = parse_qs(urlparse(binder).query)["urlpath"]
        assert ROOT / place.removeprefix("lab/tree/") == (ROOT / name).with_suffix(".ipynb")
        assert codespaces == "https://codespaces.new/minimtnlg/minimtnlg"
    assert (ROOT / ".devcontainer" / "devcontainer.json").is_file()
    assert (ROOT / "binder").is_dir()


def test_measurements_are_folded_and_nothing_else(trees):
    for name in (name for name in trees if name.startswith("notebooks/")):
        cells = committed(name).cells
        guesses = [c for c in cells if "predict" in c.metadata.get("tags", []) and c.outputs]
        folded = trees[name].xpath("//details[contains(@class,'below-input')]")
        assert len(folded) == len(guesses) >= 2, name
        for part in folded:
            assert part.get("open") is None and part.xpath(".//div[contains(@class,'output')]")


def test_every_figure_keeps_its_words(trees):
    for name, tree in trees.items():
        images = tree.xpath("//article//img")
        assert all(len(image.get("alt", "")) > 20 for image in images), name
        if name.startswith("notebooks/"):
            outputs = [o for cell in committed(name).cells for o in cell.get("outputs", [])]
            forms = [form for o in outputs for form in o.get("metadata", {}).values()]
            words = [form["alt"] for form in forms if "alt" in form]
            assert [image.get("alt") for image in images] == words


def test_headings_are_in_order_and_the_language_is_said(trees):
    for name, tree in trees.items():
        assert tree.get("lang") == "en"
        tags = [str(element.tag) for element in tree.xpath("//article//*")]
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1 and levels[0] == 1, name
        assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False)), (name, levels)


def test_every_public_module_has_its_place(trees):
    there = {i for name, t in trees.items() if "docs/api/" in name for i in t.xpath("//@id")}
    package = ROOT / "minimtnlg"
    for path in package.rglob("*.py"):
        if not path.name.startswith("_"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert f"module-{module}" in there, f"{module}: its package has no page in docs/api"


def test_the_menu_has_every_part(trees):
    start = trees["docs/index.html"]
    linked = set(start.xpath("//nav[contains(@class,'bd-links')]//a/@href"))
    for name in ("notebooks/11_pipeline", "exercises/README", "teaching/index"):
        assert any(name in link for link in linked), name
