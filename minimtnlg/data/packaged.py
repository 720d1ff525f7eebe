"""What the packages of sources.toml hold, as texts: a reader for each form in which it comes.

A reader takes an entry of sources.toml and yields (text, name) or (text, name, url) or (text, name,
url, meta) of each document.
"""

import bz2
import email
import email.errors
import email.header
import io
import json
import re
import sysconfig
import tokenize
import zlib
from pathlib import Path

from minimtnlg.data.packages import members
from minimtnlg.data.pages import decoded
from minimtnlg.data.wikitext import articles, plain
from minimtnlg.errors import InputError

# Not code that a person wrote to be read: tests, tables of encodings, tables of this machine; and
# pydoc_data, which is the text of the source python-docs.
SKIPPED_MODULES = {
    "site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings",
    "pydoc_data",
}  # fmt: skip


def _wikipedia(source):
    for _, content in members(source["package"], source["members"]):
        for title, markup in articles(io.BytesIO(bz2.decompress(content))):
            url = "https://en.wikipedia.org/wiki/" + title.replace(" ", "_")
            yield f"{title}\n\n{plain(markup)}", title, url


def _texts(source):
    for member, content in members(source["package"], source["members"]):
        yield content.decode("utf-8"), Path(member).stem


def _factbook(source):
    def lines(node, names):
        for key, value in node.items():
            if key == "text":
                yield f"{': '.join(names)}: {value}" if value else ""
            elif isinstance(value, dict):
                yield from lines(value, [*names, key])

    for member, content in members(source["package"], source["members"]):
        profile = json.loads(content)
        text = "\n\n".join(
            "\n".join([topic, *filter(None, lines(entries, []))])
            for topic, entries in profile.items()
            if isinstance(entries, dict)
        )
        yield text, "/".join(Path(member).with_suffix("").parts[-2:])


def _python_docs(_):
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "this Python has no pydoc_data, the text of its help(); choose other sources"
        ) from None
    for topic, text in sorted(topics.items()):
        yield text, topic, "https://docs.python.org/3/reference/"


def _python_source(_):
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        tables = module.name.startswith("_sysconfigdata") or module.parts[0].startswith("config-")
        if tables or SKIPPED_MODULES & set(module.parts):
            continue
        with tokenize.open(path) as f:  # a module may declare its encoding
            yield f.read(), module.as_posix()


def _handbook(source):
    for member, content in members(source["package"], source["members"]):
        language, name = Path(member).parts[-2:]
        yield decoded(content), f"{language}/{name}", "", {"folder": language}


def _austen(source):
    """R keeps a package's data as one file: for each novel its size, and its lines, compressed."""
    for _, content in members(source["package"], source["members"]):
        while content:
            unpack = zlib.decompressobj()
            lines = _r_strings(unpack.decompress(content[4:]))
            content = unpack.unused_data
            title = next(line for line in lines if line.strip()).title()
            chapters = re.split(r"(?im)^(?=chapter [0-9ivxlc]+\b)", "\n".join(lines))
            for number, chapter in enumerate(chapters[1:], 1):
                yield chapter.strip(), f"{title} {number}"


def _r_strings(content):
    """The strings of a character vector in R's binary form: numbers of 4 bytes, big end first."""
    at = content.index(b"UTF-8") + 5  # behind the header, which ends with the encoding
    kind, count = content[at + 3], int.from_bytes(content[at + 4 : at + 8])
    if kind != 16:
        raise InputError(f"R's data holds a value of kind {kind} instead of strings")
    at, found = at + 8, []
    for _ in range(count):
        size = int.from_bytes(content[at + 4 : at + 8])
        found.append(content[at + 8 : at + 8 + size].decode("utf-8"))
        at += 8 + size
    return found


def _mail(source):
    """The subject and the body as text; where there is only HTML, that, its subject in meta."""
    for _, content in members(source["package"], source["members"]):
        record = json.loads(content)
        if not isinstance(record, dict):  # a list of the files
            continue
        message = email.message_from_string(record["text"])
        parts = {part.get_content_type(): part for part in reversed(list(message.walk()))}
        part = parts.get("text/plain") or parts.get("text/html")
        if part is None:
            continue
        text, subject = _body(part), _subject(message)
        meta = {"label": "spam" if record["group"].startswith("spam") else "ham"}
        if part.get_content_type() == "text/html":
            meta |= {"kind": "page", "subject": subject}
        elif text.strip():
            text = f"{subject}\n\n{text}".lstrip()
        yield text, f"{record['group']}/{record['id']}", "", meta


def _body(part):
    if str(part["Content-Transfer-Encoding"]).strip().lower() in ("base64", "quoted-printable"):
        return decoded(part.get_payload(decode=True), part.get_content_charset())
    return part.get_payload()  # the package has decoded it already


def _subject(message):
    subject = str(message["Subject"] or "")
    try:
        subject = str(email.header.make_header(email.header.decode_header(subject)))
    except (LookupError, ValueError, email.errors.HeaderParseError):
        pass  # spam says it is in encodings that it isn't in: as it stands
    return " ".join(subject.split())


READERS = {
    "wikipedia": _wikipedia,
    "texts": _texts,
    "factbook": _factbook,
    "python_docs": _python_docs,
    "python_source": _python_source,
    "handbook": _handbook,
    "austen": _austen,
    "mail": _mail,
}
