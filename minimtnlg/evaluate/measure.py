"""A model on a task: every item scored, the accuracy with its error, what is published beside it.

What has been scored is remembered in a file, a line an item, under a checksum of all its texts:
examples, question and options. The file is named by a checksum of the weights, so an evaluation
that was killed goes on where it was, and a changed checkpoint, prompt or seed starts anew.
"""

import contextlib
import hashlib
import json
import math
import sys
import tomllib
from collections import Counter
from pathlib import Path

from minimtnlg.errors import InputError
from minimtnlg.evaluate.scoring import Score, encoded, preferred, scores
from minimtnlg.evaluate.shots import examples_for
from minimtnlg.evaluate.tasks import named, pairs_of

PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
ANSWER = "Answer:"  # the context of nothing, for the norm "answer" [S3]
BLOCK = 128  # items that are scored together, and remembered together


def accuracy(name, items, found, norm=None):
    """What the Scores of some items come to, a dict.

    found: for each item ([Score of its options], [the same after "Answer:", or nothing]). norm:
    another one than the task's. `standard_error` is that of a mean of independent items, None for a
    single one; `majority` what always giving the commonest answer would come to; `chance` what
    guessing would.
    """
    norm = norm or named(name).norm
    right = [_right(norm, *row) for row in zip(items, found, strict=True)]
    n, share = len(items), sum(right) / len(items)
    error = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    # Of tasks with one option the answer is a word, else its number.
    answers = Counter(i.gold if len(i.options) > 1 else i.options[0] for i in items)
    options = [len(item.options) for item in items]
    return {
        "norm": norm,
        "accuracy": share,
        "standard_error": error,
        "majority": max(answers.values()) / n,
        "chance": sum(1 / k for k in options) / n if max(options) > 1 else 0.0,
    }


def _right(norm, item, found):
    if norm == "greedy":
        return found[0][item.gold].greedy
    return preferred(norm, found[0], item.options, found[1]) == item.gold


class Asked:
    """Asks one model, and remembers its answers.

    model, tokenizer: its GPT, of any layout, and its Tokenizer. memory: a Memory, or None. Every
    rank of the model's mesh makes the same calls; all get the same answers.
    """

    def __init__(self, model, tokenizer, memory=None):
        self.model, self.tokenizer, self.memory = model, tokenizer, memory or Memory()

    def measure(self, name, items, pool, *, shots=0, seed=1, norm=None, progress=None):
        """The result of a task, a dict: see `accuracy`; and task, shots, seed, items, cut.

        items, pool: to evaluate, and to draw examples from (see shots.py). progress: called with
        the number of items that were done since the last call. cut: how many items lost tokens of
        their context, because the model has too few positions.
        """
        norm, found = norm or named(name).norm, []
        for first in range(0, len(items), BLOCK):
            block = [
                pairs_of(name, item, examples_for(name, i, item, pool, shots, seed))
                for i, item in enumerate(items[first : first + BLOCK], first)
            ]
            if norm == "answer":
                block = [pairs + [(ANSWER, option) for _, option in pairs] for pairs in block]
            answers = self._scores(block, name, first)
            found += [_halves(a) if norm == "answer" else (a, None) for a in answers]
            if progress:
                progress(len(block))
        about = {"task": name, "shots": shots, "seed": seed, "items": len(items)}
        cut = sum(any(score.cut for score in row) for row, _ in found)
        return about | accuracy(name, items, found, norm) | {"cut": cut}

    def _scores(self, block, name, first):
        """[[Score of each pair]] of a list of items, each a list of pairs of texts."""
        keys = [_digest(pairs) for pairs in block]
        new = {k: pairs for k, pairs in zip(keys, block, strict=True) if k not in self.memory.known}
        asked = [(key, *pair) for key, pairs in new.items() for pair in pairs]
        ids = encoded(self.tokenizer, [pair for _, *pair in asked])
        seq, words = self.model.config.seq, self.tokenizer
        for (key, _, option), (_, tokens) in zip(asked, ids, strict=True):
            if len(tokens) > seq:
                raise InputError(
                    f"{name} item {first + keys.index(key)}: the option {option.strip()[:40]!r}... "
                    f"has {len(tokens)} tokens, the model reads {seq}: leave the item out, or take "
                    "a model of more positions"
                )
        answers = iter(scores(self.model, ids, eod=words.eod, vocab=words.size))
        self.memory.add({key: [next(answers) for _ in pairs] for key, pairs in new.items()})
        return [self.memory.known[key] for key in keys]


class Memory:
    """Scores by the checksum of their texts: `known`, {checksum: [Score]}, and a file of them.

    path: the file, begun where it is missing; None: nothing outlives the process, and so it is
    where the disk refuses, which one line on stderr says. A line that is not whole, since a kill
    cut it, is left out.
    """

    def __init__(self, path=None):
        self.known, self.path = {}, path
        with self._unless_refused():
            for line in path.read_text().splitlines() if path and path.is_file() else ():
                with contextlib.suppress(ValueError, TypeError):
                    key, *rows = json.loads(line)
                    self.known[key] = [Score(*row) for row in rows]
        self._write("")  # what can't be written is known before anything is scored

    def add(self, answers):
        """Remember {checksum: [Score]}."""
        self.known |= answers
        # The newline first: the last line may be a cut one.
        self._write("".join("\n" + json.dumps([key, *row]) for key, row in answers.items()))

    def _write(self, text):
        if self.path:
            with self._unless_refused():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a") as file:
                    file.write(text)

    @contextlib.contextmanager
    def _unless_refused(self):
        try:
            yield
        except OSError as error:
            self.path = None
            print(f"scores are not kept for another time: {error}", file=sys.stderr, flush=True)


def _digest(pairs):
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:32]


def _halves(row):
    return row[: len(row) // 2], row[len(row) // 2 :]


def published(task, shots):
    """{model: per cent} that the paper prints for a task at that number of shots.

    Two shots and more stand beside the paper's few, whatever their number was.
    """
    column = ("zero", "one", "few")[min(shots, 2)]
    rows = PUBLISHED.get(task, {})
    models = ("mtnlg", "gpt3", "gopher", "gpt2")
    return {m: rows[m][column] for m in models if column in rows.get(m, {})}
