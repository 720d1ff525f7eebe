"""pyproject.toml, constraints.txt, environment.yml and the Makefile say the same."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins():
    """{distribution: version} of constraints.txt; its every line must be such a pin."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in wanted:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
    return {normal(r.name): str(r.specifier).removeprefix("==") for r in wanted}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras):
    texts = PROJECT["dependencies"] + [text for extra in extras for text in EXTRAS[extra]]
    return [r for r in map(Requirement, texts) if r.name != "minimtnlg"]


def test_every_extra_of_the_promise_is_there():
    assert set(EXTRAS) == {"course", "data", "eval", "engines", "nbgrader", "site", "test"}


def test_every_dependency_is_pinned_within_its_range():
    for requirement in requirements(*EXTRAS):
        pinned = pins()[normal(requirement.name)]
        assert requirement.specifier.contains(pinned), f"{requirement} but constraints say {pinned}"


def test_what_is_installed_here_is_what_is_pinned():
    wrong = {}
    for requirement in requirements("course", "data", "eval", "test"):
        try:
            found = version(requirement.name).split("+")[0]
        except PackageNotFoundError:
            found = "nothing"
        if found != pins()[normal(requirement.name)]:
            wrong[requirement.name] = found
    assert not wrong


def test_environment_is_thin_and_agrees():
    rattler = pytest.importorskip("rattler")
    text = (ROOT / "environment.yml").read_text()
    environment = YAML(typ="safe", pure=True).load(text)
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *plain, with_pip = environment["dependencies"]
    specs = [rattler.MatchSpec(spec) for spec in plain]
    assert [spec.name.normalized for spec in specs] == ["python", "pip"]
    python = str(specs[0].version).removesuffix(".*")
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(python + ".7")
    constraint, package = with_pip["pip"]
    assert (ROOT / constraint.removeprefix("-c ")).is_file()
    named = re.fullmatch(r"-e \.\[(.*)\]", package).group(1).split(",")
    assert set(named) <= set(EXTRAS)


def test_makefile_installs_extras_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"--editable '\.\[(.*?)\]'", makefile)
    assert named and all(set(names.split(",")) <= set(EXTRAS) for names in named)
    assert "--constraint constraints.txt" in makefile


def test_doctor_looks_for_what_the_extras_bring():
    from minimtnlg.doctor import EXTRAS as LOOKED_FOR

    assert set(LOOKED_FOR) == set(EXTRAS)
    for extra, names in LOOKED_FOR.items():
        assert set(names) <= {Requirement(text).name for text in EXTRAS[extra]}
