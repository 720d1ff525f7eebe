"""A whole curation: what is left, why the rest went, and that nothing can spoil it on the way."""

import contextlib
import hashlib
import html
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pydoc_data.topics import topics

import psutil
import pytest

from minimtnlg.data import curate as module
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.curate import curate, summary
from minimtnlg.data.recipe import load
from minimtnlg.data.records import SUFFIX, reading
from minimtnlg.data.steps import STEPS
from minimtnlg.errors import InputError


def cut(text, size=3000):
    """Pieces of about that size, of whole paragraphs."""
    pieces = [""]
    for paragraph in text.split("\n\n"):
        pieces[-1] += f"{paragraph}\n\n"
        if len(pieces[-1]) > size:
            pieces.append("")
    return [piece.strip() for piece in pieces if len(piece) > 1500]


TEXTS = [piece for _, text in sorted(topics.items()) for piece in cut(text)]
GERMAN = (
    "Der schnelle braune Fuchs springt über den faulen Hund, während die Kinder im Garten spielen "
    "und ihre Großmutter in der Küche einen Kuchen mit Äpfeln und Zimt aus dem Ofen holt. "
)
SECRET = (
    "does the old lighthouse keeper of the northern island still climb all of the two hundred steps"
)


def page(text):
    """HTML as pages are: running text between a menu and a footer."""
    menu = "".join(f'<li><a href="/{i}">Menu {i}</a></li>' for i in range(20))
    body = "".join(f"<p>{part}</p>" for part in text.replace("<", "&lt;").split("\n\n"))
    foot = '<div id="footer"><a href="/terms">Terms</a> | <a href="/about">About us</a></div>'
    return f"<html><head><title>T</title></head><body><ul>{menu}</ul>{body}{foot}</body></html>"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of sources with one of everything that a step removes, and a file of questions."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "web").mkdir()
    for number, text in enumerate(TEXTS[:24]):
        (folder / "web" / f"{number:03d}.html").write_text(page(text), encoding="utf-8")
    (folder / "web" / "german.html").write_text(page(GERMAN * 20), encoding="utf-8")
    lines = [{"text": text, "id": str(number)} for number, text in enumerate(TEXTS[24:48])]
    lines.append({"text": TEXTS[30].replace(" the ", " some ", 2), "id": "near"})
    lines.append({"text": TEXTS[31], "id": "same"})
    note = "This is only a short note, which nobody will want to read again."
    lines.append({"text": note, "id": "short"})
    leak = f"{TEXTS[48]}\n\n{SECRET} today?\n\n{TEXTS[49]}"
    lines.append({"text": leak, "id": "leak"})
    (folder / "book.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "questions.jsonl").write_text(json.dumps({"question": SECRET, "answer": "yes"}))
    return folder


def recipe(given, *overrides):
    return load(None, [
        f'decontaminate.tasks=["{given}/questions.jsonl"]', 'quality.good=["book.jsonl"]',
        'quality.raw=["web"]', "index.vocab=300", *overrides,
    ])  # fmt: skip


def sources(given):
    return [given / "web", given / "book.jsonl"]


def tree(folder):
    """{path: checksum} of all that is there; seconds alone may differ."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "seconds.json"
    }


@pytest.fixture(scope="module")
def made(given, tmp_path_factory):
    """An undisturbed curation by one process: (folder, report)."""
    out = tmp_path_factory.mktemp("made") / "out"
    report = curate(out, sources(given), recipe(given), processes=1, progress=False)
    return out, report


def left(out, step):
    """Documents that a step let go on."""
    folder = next((out / "steps").glob(f"*-{step}"))
    return [d for shard in sorted(folder.glob(f"*{SUFFIX}")) for d in reading(shard)]


def test_each_step_removes_what_it_is_for(made):
    out, report = made
    assert list(report) == list(STEPS)
    ids = {step: {document.id for document in left(out, step)} for step in list(STEPS)[:-1]}
    assert "german.html" in ids["extract"] and "german.html" not in ids["language"]
    assert "short" in ids["language"] and "short" not in ids["repair"]
    assert {"7", "same"} <= ids["quality"] and len({"7", "same"} & ids["dedup"]) == 1
    assert {"6", "near"} <= ids["quality"] and len({"6", "near"} & ids["dedup"]) == 1
    assert any(SECRET in document.text for document in left(out, "dedup"))
    assert not any(SECRET in document.text for document in left(out, "decontaminate"))
    assert {f"leak#{n}" for n in (1, 2)} <= ids["decontaminate"]
    for step in STEPS:  # what came, less what went, plus pieces, is what is left
        (came, stayed), gone = report[step]["documents"], sum(report[step]["removed"].values())
        assert stayed == came - gone + (1 if step == "decontaminate" else 0), step
    pages = [d for d in left(out, "extract") if d.source == "web"]
    assert pages and not any("Menu 3" in d.text or "About us" in d.text for d in pages)


def test_training_reads_the_result(made):
    out, report = made
    corpus = Corpus(out / "corpus")
    corpus.verify()
    texts = {document.text for document in left(out, "shuffle")}
    decoded = {
        corpus.tokenizer.decode(reader[i][:-1].tolist())
        for reader in corpus.readers.values()
        for i in range(len(reader))
    }
    assert decoded == texts
    assert report["index"]["tokens"] == corpus.tokens


def test_the_summary_says_it_all(made):
    out, report = made
    said = summary(out)
    for step in STEPS:
        assert f"\n{step} " in said
    assert "near-duplicate 1" in said and f"data.path={out}/corpus" in said


def test_processes_do_not_matter(given, made, tmp_path):
    """Three; two are at work below, where they are killed."""
    curate(tmp_path / "out", sources(given), recipe(given), 3, progress=False)
    assert tree(tmp_path / "out") == tree(made[0])


def test_the_order_of_input_does_not_matter(given, made, tmp_path):
    """Lines without ids, shuffled; files under other names: the same tokens in the same order."""
    lines = (given / "book.jsonl").read_text().splitlines()
    random.Random(1).shuffle(lines)
    lines = [json.dumps({"text": json.loads(line)["text"]}) for line in lines]
    (tmp_path / "book.jsonl").write_text("\n".join(lines))
    (tmp_path / "web").mkdir()
    for number, path in enumerate(sorted((given / "web").iterdir(), reverse=True)):
        (tmp_path / "web" / f"{number}.html").write_bytes(path.read_bytes())
    curate(tmp_path / "out", sources(tmp_path), recipe(given), 1, progress=False)
    for name in ("web", "book.jsonl"):
        for suffix in (".bin", ".idx"):
            ours = tmp_path / "out" / "corpus" / f"{name}{suffix}"
            assert ours.read_bytes() == (made[0] / "corpus" / ours.name).read_bytes()


def test_a_finished_one_is_not_made_again(given, made, monkeypatch):
    out, report = made
    before = {path: path.stat().st_mtime_ns for path in (out / "steps").rglob("*")}
    for name, (_, depends) in STEPS.items():
        monkeypatch.setitem(module.STEPS, name, (None, depends))
    assert curate(out, sources(given), recipe(given), 1, progress=False) == report
    assert before == {path: path.stat().st_mtime_ns for path in (out / "steps").rglob("*")}


def test_a_changed_recipe_makes_the_steps_that_it_concerns(given, made, tmp_path):
    out = tmp_path / "out"
    curate(out, sources(given), recipe(given, "dedup.jaccard=1.0"), 1, progress=False)
    assert {"6", "near"} <= {document.id for document in left(out, "dedup")}
    before = (out / "steps" / "4-quality" / "step.json").stat().st_mtime_ns
    curate(out, sources(given), recipe(given), 1, progress=False)
    assert tree(out) == tree(made[0])
    assert (out / "steps" / "4-quality" / "step.json").stat().st_mtime_ns == before


def test_a_changed_source_is_read_again(given, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": TEXTS[0]}))
    plain = recipe(given, "quality.good=[]", "quality.raw=[]")
    first = curate(tmp_path / "out", [path], plain, 1, progress=False)
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:3]))
    second = curate(tmp_path / "out", [path], plain, 1, progress=False)
    assert [report["index"]["documents"][1] for report in (first, second)] == [1, 3]


COMMAND = [sys.executable, "-m", "minimtnlg", "data", "curate"]


def command(given, out, *more):
    """The command line that makes what `made` is."""
    chosen = [
        f'decontaminate.tasks=["{given}/questions.jsonl"]', 'quality.good=["book.jsonl"]',
        'quality.raw=["web"]', "index.vocab=300",
    ]  # fmt: skip
    named = ",".join(map(str, sources(given)))
    return [*COMMAND, *chosen, "--out", str(out), "--sources", named, *more]


def test_a_kill_after_any_step(given, made, tmp_path):
    """A process goes on to the next step, has done its work, and ends as it is about to say so."""
    out = tmp_path / "out"
    code = """
import os, sys
from minimtnlg.data import curate
name = sys.argv.pop(1)
step, depends = curate.STEPS[name]
def ends(*given):
    step(*given)
    os._exit(7)
curate.STEPS[name] = ends, depends
from minimtnlg.cli import main
sys.argv[0] = "minimtnlg"
main()
"""
    arguments = command(given, out, "--processes", "1")[3:]
    for step in STEPS:
        ended = subprocess.run([sys.executable, "-c", code, step, *arguments])
        assert ended.returncode == 7, step
        assert not (out / "report.json").exists(), step
    curate(out, sources(given), recipe(given), 1, progress=False)
    assert tree(out) == tree(made[0])


@pytest.mark.long
def test_kills_at_random_moments(given, made, tmp_path):
    """Of the whole group of processes, again and again, until one try ends by itself."""
    out, moment = tmp_path / "out", random.Random(1)
    kills = 0
    while True:
        process = subprocess.Popen(
            command(given, out, "--processes", "2"), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if process.wait(moment.uniform(2, 4) + 2 * kills) == 0:
                break
            pytest.fail("it failed by itself")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills and tree(out) == tree(made[0])


def test_an_interruption_leaves_no_process(given, tmp_path):
    process = subprocess.Popen(
        command(given, tmp_path / "out", "--processes", "2"), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "out" / "steps" / "1-extract").is_dir():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()
    left_over = [p for p in psutil.process_iter() if at_work(p) and os.getsid(p.pid) == process.pid]
    assert psutil.wait_procs(left_over, timeout=10)[1] == []


def at_work(process):
    """Whether it is there and no zombie, which only waits for a parent that isn't ours."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE


def test_a_full_disk_is_one_line_and_costs_no_finished_step(given, made, tmp_path):
    out = tmp_path / "out"

    def small():  # no file above 20 kB, as if the disk were full
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ended = subprocess.run(
        command(given, out, "--processes", "1"), preexec_fn=small, capture_output=True, text=True
    )
    told = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2 and "finished steps stay" in told and "Traceback" not in told
    curate(out, sources(given), recipe(given), 1, progress=False)
    assert tree(out) == tree(made[0])


BAD = {
    "cut.jsonl": ('{"text": "good"}\n{"text": ', "cut.jsonl line 2"),
    "empty.jsonl": ("", "empty.jsonl"),
    "mute.jsonl": ('{"text": "  "}\n', "mute.jsonl line 1"),
    "latin.txt": ("caf\xe9".encode("latin-1"), "latin.txt"),
    "long.jsonl": ('{"text": "' + "x" * 11_000_000 + '"}\n{"text": "after"}', "long.jsonl line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_and_stops_or_is_skipped(given, tmp_path, name):
    content, where = BAD[name]
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "z.txt").write_text(TEXTS[0])
    plain = recipe(given, "quality.good=[]", "quality.raw=[]")
    with pytest.raises(InputError, match=f"{where}.*--on-error skip"):
        curate(tmp_path / "out", [folder], plain, 1, progress=False)
    report = curate(tmp_path / "out", [folder], plain, 1, stop=False, progress=False)
    complaints = report["read"]["complaints"]["mine"]
    assert complaints["number"] == 1 and where in complaints["first"][0]
    assert report["index"]["documents"][1] == 1
    assert where in summary(tmp_path / "out")


PLAIN = ["quality.good=[]", "quality.raw=[]", "quality.judge=false"]


@pytest.mark.parametrize(
    "overrides, match",
    [
        (["index.weights={nothing: 1}"], "index.weights names 'nothing'.*there are web, book"),
        (['quality.raw=["nothing"]'], "quality.raw names 'nothing'.*there are web, book.jsonl"),
        (['quality.raw=["web"]', "quality.good=[]"], "quality.raw names web, but there is no good"),
        (['decontaminate.tasks=["nothing.jsonl"]'], "nothing.jsonl"),
        (["repair.shortest=1000000"], "the classifier has 0 good and 0 raw documents"),
        (["repair.shortest=9000", *PLAIN], "no document is left, .* below 9000 characters 51"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(given, tmp_path, overrides, match):
    with pytest.raises(InputError, match=match):
        curate(tmp_path / "out", sources(given), recipe(given, *overrides), 1, progress=False)


@pytest.mark.parametrize(
    "override", ["index.weights={nothing: 1}", 'quality.good=["no"]', "decontaminate.tasks=[no]"]
)
def test_an_unknown_name_is_found_before_any_work(given, tmp_path, override):
    with pytest.raises(InputError, match="'no"):
        curate(tmp_path / "out", sources(given), recipe(given, override), 1, progress=False)
    assert not (tmp_path / "out").exists()


def test_nothing_is_judged_if_nobody_wants_it(given, tmp_path):
    out = tmp_path / "out"
    report = curate(out, sources(given), recipe(given, "quality.judge=false"), 1, progress=False)
    into, left = report["quality"]["documents"]
    assert into == left and "nothing was judged: quality.judge is false" in summary(out)


def test_a_summary_needs_no_seconds(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    (tmp_path / "out" / "seconds.json").unlink()
    assert "\nindex " in summary(tmp_path / "out")


def test_a_folder_of_other_things_is_left_alone(given, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other things"):
        curate(tmp_path, sources(given), recipe(given), 1, progress=False)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_out_within_a_source_is_refused(given):
    with pytest.raises(InputError, match="lies in the source .*, which would read it again"):
        curate(given / "web" / "out", sources(given), recipe(given), 1, progress=False)
    assert not (given / "web" / "out").exists()


def test_a_finished_step_that_was_damaged_is_named(given, made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    shard = next((out / "steps" / "5-dedup").glob(f"*{SUFFIX}"))
    shard.unlink()
    with pytest.raises(InputError, match=f"no file .*{shard.name}; remove .*5-dedup to make it"):
        curate(out, sources(given), recipe(given), 1, progress=False)
    shutil.rmtree(shard.parent)
    curate(out, sources(given), recipe(given), 1, progress=False)
    assert tree(out) == tree(made[0])
    (out / "steps" / "5-dedup" / "step.json").write_text("{")
    with pytest.raises(InputError, match="step.json isn't JSON .*; remove .*5-dedup"):
        curate(out, sources(given), recipe(given), 1, progress=False)


@pytest.mark.parametrize("damage", ["folder", "file", "end"])
def test_a_corpus_that_was_damaged_is_named(given, made, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    path = out / "corpus" / "web.bin"
    if damage == "folder":
        shutil.rmtree(path.parent)
    elif damage == "file":
        path.unlink()
    else:
        os.truncate(path, 10)
    with pytest.raises(InputError, match="corpus/.*remove .*8-index to make it again"):
        curate(out, sources(given), recipe(given), 1, progress=False)
    shutil.rmtree(out / "steps" / "8-index")
    curate(out, sources(given), recipe(given), 1, progress=False)
    assert tree(out) == tree(made[0])


def test_what_another_recipe_made_does_not_look_current(given, made, tmp_path):
    """The new recipe fails in the middle: what stands there then is neither."""
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    with pytest.raises(InputError, match="no document is left"):
        curate(out, sources(given), recipe(given, "repair.shortest=9000", *PLAIN), 1, False, False)
    assert not (out / "report.json").exists() and not (out / "corpus").exists()
    curate(out, sources(given), recipe(given), 1, progress=False)
    assert tree(out) == tree(made[0])


LEAK = "the café owner’s first fish & chips were “résumé” of a long naïve summer in the north"
FORMS = {
    "as it is": LEAK,
    "entities": html.escape(LEAK),
    "accents apart": unicodedata.normalize("NFD", LEAK),
    "decoded wrongly": LEAK.encode("utf-8").decode("windows-1252", "replace"),
    "ligatures": LEAK.replace("fi", "ﬁ"),
    "stressed": " ".join(f"_{word}_" for word in LEAK.split()),
}


@pytest.mark.parametrize("asked", FORMS)
def test_a_leak_is_found_however_it_is_written(given, tmp_path, asked):
    """Prose is mended before it is searched, code isn't; questions come as they come."""
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": FORMS[asked]}))
    folder = tmp_path / "text"
    folder.mkdir()
    forms = {f"{form}.txt": leak for form, leak in FORMS.items()} | {"code.py": FORMS[asked]}
    for number, (name, leak) in enumerate(forms.items()):
        (folder / name).write_text(f"{TEXTS[number]}\n\n{leak}\n\n{TEXTS[number + 9]}")
    chosen = recipe(given, *PLAIN, f'decontaminate.tasks=["{tmp_path}/questions.jsonl"]')
    curate(tmp_path / "out", [folder], chosen, 1, progress=False)
    clean = {document.id for document in left(tmp_path / "out", "decontaminate")}
    assert clean == {f"{name}#{piece}" for name in forms for piece in (1, 2)}


def test_half_a_character_in_any_field_is_no_end(given, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    record = {"text": TEXTS[0], "id": "a\ud800", "url": "\udfff", "meta": {"k\ud800": ["\ud800"]}}
    (folder / "a.jsonl").write_text(json.dumps(record))
    strange = os.fsencode(folder) + b"/caf\xe9.txt"
    with open(strange, "w") as f:
        f.write(TEXTS[1])
    with open(os.fsencode(folder) + b"/\xe9mpty.txt", "w"):
        pass
    report = curate(tmp_path / "out", [folder], recipe(given, *PLAIN), 1, False, progress=False)
    assert report["index"]["documents"][1] == 2
    assert "?mpty.txt is empty" in report["read"]["complaints"]["mine"]["first"][0]
    assert {d.id for d in left(tmp_path / "out", "read")} == {"a?", "caf?.txt"}


def test_a_folder_whose_name_is_no_text(given, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.txt").write_text(TEXTS[0])
    curate(tmp_path / "out", [folder], recipe(given, *PLAIN), 1, progress=False)
    assert Corpus(tmp_path / "out" / "corpus").tokens["caf"]


@pytest.mark.parametrize("name", ["step", "key", "work", "parts", "classifier", "corpus"])
def test_a_source_may_have_any_name(given, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.txt").write_text(TEXTS[number])
    out = tmp_path / "out"
    first = curate(out, [folder], recipe(given, *PLAIN), 1, progress=False)
    assert curate(out, [folder], recipe(given, *PLAIN), 1, progress=False) == first
    assert first["index"]["documents"] == [2, 2]


def test_an_empty_folder_is_named_and_can_be_skipped(given, tmp_path):
    (tmp_path / "empty").mkdir()
    both = [tmp_path / "empty", given / "web"]
    with pytest.raises(InputError, match="no text in .*empty.*--on-error skip"):
        curate(tmp_path / "out", both, recipe(given, *PLAIN), 1, progress=False)
    report = curate(tmp_path / "out", both, recipe(given, *PLAIN), 1, False, progress=False)
    assert "empty" in report["read"]["complaints"] and list(report["index"]["tokens"]) == ["web"]


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_a_record_of_a_step_that_is_no_object_is_named(given, made, tmp_path, content):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    (out / "steps" / "5-dedup" / "step.json").write_text(content)
    with pytest.raises(InputError, match="step.json isn't a JSON object; remove .*5-dedup"):
        curate(out, sources(given), recipe(given), 1, progress=False)


def test_two_at_a_time_take_turns(given, made, tmp_path):
    """Both are asked for the same folder; the second finds it finished."""
    out = tmp_path / "out"
    both = [
        subprocess.Popen(command(given, out, "--processes", "1"), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("waiting for another process" in text for text in said) == 1
    assert tree(out) == tree(made[0])
