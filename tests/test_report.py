"""README's table is what the result files say, and whatever a page names as a proof is there."""

import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import report
import results
import table

from minimtnlg.parallel.layout import Layout, Place

sys.path.append(str(report.ROOT / "docs"))
import picture  # noqa: E402

README = report.README.read_text(encoding="utf-8")
PROVEN = report.ROOT / "docs" / "proven.md"
FOUND = {  # of the form that the long runs write; no figure of it is published
    "mutants": {"mutants": [{"killed": True}, {"killed": False}]},
    "course": {"lessons": [{"lesson": "00", "seconds": 30.0}, {"lesson": "01", "seconds": 90.4}]},
    "tests": {"passed": 1234, "failed": 0, "skipped": 5},
    "drills": {"drills": [{"happened": "resumed"}, {"happened": "refused: no"}]},
    "dryrun": {"ranks": 2240, "parameters": 10**6, "memory_kib": 2**20, "stages": [{}, {}]},
    "slurm": {"passed": 3, "failed": 0, "skipped": 1},
    "graders": {"passed": 3, "failed": 0, "skipped": 0},
}


def about(**found):
    """What a result file tells of its run, and what was found."""
    run = {"sources": "this", "date": "2026-11-27", "seconds": 600, "machine": "2 cores"}
    return run | found


def test_readme_shows_what_the_result_files_hold():
    assert report.written(README, report.table(report.kept())) == README, "run: make report"


@pytest.mark.parametrize("name", FOUND)
def test_a_result_is_told_with_its_day_and_machine(name):
    (claim,) = (claim for claim in report.CLAIMS if claim.result == name)
    line = report.row(claim, about(**FOUND[name]))
    assert "27 November 2026, 2 cores, 10 min" in line and f"`{results.command(name)}`" in line


def test_numbers_are_read_out_of_the_results():
    told = {name: claim.measured(about(**FOUND[name])) for name, claim in by_result().items()}
    assert "**1 of 2**" in told["mutants"]
    assert "**2 lessons in 2.0 minutes**, the longest 90 s" in told["course"]
    assert "1\u00a0234 tests" in told["tests"]
    assert "**2 faults**: 1 times" in told["drills"] and "1 times it refused" in told["drills"]
    assert "1\u00a0000\u00a0000" in told["dryrun"]


def by_result():
    return {claim.result: claim for claim in report.CLAIMS if claim.result in FOUND}


def test_every_result_has_a_row_and_a_command():
    rows = [claim.result for claim in report.CLAIMS if claim.result]
    assert sorted(rows) == sorted(report.SOURCES)
    makefile = (report.ROOT / "Makefile").read_text(encoding="utf-8")
    for name in rows:
        assert f"\n{results.command(name).removeprefix('make ')}: " in makefile


def test_what_is_missing_is_said_and_what_is_of_other_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "kept", lambda: {"tests": about(**FOUND["tests"])})
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    before = f"# x\n{report.BEGIN}\nold\n{report.END}\nend\n"
    report.README.write_text(before)
    monkeypatch.setattr(results, "fingerprint", lambda *paths: "other")
    said = report.main()
    assert "results/tests.json is of other code: run make times" in said
    assert report.README.read_text() == before
    monkeypatch.undo()
    assert "not measured yet" in report.table({})


def test_it_writes_between_its_marks_and_says_what(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "kept", dict)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    report.README.write_text(f"# x\n{report.BEGIN}\nold\n{report.END}\nend\n")
    assert report.main() is None
    block = report.table({})
    assert report.README.read_text() == f"# x\n{report.BEGIN}\n{block}\n{report.END}\nend\n"
    assert block in capsys.readouterr().out
    with pytest.raises(ValueError, match="no lines"):
        report.written("# x\n", block)


def test_every_proof_that_is_named_is_there():
    assert report.unproven(README) == []
    assert report.unproven(PROVEN.read_text(encoding="utf-8"), PROVEN.parent) == []
    for claim in report.CLAIMS:
        assert any("::" in proof or proof.endswith(".md") for proof in claim.proofs)


