"""The built site, served on this machine, and a browser that looks at it. Run by `make site`."""

import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"


@pytest.fixture(scope="session")
def pages():
    """{address below the site: path} of every page but those that Sphinx makes by itself."""
    if not (SITE / "index.html").exists():
        pytest.skip("there is no build/site: run make site")
    found = sorted(SITE.rglob("*.html"))
    return {
        name: path
        for path in found
        if (name := path.relative_to(SITE).as_posix()) != "index.html"
        and not name.startswith("_")
        and path.stem not in ("genindex", "py-modindex", "search")
    }


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *ignored):
        """Nothing."""


@pytest.fixture(scope="session")
def address(pages):
    """Where the site is served: http://localhost:PORT/."""
    serve = functools.partial(Quiet, directory=SITE)
    with ThreadingHTTPServer(("localhost", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(pages):
    """One Chromium without a window for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium comes with make site")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium or not shutil.which("chromedriver"):
        pytest.skip("no chromium and chromedriver on this machine: the site was not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    yield driver
    driver.quit()
