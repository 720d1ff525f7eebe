"""What a learner guessed, tried, solved and chose: one JSON file on this machine, sent nowhere."""

import json
import os
from pathlib import Path

from minimtnlg.course.sources import home
from minimtnlg.files import appearing, only_one


def path():
    """The file: $MINIMTNLG_PROGRESS, else `work/progress.json` in the repository, which may be that
    of a class, else in the home.
    """
    chosen = os.environ.get("MINIMTNLG_PROGRESS")
    if chosen:
        return Path(chosen)
    if (home() / "exercises" / "src").is_dir():
        return home() / "work" / "progress.json"
    return Path.home() / ".minimtnlg" / "progress.json"


def read():
    """Dicts by name: "predictions" {guess, measured}, "exercises" {attempts, hints, solved} and
    "choices" {value}.
    """
    try:
        stored = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not yet there, or not ours: a lesson must run all the same
        stored = {}
    if not isinstance(stored, dict):
        stored = {}
    return {kind: dict(stored.get(kind) or {}) for kind in ("predictions", "exercises", "choices")}


def note(kind, name, **facts):
    """Add `facts` to what is known of `name` among the `kind`; return all that is known."""
    file = path()
    with only_one(file.with_name(f"{file.name}.lock"), file.name):  # two notebooks may be open
        stored = read()
        entry = stored[kind].setdefault(name, {})
        entry.update(facts)
        with appearing(file) as aside:
            aside.write_text(json.dumps(stored, indent=1, sort_keys=True), encoding="utf-8")
    return entry
