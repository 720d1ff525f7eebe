"""What a lesson needs from others, made once on this machine: any lesson can be opened first."""

import dataclasses
import hashlib

from minimtnlg.errors import InputError
from minimtnlg.files import only_one

THINGS = {  # what it is, and what it takes the first time, measured on two cores
    "corpus": "the default corpus: a download of 27 MB and about 15 s",
    "tokenizer": "the tokenizer of the default corpus, made with it",
    "nano": "a trained nano: about a minute beyond the corpus",
    "small": "a trained small: about 20 minutes beyond the corpus, in as many pieces as you like",
}
MODELS = {"nano": 1, "small": 2}  # ranks; two of one thread each are the faster ones on two cores


def need(name, progress=True):
    """Path of a thing that several lessons use; made now if no lesson asked before.

    Parameters:
        name      "corpus": the folder that `data.corpus.Corpus` opens; "tokenizer": the file that
                  `Tokenizer.load` reads; "nano", "small": a run, as `train.checkpoint.load_run`
                  reads it, of the preset of this name
        progress  show a bar while it is made

    It lies under `minimtnlg.data.sources.cache_dir()`. Two lessons may ask at once: one makes it,
    the other waits. A training that was interrupted goes on from its last checkpoint. InputError
    for an unknown name, and where a download fails or a signal ends the training.
    """
    if name not in THINGS:
        raise InputError(f"need({name!r}): there is no such thing; known are {', '.join(THINGS)}")
    if name in MODELS:
        return _model(name, progress)
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


def _model(name, progress):
    from minimtnlg import config
    from minimtnlg.data.sources import cache_dir

    corpus = _corpus(progress)
    recipe = config.preset(name)
    # Another recipe or corpus is another model; where they lie makes no difference.
    key = hashlib.sha256(repr(recipe).encode() + (corpus / "corpus.json").read_bytes())
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, path=str(corpus)))
    folder = cache_dir() / f"{name}-{key.hexdigest()[:12]}"
    with only_one(folder.with_name(f"{folder.name}.lock"), name):
        if not folder.exists():
            _say(name, folder)
            _train(recipe, folder, progress, MODELS[name])
    return folder


def _train(recipe, folder, progress, ranks):
    """Train in a folder beside `folder`, which stays after an interruption, and rename it."""
    from minimtnlg.device import gpus
    from minimtnlg.train.trainer import train

    begun = folder.with_name(f"{folder.name}.begun")
    ranks = min(ranks, gpus() or ranks)  # more than GPUs would leave these idle
    result = train(recipe, begun, progress=progress, ranks=ranks, resume=True)
    if result["stopped"]:
        raise InputError(f"{result['stopped']}: {begun} is saved; asked again, it goes on there")
    begun.rename(folder)


def _say(name, folder):
    print(f"{name}: making {THINGS[name]}; kept in {folder.parent}", flush=True)
