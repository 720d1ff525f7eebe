"""From sources to a corpus: the steps of MT-NLG's data pipeline, one after the other [S3, sec. 3].

    DIR/steps/0-read/            documents as they came, in shards
    DIR/steps/1-extract/ ...     what each step made of those of the step before, and step.json
    DIR/corpus/                  what training reads: data.path=DIR/corpus
    DIR/report.json              what every step took, gave and removed, and why
    DIR/seconds.json             how long it took: the one file that differs between equal runs

A step that is finished isn't done again; one that was interrupted goes on with the next shard. A
changed recipe makes the first step that it concerns anew, and all after it.
"""

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

from minimtnlg.data.packages import lock_of
from minimtnlg.data.prepare import resolved
from minimtnlg.data.recipe import Recipe
from minimtnlg.data.records import SUFFIX
from minimtnlg.data.shards import Workers
from minimtnlg.data.sources import default_mixture, task_records
from minimtnlg.data.steps import STEPS, Run
from minimtnlg.data.tokenizer import check_size
from minimtnlg.errors import InputError
from minimtnlg.files import appearing, only_one

FORMAT = "2"  # another number where a step comes to do something else: nothing old is taken for new


def curate(out, sources=None, recipe=None, processes=None, stop=True, progress=True):
    """Make the folder `out` as above; returns the report, a dict as in report.json.

        sources    names or paths as in `sources.documents`; None: the default mixture
        recipe     a Recipe; None: MT-NLG's numbers
        processes  how many work side by side; None: one a core. The result doesn't depend on it
        stop       whether what can't be read ends it (InputError), or is reported and left out
        progress   whether to show bars (on stderr)

    An InputError names what can't be; the steps that are finished stay.
    """
    out, recipe = Path(out).expanduser(), recipe or Recipe()
    if sources is None:
        sources, missing = default_mixture()
        for name, reason in missing:
            print(f"left out: {name} ({reason})", file=sys.stderr)
    named = resolved(sources)
    if recipe.index.vocab != "gpt2":
        check_size(recipe.index.vocab)
    if out.is_dir() and any(out.iterdir()) and not (out / "steps").is_dir():
        raise InputError(f"{out} holds other things; choose another --out or remove it")
    for at in named.values():
        if Path(at).is_dir() and out.resolve().is_relative_to(at):
            raise InputError(f"--out {out} lies in the source {at}, which would read it again")
    run = Run(out, named, recipe, stop, progress)
    _possible(run)
    with only_one(lock_of(out), out), Workers(processes, progress) as run.workers:
        return _carry_out(run)


def _possible(run):
    """InputError for a name in the recipe that only a late step would find to be unknown."""
    chosen = run.recipe
    named = {
        "quality.good": chosen.quality.good,
        "quality.raw": chosen.quality.raw,
        "index.weights": chosen.index.weights,
    }
    for key, names in named.items():
        for name in names:
            if name not in run.sources:
                raise InputError(
                    f"{key} names {name!r}, which is no source of this corpus; "
                    f"there are {', '.join(run.sources)}"
                )
    for task in chosen.decontaminate.tasks:
        next(task_records(task), None)


def _carry_out(run):
    """Do the steps that aren't done; write and return the report."""
    keys, shards, seconds = _keys(run), [], _load(run.out / "seconds.json")
    folders = {name: run.out / "steps" / f"{number}-{name}" for number, name in enumerate(STEPS)}
    if _load(folders["index"] / "step.json").get("key") != keys["index"]:  # nothing, or another's
        (run.out / "report.json").unlink(missing_ok=True)
        shutil.rmtree(run.out / "corpus", ignore_errors=True)
    for name, (step, _) in STEPS.items():
        folder = folders[name]
        told = _finished(run.out, folder, keys[name])
        if told is None:
            started = time.monotonic()
            try:
                told = _told(*step(run, shards, folder))
                made = (run.out / "corpus").iterdir() if name == "index" else _shards(folder)
                files = {str(p.relative_to(run.out)): p.stat().st_size for p in sorted(made)}
                _save(folder / "step.json", {"key": keys[name], "files": files, "report": told})
            except OSError as error:
                raise InputError(
                    f"{name}: {error}; finished steps stay, see to it and run it again"
                ) from None
            seconds[name] = round(time.monotonic() - started, 2)
            _save(run.out / "seconds.json", seconds)
        run.report[name] = told
        shards = _shards(folder)
    _save(run.out / "report.json", run.report)
    return run.report