@pytest.mark.parametrize(
    "text, says",
    [
        ("[a](tests/gone.py)", "tests/gone.py is not there"),
        ("[test_gone](tests/test_report.py)", "no test test_gone"),
        ("[test_by_result](README.md)", "no test test_by_result"),
        ("[test_every_proof_that_is_named_is_there](tests/test_report.py)", ""),
        ("[x](https://example.org/test_x)", ""),
    ],
)
def test_a_proof_that_is_gone_is_named(text, says):
    found = report.unproven(text)
    assert says in found[0] if says else found == []


def test_the_code_counts_and_not_what_is_said_about_it():
    code = results._code
    here = 'def f(x):\n    """Doc."""\n    return x + 1\n'
    assert code(here) == code("# why\ndef f(x):\n    '''Other.'''\n    return (x+1)  # so\n")
    assert code(here) != code("def f(x):\n    return x + 2\n")
    assert code('x = """no doc"""\n') != code('x = """another"""\n')


def test_a_fingerprint_knows_names_and_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.toml").write_text("y = 1\n")
    first = results.fingerprint("a.py", "b.toml")
    (tmp_path / "a.py").write_text("x = 1  # one\n")
    assert results.fingerprint("a.py", "b.toml") == first
    (tmp_path / "b.toml").write_text("y = 1  # one\n")
    second = results.fingerprint("a.py", "b.toml")
    (tmp_path / "b.toml").rename(tmp_path / "c.toml")
    assert len({first, second, results.fingerprint("a.py", "c.toml")}) == 3


def test_slices_add_up_copies_and_the_tied_embedding_count_once():
    layout = Layout(tp=2, pp=2, dp=4)
    held = {"embedding.weight": (100, True), "norm.weight": (7, False)}
    runs = [SimpleNamespace(place=Place(pp, 0, 0), parameters=held) for pp in range(2)]
    assert report.dryrun.whole(layout, runs) == 200 + 7 + 7


def test_the_committed_results_hold_what_every_result_does():
    for name, found in report.kept().items():
        assert {"sources", "date", "seconds", "torch", "machine"} <= found.keys(), name
        assert found.get("failed", 0) == 0, name


def test_pages_of_the_long_runs_are_those_of_the_results():
    found, docs = report.kept(), report.ROOT / "docs"
    for name, text in (("equivalence", table.page), ("drills", report.page.page)):
        if name in found:
            page = (docs / f"{name}.md").read_text(encoding="utf-8")
            assert page == text(found[name]), f"run: make {name}"
    if "parity" in found:
        page = (docs / "engines.md").read_text(encoding="utf-8")
        assert report.parity.table(found["parity"]["cases"]) in page, "run: make parity"


def test_the_picture_is_what_the_code_makes():
    assert picture.FILE.read_text(encoding="utf-8") == picture.picture(), "run: docs/picture.py"
    assert f"![{picture.alt()}](docs/picture.svg)" in README
    start = (report.ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"![{picture.alt()}](picture.svg)" in start


def test_the_picture_has_every_gpu_once_and_stays_in_its_frame():
    root = ElementTree.fromstring(picture.picture())
    name = "{http://www.w3.org/2000/svg}"
    dots = [re.findall(r"M([\d.]+) ([\d.]+)", x.get("d")) for x in root.iter(f"{name}path")]
    dots = [dot for path in dots[:2] for dot in path]
    assert len(dots) == len(set(dots)) == picture.LAYOUT.world == 2240
    for box in root.iter(f"{name}rect"):
        x, y, wide, high = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= picture.WIDE and 0 <= y <= y + high <= picture.HIGH
    sizes = [int(text.get("font-size")) for text in root.iter(f"{name}text")]
    assert min(sizes) >= 18, "a phone shows it at less than half its size"
