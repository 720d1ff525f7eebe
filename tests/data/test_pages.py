"""HTML pages from files and WARC files: how they are decoded, and what can't be read is named."""

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.data import pages
from minimtnlg.data.pages import decoded, page, warc_pages
from minimtnlg.errors import InputError

warcio = pytest.importorskip("warcio")
pytest.importorskip("resiliparse")

HTML = "text/html; charset=utf-8"


def refuse(message):
    raise InputError(message)


def answer(writer, content, kind=HTML, status="200 OK", url="http://a.example/x", more=()):
    """A record of what a server answered."""
    headers = warcio.StatusAndHeaders(status, [("Content-Type", kind), *more], protocol="HTTP/1.1")
    return writer.create_warc_record(
        url, "response", payload=io.BytesIO(content), http_headers=headers,
        warc_headers_dict={"WARC-Date": "2020-12-05T01:02:03Z"},
    )  # fmt: skip


@pytest.fixture
def warc(tmp_path):
    """warc([dict(content=..., ...), ...], gzip) -> path of a WARC file with these answers."""

    def warc(answers, gzip=True):
        path = tmp_path / ("x.warc.gz" if gzip else "x.warc")
        written(path, answers, gzip)
        return path

    return warc


def written(path, answers, gzip):
    """Write a WARC file; where its records end."""
    ends = []
    with open(path, "wb") as f:
        writer = warcio.WARCWriter(f, gzip=gzip)
        for given in answers:
            writer.write_record(answer(writer, **given))
            ends.append(f.tell())
    return ends


def texts(path, say=refuse):
    """The texts of the pages in a WARC."""
    return [text for text, *_ in warc_pages(path, "x", say)]


@pytest.mark.parametrize("packed", [True, False])
def test_the_pages_of_a_warc_are_its_good_answers_of_html(warc, packed):
    path = warc([
        {"content": b"<p>one"},
        {"content": b"gone", "status": "404 Not Found"},
        {"content": b"moved", "status": "301 Moved Permanently"},
        {"content": b"%PDF", "kind": "application/pdf"},
        {"content": "<p>é".encode("latin-1"), "kind": "Text/HTML;charset=ISO-8859-1"},
        {"content": b"<p>x", "kind": "application/xhtml+xml", "url": "http://b.example/"},
        {"content": b"plain", "kind": "text/plain"},
    ], packed)  # fmt: skip
    meta = {"kind": "page", "date": "2020-12-05T01:02:03Z"}
    assert list(warc_pages(path, "x", refuse)) == [
        ("<p>one", "x:1", "http://a.example/x", meta),
        ("<p>é", "x:5", "http://a.example/x", meta),
        ("<p>x", "x:6", "http://b.example/", meta),
    ]


def test_records_that_are_no_http_are_passed_over(tmp_path):
    path = tmp_path / "x.warc.gz"
    with open(path, "wb") as f:
        writer = warcio.WARCWriter(f, gzip=True)
        writer.write_record(writer.create_warcinfo_record("x", {"software": "none"}))
        dns = io.BytesIO(b"a.example. 1 IN A 1.2.3.4")
        more = {"warc_content_type": "text/dns"}
        writer.write_record(writer.create_warc_record("dns:a", "response", payload=dns, **more))
        again = answer(writer, b"")  # as before, says a revisit, and has no content
        again.rec_headers.replace_header("WARC-Type", "revisit")
        again.rec_type = "revisit"
        writer.write_record(again)
        writer.write_record(answer(writer, b"<p>one"))
    assert texts(path) == ["<p>one"]


def test_what_a_server_packed_is_unpacked(warc):
    packed = {"content": gzip.compress(b"<p>one"), "more": [("Content-Encoding", "gzip")]}
    chunked = {"content": b"6\r\n<p>two\r\n0\r\n\r\n", "more": [("Transfer-Encoding", "chunked")]}
    assert texts(warc([packed, chunked])) == ["<p>one", "<p>two"]


def test_a_page_that_is_packed_otherwise_than_it_says_is_named_and_the_next_is_read(warc):
    wrong = {"content": b"<p>no brotli", "more": [("Content-Encoding", "br")]}
    said = []
    path = warc([wrong, {"content": b"<p>end"}])
    found = texts(path, said.append)
    assert found[-1] == "<p>end"
    if len(found) == 1:  # without a library for brotli it is taken as it is
        place = f"{path} record 1 is a page that isn't packed as it says, http://a.example/x"
        assert said == [place]


def test_pages_that_are_empty_or_too_large_are_named_and_the_next_is_read(warc, monkeypatch):
    monkeypatch.setattr(pages, "LARGEST", 1000)
    whole = b"<p>" + b"x" * 997
    bomb = {"content": gzip.compress(b"x" * 10**6), "more": [("Content-Encoding", "gzip")]}
    path = warc([{"content": whole}, {"content": whole + b"x"}, bomb, {"content": b" \n"},
                 {"content": b"<p>end"}])  # fmt: skip
    said = []
    assert texts(path, said.append) == [whole.decode(), "<p>end"]
    large = "is a page of more than 1,000 bytes, http://a.example/x"
    assert said == [
        f"{path} record 2 {large}",
        f"{path} record 3 {large}",
        f"{path} record 4 is an empty page, http://a.example/x",
    ]


