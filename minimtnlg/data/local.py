"""Text of yours: files of text or code, a document each; JSON lines, a document a line."""

import gzip
import json
from pathlib import Path

from minimtnlg.errors import InputError

TEXT = {
    ".txt", ".md", ".rst", ".tex", ".org", ".py", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".java",
    ".js", ".ts", ".go", ".rs", ".rb", ".sh", ".jl", ".r", ".sql", ".f90",
}  # fmt: skip
LINES = {".jsonl", ".jsonl.gz"}


def local_texts(path):
    """(text, id, url) of each document in a file, or in the files of a folder and its subfolders.

    A file that is named is read whatever it is called; of a folder, those with a known suffix.
    Folders and files whose name begins with a dot are left out. A line of JSON has its text under
    the key "text", and may have "id" and "url". What can't be read as UTF-8 or JSON is an
    InputError that names the file and the place in it.
    """
    path = Path(path)
    files = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if _wanted(p, path)]
    if not files:
        known = " ".join(sorted(TEXT | LINES))
        raise InputError(f"no text in {path}: no file there ends in one of {known}")
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        if _suffix(file) in LINES:
            yield from _lines(file, name)
        else:
            yield _decoded(_content(file), file), name, ""


def _wanted(file, root):
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and _suffix(file) in TEXT | LINES


def _suffix(file):
    return "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:]).lower()


def _content(file):
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {file}: {error.strerror}") from None


def _decoded(content, file, where=""):
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}{where} isn't UTF-8 text: byte {error.start} is {content[error.start]:#04x}; "
            "convert the file or leave it out"
        ) from None


def _lines(file, name):
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    record = _record(line, file, number)
                    where = str(record.get("id", f"{name}:{number}"))
                    yield record["text"], where, str(record.get("url", ""))
    except (OSError, EOFError) as error:
        raise InputError(f"can't read {file}: {error}; is it complete?") from None


def _record(line, file, number):
    text = _decoded(line, file, f" line {number}")
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file} line {number} isn't JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise InputError(f"{file} line {number} has no string under the key 'text'")
    return record
