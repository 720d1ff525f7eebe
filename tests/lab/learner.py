"""JupyterLab as `make lab` starts it, on a copy of the course, and a browser that looks at it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300  # for whatever is asked; it takes seconds where nothing else runs
TOKEN = "of-this-test"
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
KEYS = {"ctrl": Keys.CONTROL, "shift": Keys.SHIFT, "enter": Keys.ENTER, "escape": Keys.ESCAPE}


def until(condition, what, limit=PATIENCE_S):
    """The first value of `condition()` that is true; AssertionError when none is for `limit` s."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {limit} s for {what}"
        time.sleep(0.1)
    return value


class Server:
    """`make lab` on a copy of the course, in a home where JupyterLab was never started before."""

    def __init__(self, folder):
        made = ".git .venv work runs corpora wheelhouse build __pycache__ *.egg-info".split()
        self.root = shutil.copytree(ROOT, folder / "course", ignore=shutil.ignore_patterns(*made))
        self.mark, log = str(folder / "progress.json"), folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = f"--no-browser --port={port} --IdentityProvider.token={TOKEN}"
        kinds = ("CONFIG", "DATA", "RUNTIME")
        environment = os.environ | {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in kinds}
        environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
        environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
        environment |= {"PYTHONPATH": str(self.root), "MINIMTNLG_PROGRESS": self.mark}
        environment.pop("TQDM_DISABLE", None)
        # The environment is made: it is the one that runs this test.
        command = ["make", "-o", ".venv/course", f"BIN={Path(sys.executable).parent}", "lab"]
        self.make = subprocess.Popen(
            [*command, f"LAB={own}"], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
            stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        until(lambda: "?token=" in log.read_text() or self.make.poll() is not None, "the server")
        assert self.make.poll() is None, log.read_text()
        self.address = f"http://127.0.0.1:{port}"

    def processes(self):
        """What runs with this server's environment, whoever its parent is: {pid: its parent}."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("MINIMTNLG_PROGRESS") == self.mark:
                    found[process.pid] = process.ppid()
            except psutil.Error:
                continue
        return found

    def ranks(self):
        """Process ids of the ranks of running jobs: forks of the server of ranks."""
        serve = [
            pid for pid in self.processes() if "_rank.py serve" in " ".join(_command_line(pid))
        ]
        return [pid for pid in serve if psutil.Process(pid).ppid() in serve]

    def stop(self):
        """Ask it to end, as closing its terminal does; returns what does not end."""
        os.killpg(self.make.pid, signal.SIGTERM)
        end = time.monotonic() + PATIENCE_S
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        lines = {pid: _command_line(pid) for pid in left}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.make.wait()
        return lines


def _command_line(pid):
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


class Browser:
    """A chromium without a window, and what a learner does with JupyterLab in it."""

    def __init__(self, folder):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        flags = "headless=new no-sandbox disable-dev-shm-usage window-size=1400,1000".split()
        for flag in (*flags, f"user-data-dir={folder}"):
            options.add_argument(f"--{flag}")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)

    def all(self, selector):
        """The elements that fit."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def read(self, selector, what="textContent"):
        """A property of every element that fits, read in one go."""
        code = "return [...document.querySelectorAll(arguments[0])].map(e => e[arguments[1]])"
        return self.driver.execute_script(code, selector, what)

    def click(self, selector):
        """Scroll to the first element that fits, and click on it."""
        element = until(lambda: self.all(selector), f"an element {selector}")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, *keys):
        """press("shift+enter", "i", "i"): keys for whatever has the focus."""
        for key in keys:
            *held, last = [KEYS.get(name, name) for name in key.split("+")]
            chain = webdriver.ActionChains(self.driver, duration=50)
            for name in held:
                chain.key_down(name)
            chain.send_keys(last)
            for name in held:
                chain.key_up(name)
            chain.perform()

    def tab(self):
        """The label of the tab in front."""
        return "".join(self.read("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current")[:1])

    def front(self, name, cells=1):
        """Wait until this notebook is in front, drawn to its end, and its kernel waits for work."""
        idle = f'{NOTEBOOK} .jp-Notebook-ExecutionIndicator[data-status="idle"]'

        def ready():
            kernel = "".join(self.read(f"{NOTEBOOK} .jp-KernelName"))
            return self.tab() == name and kernel not in ("", "No Kernel") and self.all(idle)

        until(ready, f"{name} and its kernel")
        end = f"{NOTEBOOK} .jp-Cell"
        until(lambda: len(self.all(end)) >= cells, f"{cells} cells of {name}")

    def active(self):
        """The number of the active cell, counted from 0."""
        classes = self.read(f"{NOTEBOOK} .jp-Notebook .jp-Cell", "className")
        return next((i for i, c in enumerate(classes) if "jp-mod-active" in c.split()), None)

    def go(self, number):
        """Make this cell the active one, with the keys J and K alone."""
        self.press("escape")
        while (at := self.active()) != number:
            self.press("j" if at < number else "k")

    def run(self, number, code=None):
        """Go to a cell, write `code` in it if given, press Shift+Enter; returns what it printed."""
        prompt = f"{self.cell(number)} .jp-InputPrompt"
        until(lambda: self.read(prompt)[0] != "[*]:", f"cell {number}, which still runs")
        before = self.read(prompt)[0]
        self.start(number, code)
        until(lambda: self.read(prompt)[0] not in (before, "[*]:"), f"the end of cell {number}")
        return self.output(number)

    def start(self, number, code=None):
        """The same, without waiting for the end."""
        self.go(number)
        if code:
            self.press("enter", "ctrl+a")
            webdriver.ActionChains(self.driver, duration=0).send_keys(code).perform()
        self.press("shift+enter")

    def save(self):
        """Press Ctrl+S, and wait until the notebook in front is on disk."""
        self.press("escape", "ctrl+s")
        changed = "#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current.jp-mod-dirty"
        until(lambda: not self.all(changed), "a saved notebook")

    def cell(self, number):
        """The selector of a cell; in JupyterLab each says which one it is."""
        return f'{NOTEBOOK} .jp-Cell[data-windowed-list-index="{number}"]'

    def output(self, number):
        """The text below a cell."""
        return "\n".join(self.read(f"{self.cell(number)} .jp-OutputArea-output"))
