"""The files are Megatron's byte for byte, and every kind of damage is named in one line."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data.indexed import HEADER, Reader, Writer, token_type
from minimtnlg.errors import InputError

VOCAB = 1000


def write(prefix, documents, vocab=VOCAB):
    with Writer(prefix, vocab) as writer:
        for document in documents:
            writer.add(document)
    return prefix


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "c", [[1, 2, 3], [4], [5, 6]])


def patch(path, offset, data):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=9),
    st.sampled_from([VOCAB, 65499, 65500, 100_000]),
)
def test_what_is_written_is_read(tmp_path_factory, documents, vocab):
    prefix = write(tmp_path_factory.mktemp("i") / "c", documents, vocab)
    reader = Reader(prefix)
    assert [reader[i].tolist() for i in range(len(reader))] == documents
    assert reader.dtype == (np.uint16 if vocab < 65500 else np.int32)
    assert reader.tokens == sum(map(len, documents))
    assert reader.flat(0, len(reader)).tolist() == sum(documents, [])
    last = len(documents) - 1
    assert reader.read(last, 1).tolist() == documents[last][1:]
    assert sorted(p.name for p in prefix.parent.iterdir()) == ["c.bin", "c.idx"]


@pytest.mark.parametrize("vocab", [50257, 65500])
def test_bytes_equal_megatrons(tmp_path, vocab):
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    draw = np.random.default_rng(3)
    documents = [draw.integers(0, vocab, draw.integers(1, 300)) for _ in range(200)]
    write(tmp_path / "ours", documents, vocab)
    assert megatron.DType.optimal_dtype(vocab) == token_type(vocab)
    builder = megatron.IndexedDatasetBuilder(
        str(tmp_path / "theirs.bin"), dtype=megatron.DType.optimal_dtype(vocab)
    )
    for document in documents:
        builder.add_item(torch.tensor(document))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        ours = (tmp_path / f"ours{suffix}").read_bytes()
        assert ours == (tmp_path / f"theirs{suffix}").read_bytes()

    theirs = megatron.IndexedDataset(str(tmp_path / "ours"))
    assert len(theirs) == len(documents)
    assert all((theirs[i] == d).all() for i, d in enumerate(documents))


def test_reads_documents_of_several_sequences_as_megatron_writes_them(tmp_path):
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "c.bin"), dtype=np.int32)
    builder.add_document(torch.arange(10), [3, 3, 4])
    builder.add_document(torch.arange(5), [5])
    builder.finalize(str(tmp_path / "c.idx"))
    reader = Reader(tmp_path / "c")
    assert reader.lengths.tolist() == [3, 3, 4, 5]
    assert reader.documents.tolist() == [0, 3, 4]
    assert reader[1].tolist() == [3, 4, 5]
    assert reader.flat(1, 3).tolist() == list(range(3, 10))


def test_nothing_remains_after_an_exception(tmp_path):
    with pytest.raises(InputError, match=r"token 1000 in document 1 .*the vocabulary has 1000"):
        write(tmp_path / "c", [[1], [1000]])
    with pytest.raises(InputError, match="token -1 "):
        write(tmp_path / "c", [[-1]])
    with pytest.raises(InputError, match="document 0 .* no token"):
        write(tmp_path / "c", [[]])
    assert list(tmp_path.iterdir()) == []


def test_token_beyond_the_vocabulary_is_found(pair):
    reader = Reader(pair)
    reader.check_tokens(7)
    with pytest.raises(InputError, match=r"token 6 at position 5 of .*c\.bin: .* 6 tokens"):
        reader.check_tokens(6)


def test_negative_token_is_found(tmp_path):
    pair = write(tmp_path / "c", [[1, 2], [3]], vocab=100_000)
    patch(tmp_path / "c.bin", 4, struct.pack("<i", -5))
    with pytest.raises(InputError, match="token -5 at position 1"):
        Reader(pair).check_tokens(100_000)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_missing_file(pair, suffix):
    pair.with_suffix(suffix).unlink()
    with pytest.raises(InputError, match=rf"no file .*c\{suffix}"):
        Reader(pair)


@pytest.mark.parametrize("suffix, keeps", [(".bin", (0, 1, 11)), (".idx", (0, 5, 20, 33, 40, 101))])
def test_every_truncation_is_refused(pair, suffix, keeps):
    path = pair.with_suffix(suffix)
    whole = path.read_bytes()
    for keep in keeps:
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="cut short"):
            Reader(pair)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="bytes, but"):
        Reader(pair)


N = 3  # sequences of `pair`; offsets below follow the layout in the module's docstring


@pytest.mark.parametrize(
    "offset, data, match",
    [
        (0, b"PK\x03\x04", "doesn't begin with MMIDIDX"),
        (9, struct.pack("<Q", 2), "has version 2"),
        (17, b"\x07", "gives 7 as the type of a token"),
        (17, b"\x04", r"c\.idx is damaged: sequence 1 should begin"),
        (18, struct.pack("<Q", 4), "promises 4 sequences"),
        (18, struct.pack("<Q", 2**63), "promises 9223372036854775808 sequences"),
        (HEADER.size, struct.pack("<i", -3), "sequence 0 has a negative length"),
        (HEADER.size, struct.pack("<i", 4), "sequence 1 should begin"),
        (HEADER.size + 4 * (N - 1), struct.pack("<i", 3), r"c\.bin has 12 bytes, but"),
        (HEADER.size + 4 * N + 8, struct.pack("<q", 5), "sequence 1 should begin"),
        (HEADER.size + 12 * N, struct.pack("<q", 1), "its documents don't divide 0 to 3"),
        (HEADER.size + 12 * N + 8, struct.pack("<q", 3), "its documents don't divide"),
        (HEADER.size + 12 * N + 24, struct.pack("<q", 9), "its documents don't divide"),
    ],
)
def test_damaged_index_is_refused_in_one_line(pair, offset, data, match):
    patch(pair.with_suffix(".idx"), offset, data)
    with pytest.raises(InputError, match=match) as caught:
        Reader(pair)
    assert "\n" not in str(caught.value)


def test_reader_without_sequences(tmp_path):
    write(tmp_path / "c", [])
    with pytest.raises(InputError, match="holds no sequence"):
        Reader(tmp_path / "c")


def test_sequence_out_of_range(pair):
    with pytest.raises(IndexError, match="sequence 3 of 3"):
        Reader(pair)[3]
