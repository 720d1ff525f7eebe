"""HTML pages of this machine: files, and the WARC files in which Common Crawl keeps them [S3].

What can't be read is named, with the file and the number of the record, and reading goes on with
the next one if the caller wishes. A page is decoded as a browser would do it: by what the server
said, by what the page says of itself, else by its bytes. Bytes that fit nothing become U+FFFD.
"""

import codecs
import os
import re

from minimtnlg.errors import InputError

HTML = {".html", ".htm", ".xhtml"}
WARC = {".warc", ".warc.gz"}
LARGEST = 10_000_000  # bytes of a page
MARKS = {  # of the order of bytes, as a page may begin with
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip


def page(path, name, complain):
    """(text, id, url, meta) of a file of HTML, or nothing; the text is the HTML itself."""
    try:
        with open(path, "rb") as f:
            content = f.read(LARGEST + 1)
    except OSError as error:
        complain(f"can't read {path}: {error.strerror}")
        return
    if len(content) > LARGEST:
        complain(f"{path} is a page of more than {LARGEST:,} bytes")
    elif not content.strip():
        complain(f"{path} is empty")
    else:
        yield decoded(content), name, "", {"kind": "page"}


def warc_pages(path, name, complain):
    """(text, id, url, meta) of each HTML page in a WARC file, plain or gzipped.

    That is every answer of status 200 whose content is HTML; others are no pages and are passed
    over in silence.
    """
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError:
        raise InputError(
            f"{path} is read with warcio, which isn't installed: pip install 'minimtnlg[data]'"
        ) from None
    whole = 0  # records that were read to their end
    try:
        with open(path, "rb") as f:
            records = ArchiveIterator(f)
            for record in records:
                length = record.rec_headers.get_header("Content-Length") or ""
                if not length.isdigit():  # every record says it, even an empty one
                    raise EOFError("it ends within its header")
                is_page = record.rec_type == "response" and _is_html(record)
                content = _content(record) if is_page else b""
                while record.raw_stream.read(1 << 20):
                    pass
                if getattr(record.raw_stream, "limit", 1) > 0:  # of bytes still to come
                    raise EOFError("the file ends within it")
                whole += 1
                if is_page:
                    where = f"{path} record {whole}"
                    yield from _page_of(record, content, where, f"{name}:{whole}", complain)
            if whole and records.offset < os.fstat(f.fileno()).st_size:  # cut in a header
                raise EOFError("the file ends within it")
        if not whole:
            complain(f"{path} holds no whole record")
    except InputError:  # a complaint
        raise
    except Exception as error:  # warcio has many kinds, and some are mere slips of its own
        known = isinstance(error, (ArchiveLoadFailed, OSError, EOFError))
        reason = ascii(str(error))[1:-1][:80] if known else "it isn't made as records are"
        complain(f"{path} record {whole + 1} can't be read, nor what follows: {reason}")


def _is_html(record):
    headers = record.http_headers
    if headers is None or headers.get_statuscode() != "200":
        return False
    kind = headers.get_header("Content-Type") or ""
    return kind.split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def _content(record):
    """The bytes of a page, unpacked as its server packed it; None if they are packed otherwise."""
    try:
        return record.content_stream().read(LARGEST + 1)
    except Exception:  # of zlib, of brotli; one of the file itself comes again when reading goes on
        return None


def _page_of(record, content, where, name, complain):
    url = record.rec_headers.get_header("WARC-Target-URI") or ""
    if content is None:
        complain(f"{where} is a page that isn't packed as it says, {url}")
    elif len(content) > LARGEST:
        complain(f"{where} is a page of more than {LARGEST:,} bytes, {url}")
    elif not content.strip():
        complain(f"{where} is an empty page, {url}")
    else:
        kind = record.http_headers.get_header("Content-Type")
        charset = re.search(r"charset=[\"']?([\w-]+)", kind, re.I)
        meta = {"kind": "page", "date": record.rec_headers.get_header("WARC-Date") or ""}
        yield decoded(content, charset and charset[1]), name, url, meta


def decoded(content, charset=None):
    """The bytes of a page as text. charset: what the server said of it, if it did.

    A byte order mark says it best. A name is taken as browsers take it [WHATWG's list of labels]:
    latin-1 means windows-1252, and one that is no encoding of text is as good as none.
    """
    try:
        from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
    except ImportError:
        raise InputError(
            "pages are decoded by resiliparse, which isn't installed: pip install 'minimtnlg[data]'"
        ) from None
    for mark, marked in MARKS.items():
        if content.startswith(mark):
            return content[len(mark) :].decode(marked, "replace")
    known = charset and map_encoding_to_html5(charset, fallback_utf8=False)
    return content.decode(known or detect_encoding(content, from_html_meta=True), "replace")
