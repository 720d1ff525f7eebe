"""The front of the house: what CONTRIBUTING, the workflows and the paper map name is there.

That GitHub's files fit their schemas is seen by `make check`.
"""

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from minimtnlg.course.sources import exercise_sources, lessons

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(" ".join(re.findall(r"(?m)^\.PHONY: (.+)$", MAKEFILE)).split())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAP = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
MEGABYTES = 2  # of one file


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_makefile_explains_each_of_its_targets():
    head = MAKEFILE.partition("\n\n")[0]
    assert sorted(re.findall(r"(?m)^# make (\w+)", head)) == sorted(TARGETS)
    for target in TARGETS:
        assert re.search(rf"(?m)^{target}:", MAKEFILE), target


@pytest.mark.parametrize(
    "name",
    ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/PULL_REQUEST_TEMPLATE.md",
     *(str(path.relative_to(ROOT)) for path in WORKFLOWS)],
)  # fmt: skip
def test_what_a_page_tells_to_make_can_be_made(name):
    commands = re.findall(r"(?m)(?:`|run: |^)make (\w+)", text(name))
    assert set(commands) <= TARGETS


def test_what_contributing_tells_to_run_is_there():
    page = text("CONTRIBUTING.md")
    folders = "tests|minimtnlg|exercises|notebooks|docs"
    files = set(re.findall(rf"(?<!/)\b(?:{folders})/[\w/.-]*\w", page))
    assert len(files) > 10
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    for name in re.findall(r"(?m)^\| `([^`]+)` \|", page):
        assert name.startswith(("make ", ".venv/bin/python -m pytest tests/")), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_asks_for_no_more_than_it_needs(path):
    """Read-only, each action with its version, a time limit on each job."""
    flow = YAML(typ="safe").load(path)
    assert flow["permissions"] == {"contents": "read"} and flow["concurrency"]["group"]
    for name, job in flow["jobs"].items():
        assert job["timeout-minutes"] <= 350, name
        granted = {"pages": "write", "id-token": "write"} if name == "deploy" else None
        assert job.get("permissions") == granted
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1"))
            run = step.get("run", "make x")
            assert run.startswith("make ") and "\n" not in run  # what a person types


def test_workflows_take_the_steps_that_decide_whether_a_change_lands():
    steps = re.findall(r"(?m)^(make \w+)$", text(".ci/run"))
    assert "make test" in steps
    texts = [file.read_text() for file in WORKFLOWS]
    on_pull = "".join(text for text in texts if "\n  pull_request:" in text)
    assert set(steps) <= set(re.findall(r"- run: (make \w+)", on_pull))


def test_what_the_hooks_run_is_there():
    (group,) = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["repos"]
    requirements = text("pyproject.toml")
    for hook in group["hooks"]:
        program, *words = hook["entry"].split()
        name = program.removeprefix(".venv/bin/")
        assert name == "python" or f'"{name}>=' in requirements, name
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
        if pattern := hook.get("files"):
            tracked = [p.relative_to(ROOT).as_posix() for p in (ROOT / ".github").rglob("*.yml")]
            names = [*tracked, "CITATION.cff", "README.md"]
            assert any(re.search(pattern, name) for name in names), f"{hook['id']} sees no file"


def test_version_and_date_of_a_release_are_told_alike():
    version = re.search(r'(?m)^version = "(.+)"', text("pyproject.toml"))[1]
    cited = YAML(typ="safe", pure=True).load(text("CITATION.cff"))
    assert str(cited["version"]) == version
    assert f"## {version} - {cited['date-released']}" in text("CHANGELOG.md")


def test_the_papers_cited_are_those_of_the_bibliography():
    pages = text("docs/bibliography.md")
    cited = YAML(typ="safe", pure=True).load(text("CITATION.cff"))["references"]
    assert len(cited) == 5
    for paper in cited:
        number = paper["url"].rpartition("/")[2]
        entry = next(part for part in re.split(r"\n\n", pages) if number in part)
        told = " ".join(entry.split())
        assert told.startswith(f"**{paper['identifiers'][0]['description'][:3].strip()}")
        assert paper["title"] in told
        assert all(author["family-names"] in told for author in paper["authors"])


def test_the_changelog_counts_what_is_there():
    page = " ".join(text("CHANGELOG.md").split())
    labs = [source for source in exercise_sources() if source.stem[3:].startswith("bug_")]
    numbers = {6: "six", 12: "twelve"}
    assert f"A course of {len(lessons())} lessons" in page
    assert f"**{len(exercise_sources())} exercises**, {numbers[len(labs)]} of them labs" in page
    configs = list((ROOT / "scaling" / "configs").glob("*.yaml"))
    assert f"{numbers[len(configs)]} complete configurations" in page


def test_every_lesson_is_on_the_paper_map():
    missing = [x.name for x in lessons() if f"[{x.number}](../notebooks/{x.name}.ipynb)" not in MAP]
    assert missing == []


def test_every_exercise_is_on_the_paper_map_and_no_other():
    rows = re.findall(r"(?m)^\|.*\|.*\|.*\|.*\|(.*)\|$", MAP)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {source.stem[3:] for source in exercise_sources()}


def test_an_exercise_stands_in_a_row_with_its_lesson():
    for source in exercise_sources():
        rows = [line for line in MAP.splitlines() if f"`{source.stem[3:]}`" in line]
        assert any(f"[{source.number}](../notebooks/" in row for row in rows), source.stem


def test_every_folder_of_the_package_is_on_the_paper_map():
    folders = {p.name for p in (ROOT / "minimtnlg").iterdir() if any(p.glob("[!_]*.*"))}
    folders -= {"__pycache__"}
    named = {
        Path(link).relative_to("../minimtnlg").parts[0]
        for link in re.findall(r"\]\((\.\./minimtnlg/[^)]+)\)", MAP)
    }
    assert folders - named == set()


def test_a_row_of_the_paper_map_is_taught_and_tested_or_says_why_not():
    for row in re.findall(r"(?m)^\| (?!Part|Subject)([^-].*) \|$", MAP):
        part, package, *rest = (cell.strip() for cell in row.split(" | "))
        if package.startswith("not "):
            continue
        lesson, tests, exercises = rest
        assert "](../minimtnlg" in package or "](../scaling" in package, part
        assert "](../notebooks/" in lesson or lesson == "all", part
        assert "](../tests/" in tests and exercises, part


def test_no_file_is_large():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: which files are tracked is unknown")
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / name for name in told.stdout.decode().split("\0") if name]
    large = [file for file in files if file.is_file() and file.stat().st_size > MEGABYTES * 10**6]
    assert large == []
