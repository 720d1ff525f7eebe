"""Codespaces, Binder and Colab: what their files name exists, and versions agree with ours.

The clouds themselves are not reached from here.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from minimtnlg.course import pages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def supported(python):
    """Whether the project runs on Python `python`, "3.11"."""
    return Requirement("python" + PROJECT["requires-python"]).specifier.contains(f"{python}.7")


def test_codespace_makes_the_environment_that_its_editor_is_told_of():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert supported(container["image"].rpartition(":")[2])
    made, started = (shlex.split(x) for x in container["postCreateCommand"].split("&&"))
    makefile = (ROOT / "Makefile").read_text()
    assert made[0] == "make" and re.search(rf"^{re.escape(made[1])}:", makefile, re.MULTILINE)
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert Path(interpreter).parent.name == "bin" and f"/{made[1].split('/')[0]}/" in interpreter
    assert started == [".venv/bin/minimtnlg", "course", "start", "work"]
    for file in container["customizations"]["codespaces"]["openFiles"]:
        assert (ROOT / file).is_file()
    assert container["forwardPorts"] == [8888], "JupyterLab's own port, which make lab keeps"
    assert "--port" not in makefile


def test_binder_takes_our_torch_and_installs_extras_that_exist():
    rattler = pytest.importorskip("rattler")
    text = (ROOT / "binder" / "environment.yml").read_text()
    environment = YAML(typ="safe", pure=True).load(text)
    specs = {}
    for dependency in environment["dependencies"]:
        spec = rattler.MatchSpec(dependency)
        specs[spec.name.normalized] = str(spec.version).removesuffix(".*")
    assert supported(specs["python"])
    torch = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert torch.specifier.contains(specs["pytorch-cpu"]), "pip would bring another one"
    build = (ROOT / "binder" / "postBuild").read_text()
    assert re.search(r"'\.\[(.*?)\]'", build)[1] in EXTRAS
    assert (ROOT / re.search(r"--constraint (\S+)", build)[1]).is_file()


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_binder_scripts_can_be_run(name):
    script = ROOT / "binder" / name
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_binder_shows_jupyter_as_make_lab_does(tmp_path):
    show = ["bash", "-c", 'echo "$JUPYTER_CONFIG_PATH $JUPYTER_PATH"']
    told = subprocess.run([ROOT / "binder" / "start", *show], cwd=ROOT, stdout=-1, text=True)
    assert told.stdout.split() == [str(ROOT / ".jupyter")] * 2
    makefile = (ROOT / "Makefile").read_text()
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH"):
        assert f'{name}="$(CURDIR)/.jupyter"' in makefile


def test_settings_of_jupyterlab_are_ones_that_it_knows():
    jupyterlab = pytest.importorskip("jupyterlab")
    schemas = Path(jupyterlab.__file__).parent / "schemas"
    file = ROOT / ".jupyter" / "labconfig" / "default_setting_overrides.json"
    for plugin, settings in json.loads(file.read_text()).items():
        package, _, name = plugin.partition(":")
        schema = json.loads((schemas / package / f"{name}.json").read_text())
        assert set(settings) <= set(schema["properties"]), plugin


@pytest.mark.skipif(not shutil.which("git"), reason="git is missing")
def test_setup_cell_fetches_the_course_on_colab(tmp_path):
    """Run as there, in a process of its own; pip is only asked what it would install."""
    content = tmp_path / "content"
    content.mkdir()
    pip = tmp_path / "python"
    pip.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    pip.chmod(0o755)
    cell = pages.setup_code().replace("/content", str(content))
    cell = cell.replace(pages.repository(), f"file://{ROOT}")
    program = tmp_path / "cell.py"
    program.write_text(
        "import sys, types\n"
        'sys.modules["google.colab"] = types.ModuleType("google.colab")\n'
        f"sys.executable = {str(pip)!r}\n{cell}\nimport minimtnlg\nprint(minimtnlg.__file__)\n"
    )
    clean = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, program], cwd=content, env=clean, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(content / "minimtnlg" / "minimtnlg" / "__init__.py"), done
    asked = (tmp_path / "asked").read_text()
    folder, extra = re.search(r"-m pip install .*-e (\S+)\[(\w+)\]", asked).groups()
    assert Path(folder) == content / "minimtnlg" and extra in EXTRAS
