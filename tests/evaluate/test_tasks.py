"""Prompts of every task, from records that we wrote ourselves in the data sets' own fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.errors import InputError
from minimtnlg.evaluate.shots import examples_for
from minimtnlg.evaluate.tasks import TASKS, asked, items_of, pairs_of

ARTICLE = {
    "article": "Tom has a boat. He sails to an island.",
    "questions": ["Where does Tom sail to?", "Tom's boat is _ ."],
    "options": [["A city.", "An island.", "A lake.", "Home."], ["old", "red", "lost", "his own"]],
    "answers": ["B", "D"],
    "id": "high1.txt",
}
PREMISES = {"premise": "The judge saw the banker.", "hypothesis": "The banker saw the judge."}
HANS = "The judge saw the banker.\nQuestion: The banker saw the judge. True or False?\nAnswer:"
ANLI = "It rains.\nQuestion: It is dry. True, False, or Neither?\nAnswer:"
WIC = {"word": "bank", "sentence1": "Two river banks.", "sentence2": "A bank lends money."}
BANKS = {"start1": 10, "end1": 15, "start2": 2, "end2": 6}
BOOLQ = {"question": "is ice cold", "title": "Ice", "passage": "Ice is frozen water."}
PIQA = "Question: Dry a towel.\nAnswer:"
SOLUTIONS = [(PIQA, " Hang it up."), (PIQA, " Put it into water.")]

# task: [(record, [(context, continuation), ...], number of the answer)]
GOLDEN = {
    "lambada": [
        ({"text": "She called the dog and threw the ball to the dog\n"},
         [("She called the dog and threw the ball to the", " dog")], 0),
    ],
    "race-h": [
        (
            ARTICLE | {"question": ARTICLE["questions"][0], "options": ["a", "b", "c", "d"],
                       "answer": "C"},
            [("Article: Tom has a boat. He sails to an island.\n\nQuestion: Where does Tom sail "
              "to?\nAnswer:", f" {x}") for x in "abcd"], 2,
        ),
    ],
    "boolq": [
        (BOOLQ | answer,
         [("Ice is frozen water.\nQuestion: is ice cold\nAnswer:", f" {x}") for x in ("no", "yes")],
         gold)
        for answer, gold in [
            ({"answer": True}, 1), ({"answer": "False"}, 0), ({"label": False}, 0),
            ({"label": 1}, 1),
        ]
    ],
    "piqa": [
        ({"goal": "Dry a towel.", "sol1": "Hang it up.", "sol2": "Put it into water.", "label": 0},
         SOLUTIONS, 0),
        ({"question": "Dry a towel.", "options": "A. Hang it up.\nB. Put it into water.",
          "answer": "B. Put it into water."}, SOLUTIONS, 1),
    ],
    "hellaswag": [
        (
            {"activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix.",
             "ctx_b": "the Cook", "endings": ["[step] waits.", "runs.", "eats", "ends"],
             "label": "3", "ind": 4, "source_id": "x", "split": "val"},
            [("Baking: How to bake. Mix. The cook", f" {x}")
             for x in (" waits.", "runs.", "eats", "ends")], 3,
        ),
    ],
    "winogrande": [
        (
            {"sentence": "The cup did not fit into the box because _ was too big.", "qID": "x",
             "option1": "the cup", "option2": "the box", "answer": "1"},
            [(f"The cup did not fit into the box because {x}", " was too big.")
             for x in ("the cup", "the box")], 0,
        ),
    ],
    "anli-r2": [
        (record, [(ANLI, " True"), (ANLI, " Neither"), (ANLI, " False")], gold)
        for record, gold in [
            ({"uid": "a", "context": "It rains.", "hypothesis": "It is dry.", "label": "c"}, 2),
            ({"premise": "It rains.", "hypothesis": "It is dry.", "label": 1, "reason": ""}, 1),
            ({"premise": "It rains.", "hypothesis": "It is dry.", "label": 0, "reason": ""}, 0),
        ]
    ],
    "hans": [
        (PREMISES | {"label": 1}, [(HANS, " True"), (HANS, " False")], 1),
        ({"gold_label": "entailment", "sentence1": PREMISES["premise"],
          "sentence2": PREMISES["hypothesis"], "heuristic": "lexical_overlap"},
         [(HANS, " True"), (HANS, " False")], 0),
    ],
    "wic": [
        (WIC | found,
         [("Sentence 1: Two river banks.\nSentence 2: A bank lends money.\nQuestion: Is the word "
           "'banks' used in the same way in the two sentences above?\nAnswer:", f" {x}")
          for x in ("no", "yes")], gold)
        for found, gold in [
            (BANKS | {"label": False, "idx": 3}, 0),
            ({"start1": "10", "end1": "15", "label": 1}, 1),
        ]
    ],
}  # fmt: skip
for twin, name in {"anli-r1": "anli-r2", "anli-r3": "anli-r2", "cloze": "lambada"}.items():
    GOLDEN[twin] = GOLDEN[name]


def at(*records):
    return [(f"line {i}", record) for i, record in enumerate(records, 1)]


@pytest.mark.parametrize("name", TASKS)
def test_zero_shot_prompts(name):
    for record, pairs, gold in GOLDEN[name]:
        (item,) = items_of(name, at(record))
        assert pairs_of(name, item) == pairs
        assert item.gold == gold


def test_an_article_of_race_with_all_its_questions():
    first, second = items_of("race-h", at(ARTICLE))
    assert (first.options[first.gold], second.options[second.gold]) == ("An island.", "his own")
    assert pairs_of("race-h", second)[0][0] == (
        "Article: Tom has a boat. He sails to an island.\n\nQuestion: Tom's boat is _ .\nAnswer:"
    )


def test_one_shot_prompts():
    first, second = items_of("race-h", at(ARTICLE))
    head = "Article: Tom has a boat. He sails to an island.\n\nQuestion: "
    assert pairs_of("race-h", second, [first])[3] == (
        f"{head}Where does Tom sail to?\nAnswer: An island.\n\n{head}Tom's boat is _ .\nAnswer:",
        " his own",
    )


def test_an_example_of_partial_scoring_is_the_whole_sentence():
    (item,) = items_of("winogrande", at(GOLDEN["winogrande"][0][0]))
    assert pairs_of("winogrande", item, [item])[1] == (
        "The cup did not fit into the box because the cup was too big.\n\n"
        "The cup did not fit into the box because the box",
        " was too big.",
    )


def test_with_examples_lambada_is_a_cloze():
    first, second = items_of("lambada", at({"text": "a b c"}, {"text": "d e"}), shots=1)
    assert pairs_of("lambada", second, [first]) == [
        ("Fill in blank:\na b ____. -> c\n\nd ____. ->", " e")
    ]


@pytest.mark.parametrize(
    "name, record, says",
    [
        ("boolq", {"question": "a", "passage": "b"}, "line 1 is no record of boolq: it has no"),
        ("boolq", BOOLQ | {"answer": "maybe"}, "the answer is 'maybe', not one of false, 0, true"),
        ("piqa", {"question": "a", "options": "A. b", "answer": "A. b"}, "line 1 is no record"),
        ("piqa", {"question": "a", "options": "A. b\nB. c", "answer": ""}, "line 1 is no record"),
        ("piqa", {"question": "a", "options": "A. b\nB. c", "answer": "Bake"}, "not one of a., b."),
        ("piqa", {"goal": "a", "sol1": "b", "sol2": " ", "label": 0}, "an option is empty"),
        ("piqa", {"goal": "a", "sol1": "b", "sol2": None, "label": 0}, "an option is empty"),
        ("race-h", ARTICLE | {"answers": ["B"]}, "line 1 is no record of race-h: zip"),
        ("race-h", ARTICLE | {"answers": ["B", "E"]}, "line 1 is no record of race-h"),
        ("race-h", ARTICLE | {"answers": ["B", ""]}, "the answer is '', not one of a, b, c, d"),
        ("race-h", ARTICLE | {"answers": ["B", "BC"]}, "the answer is 'BC', not one of a, b"),
        ("race-h", ARTICLE | {"options": [["a"], []]}, "the answer is number 1 of 1 options"),
        ("race-h", ARTICLE | {"question": "a", "options": [], "answer": "A"}, "option is empty"),
        ("winogrande", {"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"},
         "the sentence has no gap"),
        ("hellaswag", {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d"],
                       "label": ""}, "invalid literal"),
        ("lambada", {"text": 3}, "line 1 is no record of lambada"),
        ("lambada", {"text": " "}, "an option is empty"),
        ("wic", {"text": "a line of prose"}, "it has no 'sentence1'"),
        ("wic", WIC | {"label": True}, "line 1 is no record of wic: it has no 'start1'"),
        ("wic", WIC | {"start1": 10, "label": True}, "no record of wic: it has no 'end1'"),
        ("wic", WIC | BANKS | {"end1": 17}, "sentence1 has no word from start1, 10, to end1, 17"),
        ("wic", WIC | BANKS | {"end1": 10}, "sentence1 has no word from start1, 10, to end1, 10"),
        ("wic", WIC | BANKS | {"start1": -2}, "sentence1 has no word from start1, -2, to end1"),
        ("wic", WIC | BANKS | {"start1": "x"}, "line 1 is no record of wic: invalid literal"),
    ],
)  # fmt: skip
def test_records_of_no_use(name, record, says):
    with pytest.raises(InputError) as error:
        items_of(name, at(record))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("given, near", [("boolk", "boolq"), ("ANLI", "anli-r"), ("x", "")])
def test_unknown_tasks(given, near):
    with pytest.raises(InputError, match=f"no task '{given}'; did you mean '{near}"):
        items_of(given, [])


def pool(n):
    return [asked(f"question {i}", ["no", "yes"], i % 2) for i in range(n)]


@given(st.integers(2, 9), st.data(), st.integers(0, 2**32))
def test_examples_are_others_and_different(n, data, seed):
    items = pool(n)
    number, shots = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    chosen = examples_for("boolq", number, items[number], items, shots, seed)
    assert len(set(chosen)) == len(chosen) == shots
    assert items[number] not in chosen and set(chosen) <= set(items)
    assert chosen == examples_for("boolq", number, items[number], items, shots, seed)


def test_a_twin_of_the_item_is_no_example():
    """Training splits repeat questions; one that is asked now would give its answer away."""
    items = pool(3) + pool(1)
    for seed in range(50):
        assert items[0] not in examples_for("boolq", 0, items[0], items, 2, seed)
    with pytest.raises(InputError, match="--shots 3: boolq has 4 examples to draw from, 2 of them"):
        examples_for("boolq", 0, items[0], items, 3, 1)


def test_examples_depend_on_seed_task_and_item():
    items = pool(1000)
    drawn = {
        tuple(examples_for(name, number, items[0], items, 4, seed))
        for name in ("boolq", "wic")
        for number in (1, 2)
        for seed in (1, 2)
    }
    assert len(drawn) == 8


def test_every_example_comes_up():
    items = pool(20)
    seen = {e for i in range(200) for e in examples_for("boolq", i, items[0], items, 2, 1)}
    assert seen == set(items[1:])


def test_published_numbers_of_shots():
    """The one that is confirmed; the others are GPT-3's."""
    assert TASKS["hans"].few == 32
