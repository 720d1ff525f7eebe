"""What a lesson needs from others, made once on this machine: any lesson can be opened first."""

import dataclasses
import hashlib

from minimtnlg.errors import InputError
from minimtnlg.files import appearing, only_one

THINGS = {  # what it is, and what it takes the first time, measured on two cores
    "corpus": "the default corpus: a download of 27 MB and about 15 s",
    "tokenizer": "the tokenizer of the default corpus, made with it",
    "nano": "a trained nano: about a minute beyond the corpus",
}


def need(name, progress=True):
    """Path of a thing that several lessons use; made now if no lesson asked before.

    Parameters:
        name      "corpus": the folder that `data.corpus.Corpus` opens; "tokenizer": the file that
                  `Tokenizer.load` reads; "nano": the run that `train.checkpoint.load_run` reads
        progress  show a bar while it is made

    It lies under `minimtnlg.data.sources.cache_dir()`. Two lessons may ask at once: one makes it,
    the other waits. InputError for an unknown name, or where a download fails.
    """
    if name not in THINGS:
        raise InputError(f"need({name!r}): there is no such thing; known are {', '.join(THINGS)}")
    if name == "nano":
        return _nano(progress)
    folder = _corpus(progress)
    return folder / "tokenizer.json" if name == "tokenizer" else folder


def _corpus(progress):
    from minimtnlg.data.sources import cache_dir

    folder = cache_dir() / "corpus"
    if not (folder / "corpus.json").exists():
        from minimtnlg.data.prepare import prepare

        _say("corpus", folder)
        prepare(folder, progress=progress)  # which sees to it that only one does this
    return folder


def _nano(progress):
    from minimtnlg import config
    from minimtnlg.data.sources import cache_dir

    corpus = _corpus(progress)
    nano = config.preset("nano")
    # Another recipe or corpus is another model; where they lie makes no difference.
    recipe = repr(nano).encode() + (corpus / "corpus.json").read_bytes()
    nano = dataclasses.replace(nano, data=dataclasses.replace(nano.data, path=str(corpus)))
    key = hashlib.sha256(recipe).hexdigest()[:12]

    def make(part):
        from minimtnlg.train.trainer import train

        train(nano, part, progress=progress)

    return _once(cache_dir() / f"nano-{key}", "latest", "nano", make)


def _say(name, folder):
    print(f"{name}: making {THINGS[name]}; kept in {folder.parent}", flush=True)


def _once(folder, last_file, name, make):
    """`folder`, made by `make(part)` beside it if its `last_file` is not there yet."""
    with only_one(folder.with_name(f"{folder.name}.lock"), name):
        if not (folder / last_file).exists():
            _say(name, folder)
            with appearing(folder) as part:
                make(part)
    return folder