@pytest.mark.parametrize("packed", [True, False])
def test_a_warc_cut_anywhere_gives_what_precedes_and_one_complaint(tmp_path, packed):
    given = [{"content": f"<p>page {i} ".encode() + b"word " * 40} for i in range(3)]
    path = tmp_path / ("x.warc.gz" if packed else "x.warc")
    ends = written(path, given, packed)
    whole = texts(path)
    content = path.read_bytes()
    for cut in range(1, len(content)):
        path.write_bytes(content[:cut])
        said = []
        found = texts(path, said.append)
        assert found == whole[: len(found)]
        if any(end - 16 <= cut <= end for end in ends):
            continue  # the last bytes of a record carry none of its text
        place = f"{path} record {len(found) + 1} can't be read, nor what follows: "
        assert len(said) == 1 and said[0].isprintable() and "NoneType" not in said[0]
        assert place in said[0] or (not found and said == [f"{path} holds no whole record"])


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "holds no whole record"),
        (b"no warc at all", "record 1 can't be read"),
        (b"\x1f\x8b broken gzip", "record 1 can't be read"),
        (gzip.compress(b"no warc", mtime=0), "record 1 can't be read"),
        (b"\x00" * 2000, "record 1 can't be read"),
    ],
)
def test_what_is_no_warc_is_named_in_one_line(tmp_path, content, match):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(content)
    said = []
    assert texts(path, said.append) == []
    assert len(said) == 1 and match in said[0] and str(path) in said[0] and said[0].isprintable()
    with pytest.raises(InputError, match=match):
        texts(path)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_byte_in_a_warc_stops_with_another_error(tmp_path_factory, noise, at):
    path = tmp_path_factory.getbasetemp() / "noise.warc"
    with open(path, "wb") as f:
        writer = warcio.WARCWriter(f, gzip=False)
        for _ in range(2):
            writer.write_record(answer(writer, b"<p>" + b"word " * 20))
    content = path.read_bytes()
    path.write_bytes(content[:at] + noise + content[at:])
    for text in texts(path, lambda message: None):
        assert text.encode()


def test_a_file_of_html(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "LARGEST", 10)
    path = tmp_path / "x.html"
    path.write_bytes(b"<p>0123456")
    assert list(page(path, "x", refuse)) == [("<p>0123456", "x", "", {"kind": "page"})]
    for content, match in [(b"<p>01234567", "more than 10 bytes"), (b"\n ", "x.html is empty")]:
        path.write_bytes(content)
        said = []
        assert list(page(path, "x", said.append)) == [] and len(said) == 1 and match in said[0]
    path.unlink()
    with pytest.raises(InputError, match="can't read .*x.html: No such file"):
        list(page(path, "x", refuse))


RUSSIAN = "Привет, мир: это страница на русском языке, и таких слов в ней много."


@pytest.mark.parametrize(
    "content, charset, text",
    [
        ("<p>é €".encode(), "utf-8", "<p>é €"),
        (RUSSIAN.encode("koi8-r"), "koi8-r", RUSSIAN),
        (RUSSIAN.encode("cp1251"), None, RUSSIAN),  # by its bytes alone
        (b"caf\xe9 \x93q\x94", "ISO-8859-1", "café “q”"),  # as browsers read latin-1
        (b"\xef\xbb\xbfcaf\xc3\xa9", "iso-8859-1", "café"),  # the mark is right, the server wrong
        ("\ufeffé Ж".encode("utf-16-le"), None, "é Ж"),
        ("\ufeffé Ж".encode("utf-16-be"), "utf-8", "é Ж"),
        (b"\xff\xfea", None, "\ufffd"),
        (b"good \xff caf\xc3\xa9", "utf-8", "good \ufffd café"),  # one bad byte spoils no other
    ],
)
def test_bytes_are_decoded_as_browsers_do(content, charset, text):
    assert decoded(content, charset) == text


def test_a_page_says_its_encoding_itself():
    short = '<meta charset="iso-8859-2"><p>Łódź'  # too few bytes to guess by
    assert decoded(short.encode("iso-8859-2")) == short
    text = f'<html><head><meta charset="windows-1251"></head><body>{RUSSIAN}'
    assert decoded(text.encode("cp1251")) == text
    assert decoded(text.encode("cp1251"), "no-such-charset") == text
    assert decoded(text.encode(), "utf-8") == text  # what the server says goes first


@pytest.mark.parametrize("charset", ["hex", "base64", "undefined", "idna", "zlib", "rot13", "x y"])
def test_a_name_that_is_no_encoding_of_text_is_as_good_as_none(charset):
    text = "<p>Zürich liegt am Zürichsee"
    assert decoded(text.encode(), charset) == text


@given(st.binary(), st.sampled_from([None, "utf-8", "gb18030", "utf-16", "shift_jis", "ascii"]))
def test_any_bytes_become_text_that_utf8_can_hold(content, charset):
    decoded(content, charset).encode("utf-8")
