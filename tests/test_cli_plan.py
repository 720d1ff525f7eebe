"""`plan` and `dryrun` from the command line: tables, JSON, and one line for what can't be."""

import json

import pytest
from typer.testing import CliRunner

from minimtnlg.cli import app

RUN = CliRunner()


def said(*arguments):
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 0, result
    return result.stdout


def test_the_report_of_the_real_job():
    text = said("plan", "mtnlg-530b", "--gpus", "2240", "--stack", "deepspeed-2021")
    assert "2240 GPUs: tp 8 x pp 35 x dp 8, 240 micro-batches of 1" in text
    assert "MFU 29." in text and "warning" not in text and "+- 4%" in text
    found = json.loads(
        said("plan", "mtnlg-530b", "--gpus", "2240", "--stack", "deepspeed-2021", "--json")
    )
    assert f"{found['iteration_s']:.2f} s" in text


def test_a_machine_that_was_not_calibrated_says_so():
    assert "not calibrated here" in said("plan", "nano", "--cluster", "h100-80gb")


def test_a_search():
    text = said("plan", "mtnlg-530b", "--gpus", "2240", "--search")
    assert "294 legal layouts on 2240 GPUs, 109 fit" in text and "faster only with more" in text
    found = json.loads(said("plan", "mtnlg-530b", "--gpus", "2240", "--search", "--json"))
    assert found["fit"] == 109 and found["best"][0] == found["frontier"][0]


def test_published_rows():
    text = said("plan", "--rows", "scaling/published_runs.csv")
    assert text.count("MT-NLG-530B") == 3
    assert text.splitlines()[-1].split() == ["all", "1.8", "%", "3.7", "%"]
    found = json.loads(said("plan", "--rows", "scaling/published_runs.csv", "--json"))
    assert len(found["rows"]) == 21 and found["mean_error_of_all"] < 0.04
    assert found["left_out"].keys() == found["mean_error"].keys()
    assert found["left_out_of_all"] < 0.06


def test_rows_of_one_source_cannot_be_left_out(tmp_path):
    lines = open("scaling/published_runs.csv").read().splitlines()
    (tmp_path / "one.csv").write_text("\n".join(lines[:4]))
    assert said("plan", "--rows", str(tmp_path / "one.csv")).splitlines()[-1].split()[-1] == "-"


def test_a_trace(tmp_path):
    said("plan", "nano", "parallel.pp=2", "parallel.dp=1", "--trace", str(tmp_path / "t.json"))
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert len(events) == 2 * 2 * 8 and {event["tid"] for event in events} == {0, 1}
    assert all(event["dur"] > 0 for event in events)


def test_a_dry_run():
    text = said("dryrun", "nano", "parallel.tp=2", "parallel.pp=2", "--rank", "3")
    assert "rank 3 of 4: stage 1 of 2" in text and "all_reduce tp" in text
    found = json.loads(
        said("dryrun", "nano", "parallel.tp=2", "parallel.pp=2", "--rank", "3", "--json")
    )
    for name, both in found["formulas"].items():
        assert both["counted"] == both["formula"], name
    stages = said("dryrun", "nano", "parallel.pp=4", "--all-stages").splitlines()
    assert len(stages) == 5


@pytest.mark.parametrize("arguments, match", [
    (["plan"], "plan what?"),
    (["plan", "nano", "--search"], "--search takes --gpus N"),
    (["plan", "nano", "--search", "--gpus", "2", "parallel.tp=2"], "parallel.tp=2 with --search"),
    (["plan", "nano", "--rows", "scaling/published_runs.csv"], "--rows stands alone"),
    (["dryrun", "nano", "--rank", "1", "--all-stages"], "--rank and --all-stages"),
    (["plan", "nano", "--cluster", "abacus"], "no hardware 'abacus'"),
    (["plan", "nano", "--stack", "cards"], "no stack 'cards'"),
    (["plan", "mtnlg-530b", "--gpus", "2241"], "make 2240 ranks, not 2241"),
    (["plan", "mtnlg-530b", "parallel.tp=7"], "parallel.tp=7 does not divide"),
    (["plan", "--rows", "nothing.csv"], "can't read nothing.csv"),
    (["dryrun", "nano", "--rank", "9"], "no rank 9"),
    (["dryrun", "nano", "--engine", "steam"], "--engine 'steam'"),
])  # fmt: skip
def test_what_cannot_be(arguments, match, capsys):
    from minimtnlg.errors import InputError

    result = RUN.invoke(app, arguments)
    assert isinstance(result.exception, InputError) and match in str(result.exception)
