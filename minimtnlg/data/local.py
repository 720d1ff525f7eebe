"""Text of yours: files of prose, code or HTML, lines of JSON, pages of a WARC file."""

import json
import zlib
from pathlib import Path

import zstandard

from minimtnlg.data.pages import HTML, WARC, page, warc_pages
from minimtnlg.data.records import opened
from minimtnlg.errors import InputError

PROSE = {".txt", ".md", ".rst", ".tex", ".org"}
CODE = {
    ".py", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".java", ".js", ".ts", ".go", ".rs", ".rb",
    ".sh", ".jl", ".r", ".sql", ".f90",
}  # fmt: skip
LINES = {".jsonl", ".jsonl.gz", ".jsonl.zst"}
LARGEST = 10_000_000  # bytes of a line of JSON


def local_texts(path, complain=None):
    """(text, id, url, meta) of each document in a file, or in those of a folder and its subfolders.

        complain  function of a line of text that says what couldn't be used, and where: a file
                  that can't be read or is no UTF-8, a line that is no JSON, has no text or is
                  endless, a page without content. If it returns, reading goes on behind that place

    Without `complain` such things are an InputError, but for an empty file or text that is no page.
    These are yielded, complaint or not; `sources.documents` leaves them out.

    A file that is named is read whatever it is called; of a folder, those with a known suffix.
    Folders and files whose name begins with a dot are left out. A line of JSON has its text under
    the key "text", and may have "id", "url" and "meta", a dict.
    """
    path = Path(path)
    files = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if _wanted(p, path)]
    say = complain or _refuse
    if not files:
        known = " ".join(sorted(PROSE | CODE | LINES | HTML | WARC))
        say(f"no text in {path}: no file there ends in one of {known}")
    blank = complain or (lambda message: None)
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        kind = _suffix(file)
        if kind in LINES:
            yield from _lines(file, name, say, blank)
        elif kind in WARC:
            yield from warc_pages(file, name, say)
        elif kind in HTML:
            yield from page(file, name, say)
        else:
            meta = {"kind": "code"} if kind in CODE else {}
            yield from _whole(file, name, meta, say, blank)


def _refuse(message):
    raise InputError(message)


def _wanted(file, root):
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and _suffix(file) in PROSE | CODE | LINES | HTML | WARC


def _suffix(file):
    packed = file.suffix.lower() in (".gz", ".zst")
    return "".join(file.suffixes[-2:] if packed else file.suffixes[-1:]).lower()


def _whole(file, name, meta, say, blank):
    try:
        text = _decoded(file.read_bytes(), file)
    except OSError as error:
        return say(f"can't read {file}: {error.strerror}")
    except InputError as error:
        return say(str(error))
    if not text.strip():
        blank(f"{file} is empty")
    yield text, name, "", meta


def _decoded(content, file, where=""):
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}{where} isn't UTF-8 text: byte {error.start} is {content[error.start]:#04x}; "
            "convert the file or leave it out"
        ) from None


def _lines(file, name, say, blank):
    number = 0
    try:
        with opened(file) as f:
            while line := f.readline(LARGEST + 1):
                number += 1
                if len(line) > LARGEST and not line.endswith(b"\n"):
                    while (more := f.readline(1 << 20)) and not more.endswith(b"\n"):
                        pass
                    say(f"{file} line {number} is longer than {LARGEST:,} bytes")
                elif line.strip():
                    yield from _record(line, file, name, number, say, blank)
        if not number:
            blank(f"{file} is empty")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        after = f" after line {number}" if number else ""
        say(f"can't read {file}{after}: {error}; is it complete?")


def _record(line, file, name, number, say, blank):
    """The document of a line of JSON, or nothing."""
    try:
        record = json.loads(_decoded(line, file, f" line {number}"))
    except InputError as error:
        return say(str(error))
    except (ValueError, RecursionError) as error:
        return say(f"{file} line {number} isn't JSON: {error}")
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return say(f"{file} line {number} has no string under the key 'text'")
    if not record["text"].strip():
        blank(f"{file} line {number} has no text")
    meta = record.get("meta")
    own = record.get("id")  # null is no name
    own = f"{name}:{number}" if own is None else str(own)
    yield record["text"], own, str(record.get("url") or ""), meta if isinstance(meta, dict) else {}
