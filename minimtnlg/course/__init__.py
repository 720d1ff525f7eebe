"""The course around the package: lessons, exercises, feedback and figures.

    sources.py    front matter and cells of a lesson or an exercise: what a maintainer writes
    exercises.py  an exercise loaded: stub, solution, checks, wrong answers
    pages.py      what is generated from sources: notebooks, course map, glossary
    build.py      build, run, start: what the command line calls; execute.py runs a notebook,
                  start.py copies what a learner edits
    check.py      predict, measured, check, hint, solution: what a learner calls
    adapters.py   answers in a package of the reader's own
    drawn.py      numbers and rules of an exercise that are drawn for a class
    progress.py   what a learner guessed, tried and solved; status.py reads it;
                  rank.py keeps a reader's rank of MT-NLG there
    feedback.py   expect: a comparison that fails in words
    show.py       figure, show: what a cell displays
    plots.py      the one style of all figures
    release.py    exercises for one class, in variants.py of their own; nbgrader.py for nbgrader
    need.py       corpus, tokenizer and a trained nano, made once
    mutants.py    bugs of parallel training, to be switched on: bugs/*.toml lists them
    grade.py      points for what was handed in (submissions.py), in a sandbox.py of isolation.py's
                  making, where worker.py with integrity.py and rank_server.py runs the checks;
                  suspicion.py reads the code; gradebook.py and handback.py write what a teacher
                  and a student get of it
    labs.py       find the bug: code of the package with one of these, and whether it is mended
"""

import logging
import sys
import warnings

# nbformat's jsonschema builds a parser for addresses in any script, in a second of each kernel and
# each check. No notebook's schema has such an address; without the package it leaves them out.
sys.modules.setdefault("rfc3987_syntax", None)


def setup(class_id=None):
    """Make a notebook quiet and its figures legible; the set-up cell of every lesson calls it.

    class_id  of the class that the notebook was made for: elsewhere, other checks would run
    """
    from minimtnlg.course import plots, sources

    # Said by libraries to their developers, not to a learner.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    plots.style()
    if class_id and class_id != sources.class_id():
        print(f"This notebook belongs to the class {class_id}: open it in that class's folder.")
