"""Files of other machines: whole in the cache, once; what fails says so in one line."""

import http.server
import threading

import pytest

from minimtnlg.data import elsewhere
from minimtnlg.data.packages import cache_dir
from minimtnlg.data.sources import documents
from minimtnlg.errors import InputError

TEXT = b'{"text": "words"}\n'


@pytest.fixture
def server(monkeypatch, tmp_path):
    """(address, [paths asked for]) of a server on this machine; and an empty cache."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if "none" in self.path:
                return self.send_error(404)
            if "nonsense" in self.path:
                return self.wfile.write(b"nonsense\r\n\r\n")
            self.send_response(200)
            self.send_header("Content-Length", str(len(TEXT) + 9 * ("short" in self.path)))
            self.end_headers()
            self.wfile.write(TEXT)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("MINIMTNLG_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


def test_a_file_is_fetched_once(server):
    address, asked = server
    for _ in range(2):
        (found,) = documents(f"{address}a/b.jsonl?x=1")
        assert (found.text, found.id) == ("words", "b.jsonl:1")
    assert asked == ["/a/b.jsonl?x=1"]


def test_a_path_of_common_crawl(server, monkeypatch):
    address, asked = server
    monkeypatch.setattr(elsewhere, "COMMON_CRAWL", address)
    assert elsewhere.fetched("cc:crawl-data/x.warc.gz").name == "x.warc.gz"
    assert asked == ["/crawl-data/x.warc.gz"]


@pytest.mark.parametrize("path, match", [
    ("none.jsonl", "couldn't fetch .*404"),
    ("short.jsonl", "ended after 18 of 27 bytes: try again"),
    ("nonsense.jsonl", "couldn't fetch .*nonsense"),
    ("a b.jsonl", "couldn't fetch .*control characters"),
])  # fmt: skip
def test_what_does_not_arrive_leaves_nothing(server, path, match):
    with pytest.raises(InputError, match=match) as caught:
        list(documents(server[0] + path))
    assert "\n" not in str(caught.value)
    assert not [p for p in (cache_dir() / "downloads").rglob("*") if p.is_file()]