def _shards(folder):
    return sorted(folder.glob(f"*{SUFFIX}"))


def _finished(out, folder, key):
    """What a step did, if it is finished; else None, and the folder is ready to be filled.

    What another recipe left there is removed; finished shards of this one stay.
    """
    record, begun = _load(folder / "step.json"), folder / "key"
    if record.get("key") == key:
        for name, size in record["files"].items():
            if not (out / name).is_file():
                raise InputError(f"no file {out / name}; remove {folder} to make it again")
            if (now := (out / name).stat().st_size) != size:
                raise InputError(
                    f"{out / name} had {size:,} bytes and has {now:,}; remove {folder} to make it "
                    "again"
                )
        return record["report"]
    if not begun.is_file() or begun.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begun.write_text(key)
    return None


def _keys(run):
    """{step: a checksum of all that its result depends on}: its options, and the step before."""
    key, keys = FORMAT, {}
    for name, (_, depends) in STEPS.items():
        text = json.dumps([key, name, depends(run)], sort_keys=True, default=list)
        key = keys[name] = hashlib.sha256(text.encode()).hexdigest()
    return keys


def _told(tally, found):
    """A step's part of the report."""
    samples = sorted(tally.samples.items())
    return {
        "documents": [sum(n for n, _ in part.values()) for part in (tally.into, tally.out)],
        "bytes": [sum(size for _, size in part.values()) for part in (tally.into, tally.out)],
        "sources": {
            name: {"in": tally.into.get(name, [0, 0]), "out": tally.out.get(name, [0, 0])}
            for name in sorted(tally.into.keys() | tally.out.keys())
        },
        "removed": dict(sorted(tally.removed.items())),
        "samples": {reason: [sample for _, sample in drawn] for reason, drawn in samples},
        "counts": dict(sorted(tally.counts.items())),
        **found,
    }


def summary(out):
    """The report of a finished folder as text: what each step did, what it made, what is odd."""
    out = Path(out).expanduser()
    report, seconds = _load(out / "report.json"), _load(out / "seconds.json")
    head = ("documents", 10), ("kept", 9), ("MB", 9), ("kept", 9), ("seconds", 9)
    lines = ["step          " + "".join(f"{x:>{n}}" for x, n in head) + "  removed"]
    for name, told in report.items():
        (into, left), (mb_in, mb_out) = told["documents"], (n / 1e6 for n in told["bytes"])
        why = ", ".join(f"{reason} {count}" for reason, count in told["removed"].items())
        line = f"{name:14}{into:>10}{left:>9}{mb_in:>9.2f}{mb_out:>9.2f}"
        lines.append(f"{line}{seconds.get(name, 0.0):>9.1f}  {why}".rstrip())
    head = ("documents", 10), ("kept", 9), ("tokens", 12), ("weight", 9), ("epochs", 9)
    lines += ["", "source        " + "".join(f"{x:>{n}}" for x, n in head)]
    made = report["index"]
    for name, told in report["read"]["sources"].items():
        into, left = told["in"][0], made["sources"].get(name, {"out": [0]})["out"][0]
        numbers = f"{made['tokens'].get(name, 0):>12}{made['weights'].get(name, 0):>9.3f}"
        lines.append(f"{name:14}{into:>10}{left:>9}{numbers}{made['epochs'].get(name, 0):>9.2f}")
    for name, told in report["read"]["complaints"].items():
        lines += ["", f"{name}: {told['number']} left out, the first: {told['first'][0]}"]
    if "note" in report["quality"]:
        lines += ["", report["quality"]["note"]]
    lines += ["", f"reasons and samples: {out}/report.json; to train on it: data.path={out}/corpus"]
    return "\n".join(lines)


def _load(path):
    """The dict that a file of JSON holds, {} where none is."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} isn't JSON ({error}); remove {path.parent}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} isn't a JSON object; remove {path.parent}")
    return values


def _save(path, values):
    with appearing(path) as aside:
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        aside.write_text(text, encoding="utf-8")
