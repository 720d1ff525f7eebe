# ---
# mark: 3
# minutes: 45
# help: empty
# needs: [causal attention, key-value cache]
# draws:
#   RETURNED: [last, all]
#   HEADS: [2, 4, 1]
# ---

# %% [markdown]
# # A key-value cache
#
# Several texts grow at the same time, each by as many tokens as it likes. Whatever was computed once is
# kept and never computed again.
#
# `Net` is a small GPT in float64. Its parts take one row a token, of one text or of many. You write what
# is between them: attention, which looks back at the keys and values that you kept. A `Writer` begins
# with empty texts; `feed` appends new tokens to each and returns logits.
#
# ```
# writer = Writer(net, 2)
# writer.feed([[5, 3, 8], [7]])     # two prompts: positions 0 1 2, and 0
# writer.feed([[1], [2, 6]])        # one more, and two more: positions 3, and 1 2
# ```
#
# **Target:** `feed` returns for each text the logits {{WHICH}}, as
# `uncached` has them. A feed goes through each layer once: `net.qkv` and `net.rest` are called
# once a layer, with one row for each new token of all texts together: 4 and then 3 rows for the feeds
# above. Nothing old and no padding goes through them.

# %% tags=["target"]
WHICH = {"last": "after its last token, `[V]`", "all": "after each new token, `[new, V]`"}[RETURNED]
GIVES = {"last": "logits[-1]", "all": "logits"}[RETURNED]

# %%
import math

import torch

V, S, H, LAYERS = 11, 16, 8, 3  # vocabulary, positions, hidden size, layers


class Net:
    """A small GPT in float64, in parts. x: [rows, H], a row a token."""

    def __init__(self, seed=1, layers=LAYERS):
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(shape, generator=g, dtype=torch.float64) / shape[-1] ** 0.5

        self.layers = layers
        self.words, self.places = draw(V, H), draw(S, H)
        self.w = [(draw(H, 3 * H), draw(H, H), draw(H, 4 * H), draw(4 * H, H)) for _ in range(layers)]

    def begin(self, tokens, positions):
        """Two lists of numbers, as long as each other -> [rows, H]."""
        return self.words[tokens] + self.places[positions]

    def qkv(self, layer, x):
        """[rows, H] -> queries, keys and values, each [HEADS, rows, H / HEADS]."""
        parts = (x @ self.w[layer][0]).unflatten(-1, (3, HEADS, H // HEADS))
        return parts.permute(1, 2, 0, 3).unbind()

    def rest(self, layer, x, mixed):
        """What the layer makes of x and of the mixed values [HEADS, rows, H / HEADS]: [rows, H]."""
        _, out, up, down = self.w[layer]
        x = x + mixed.transpose(0, 1).flatten(1) @ out
        return x + (x @ up).tanh() @ down

    def end(self, x):
        """[rows, H] -> logits [rows, V]."""
        return x @ self.words.T


def uncached(net, ids):
    """Logits [len(ids), V] after each token of one text, all computed anew."""
    x = net.begin(ids, list(range(len(ids))))
    future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for layer in range(net.layers):
        q, k, v = net.qkv(layer, x)
        scores = q @ k.transpose(1, 2) / math.sqrt(H // HEADS)
        x = net.rest(layer, x, scores.masked_fill(future, -math.inf).softmax(-1) @ v)
    return net.end(x)


# %% tags=["stub"]
class Writer:
    """Texts that grow, with what attention keeps of them."""

    def __init__(self, net, texts):
        """texts: how many there are; all are empty."""
        raise NotImplementedError("keep the net, the length of each text, and its keys and values")

    def feed(self, new):
        """Append the tokens new[i], one or more, to text i. A list of logits, one entry a text."""
        raise NotImplementedError("all rows through the layers at once, attention text by text")


# %% [markdown] tags=["hint"]
# Put the new tokens of all texts one after the other into one list, with the position of each: text i
# goes on where it ended. Then `begin`, `qkv`, `rest` and `end` need not know of texts. Only attention
# does.

# %% [markdown] tags=["hint"]
# After `qkv`, cut q, k and v into the pieces of the texts: `k.split(counts, dim=1)`. Append the new keys
# and values to those that you kept of this layer and this text, `torch.cat([old, new], dim=1)`. The
# pieces of mixed values go together again with `torch.cat(..., dim=1)`.

# %% [markdown] tags=["hint"]
# New token number j of a text that had n tokens is at position n + j. It sees the columns 0 to n + j of
# the keys and no others. With c new tokens the mask of what it must not see is
# `torch.ones(c, n + c, dtype=torch.bool).triu(n + 1)`. For n = 0 it is that of `uncached`; for c = 1
# nothing is masked.

# %% [markdown] tags=["oral"]
# **Q.** Your `feed` takes several new tokens at once. What goes wrong with the mask of `uncached`, cut to
# the new rows, and why does a test that feeds single tokens not find it?
#
# **A.** Its diagonal starts at column 0, so new token j would see the first j + 1 tokens of the text and
# not what lies behind them. A single new token may see everything, so with one at a time no mask is right.
#
# **Q.** After 1000 tokens, what has to be read from memory for the next token of one text, and what of it
# can be shared by a second text?
#
# **A.** All weights, and the keys and values of 1000 tokens in each layer. The weights serve both texts,
# as the rows go through the matrices together; each text has its own cache.


# %% tags=["solution"]
class Writer:
    def __init__(self, net, texts):
        self.net, self.lengths = net, [0] * texts
        nothing = torch.zeros(HEADS, 0, H // HEADS, dtype=torch.float64)
        self.kept = [[(nothing, nothing)] * texts for _ in range(net.layers)]

    def feed(self, new):
        counts = [len(tokens) for tokens in new]
        starts, self.lengths = self.lengths, [n + c for n, c in zip(self.lengths, counts, strict=True)]
        positions = [i for n, c in zip(starts, counts, strict=True) for i in range(n, n + c)]
        x = self.net.begin([token for tokens in new for token in tokens], positions)
        for layer in range(self.net.layers):
            parts = zip(*(y.split(counts, dim=1) for y in self.net.qkv(layer, x)), strict=True)
            mixed = [self._attend(layer, text, *qkv) for text, qkv in enumerate(parts)]
            x = self.net.rest(layer, x, torch.cat(mixed, dim=1))
        return [{{GIVES}} for logits in self.net.end(x).split(counts)]

    def _attend(self, layer, text, q, k, v):
        """What q makes of all keys and values of one text, the new ones among them."""
        old_k, old_v = self.kept[layer][text]
        k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)
        self.kept[layer][text] = k, v
        c, n = q.shape[1], k.shape[1] - q.shape[1]
        future = torch.ones(c, n + c, dtype=torch.bool).triu(n + 1)
        scores = q @ k.transpose(1, 2) / math.sqrt(H // HEADS)
        return scores.masked_fill(future, -math.inf).softmax(-1) @ v


# %% tags=["check"]
import random

from minimtnlg.course.check import Feedback, expect

_WHERE = "after its last token" if RETURNED == "last" else "after each of its new tokens"


class _Watched(Net):
    """A Net that counts the rows of each call."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = {"qkv": [], "rest": []}

    def qkv(self, layer, x):
        self.calls["qkv"].append((layer, len(x)))
        return super().qkv(layer, x)

    def rest(self, layer, x, mixed):
        self.calls["rest"].append((layer, len(x)))
        return super().rest(layer, x, mixed)


def _right(net, text, count):
    """What a feed that brought the last `count` tokens of a text returns for it."""
    rows = uncached(net, text)[len(text) - count :]
    return rows[-1] if RETURNED == "last" else rows


def _grow(student, feeds, look_at, net=None):
    """Feed lists of new tokens, one list a text, and compare all that comes back."""
    net = net or Net()
    writer, texts = student(net, len(feeds[0])), [[] for _ in feeds[0]]
    for number, new in enumerate(feeds, 1):
        got = writer.feed([list(tokens) for tokens in new])
        texts = [text + tokens for text, tokens in zip(texts, new, strict=True)]
        try:
            got = list(got)
        except TypeError:
            got = [got]
        expect(len(got), len(texts), f"entries that feed number {number} returns", "one a text")
        for i, (text, tokens) in enumerate(zip(texts, new, strict=True)):
            what = f"logits of text {i} {_WHERE}, feed number {number} ({len(tokens)} new, {len(text)} in all)"
            right = _right(net, text, len(tokens))
            shape = tuple(getattr(got[i], "shape", right.shape))
            if shape != tuple(right.shape):
                asked = f"asked for are the logits {WHICH}"
                raise Feedback(f"the shape of the {what}", tuple(right.shape), shape, asked)
            expect(got[i], right, what, look_at)
    return writer, texts


def two_texts(student):
    """Two prompts of different lengths, then one token after the other"""
    feeds = [[[5, 3, 8], [7]], [[1], [2]], [[4], [4]], [[10], [9]]]
    _grow(student, feeds, "which position has a new token, and what may it see?")


def several_at_once(student):
    """Later feeds of several tokens"""
    look_at = "a new token sees all that was there, itself, and the new ones before it"
    _grow(student, [[[5, 3]], [[1, 2, 6]], [[0, 9]]], look_at)
    _grow(student, [[[5, 3, 8], [7]], [[1], [2, 6]], [[1, 4, 1, 5], [9]]], look_at)


def each_row_once(student):
    """Nothing old, no padding, and one pass through each layer for all texts"""
    net = _Watched()
    writer = student(net, 3)
    for new in ([[5, 3, 8, 1], [7], [2, 2]], [[1], [2, 6], [3]], [[4], [4], [4]]):
        net.calls = {"qkv": [], "rest": []}
        writer.feed([list(tokens) for tokens in new])
        rows, counts = sum(map(len, new)), [len(tokens) for tokens in new]
        for part, calls in net.calls.items():
            expect(calls, [(layer, rows) for layer in range(LAYERS)],
                   f"(layer, rows) of the calls of net.{part} in a feed of {counts} new tokens",
                   "the rows of all texts go through a layer together, and only the new ones")  # fmt: skip


# %% tags=["hidden"]
def what_is_old_is_gone(student):
    """Old positions are not looked up again"""
    net, whole = Net(), Net()
    writer = student(net, 2)
    writer.feed([[5, 3, 8], [7, 2, 9]])
    net.places = net.places.clone()
    net.places[:3] = math.nan  # whoever computes an old token again gets no number
    got = writer.feed([[1, 4], [6]])
    for i, (text, count) in enumerate((([5, 3, 8, 1, 4], 2), ([7, 2, 9, 6], 1))):
        expect(got[i], _right(whole, text, count), f"logits of text {i} {_WHERE}, feed number 2, where the "
               "net has forgotten the positions 0 to 2", "keys and values of old tokens are kept")  # fmt: skip


def many_texts(student):
    """Random texts up to the last position"""
    draw = random.Random(18)
    for texts in (1, 2, 5):
        feeds, room = [], [S] * texts
        while min(room) > 0:
            counts = [draw.randint(1, min(5, left)) for left in room]
            feeds.append([[draw.randrange(V) for _ in range(c)] for c in counts])
            room = [left - c for left, c in zip(room, counts, strict=True)]
        _grow(student, feeds, "compare with one text alone", Net(texts, layers=texts))


def two_writers(student):
    """Two writers on one net know nothing of each other"""
    net = Net()
    one, other = student(net, 1), student(net, 1)
    one.feed([[5, 3, 8]])
    other.feed([[7]])
    got = one.feed([[1]])
    expect(got[0], _right(net, [5, 3, 8, 1], 1), f"logits {_WHERE} of a writer beside another one",
           "what is kept belongs to the writer, not to the class or the net")  # fmt: skip


def leaves_what_it_is_given(student):
    """The lists of new tokens are as before, and so is what was returned"""
    net, new = Net(), [[5, 3], [7]]
    writer = student(net, 2)
    first = writer.feed(new)
    copies = [logits.clone() for logits in first]
    if new != [[5, 3], [7]]:
        raise Feedback("the lists that were fed", [[5, 3], [7]], new, "append to lists of your own")
    writer.feed([[1], [1]])
    for i, copy in enumerate(copies):
        expect(first[i], copy, f"the logits of text {i} of the first feed, after the second")


# %% tags=["wrong"]
def _given(rows):
    return [text[-1] for text in rows] if RETURNED == "last" else list(rows)


class _Kept:
    """Like the solution, with parts that a mistake replaces."""

    def __init__(self, net, texts):
        self.net, self.texts, self.kept = net, [[] for _ in range(texts)], {}

    def starts(self):
        return [len(text) for text in self.texts]

    def future(self, c, n):
        return torch.ones(c, n + c, dtype=torch.bool).triu(n + 1)

    def key(self, layer, text):
        return layer, text

    def attend(self, layer, text, q, k, v):
        key = self.key(layer, text)
        if key in self.kept:
            k, v = (torch.cat(pair, dim=1) for pair in zip(self.kept[key], (k, v), strict=True))
        self.kept[key] = k, v
        scores = q @ k.transpose(1, 2) / math.sqrt(H // HEADS)
        future = self.future(q.shape[1], k.shape[1] - q.shape[1])
        return scores.masked_fill(future, -math.inf).softmax(-1) @ v

    def feed(self, new):
        counts = [len(tokens) for tokens in new]
        positions = [n + j for n, c in zip(self.starts(), counts, strict=True) for j in range(c)]
        x = self.net.begin(sum(map(list, new), []), positions)
        for layer in range(self.net.layers):
            parts = [y.split(counts, dim=1) for y in self.net.qkv(layer, x)]
            mixed = [self.attend(layer, i, *qkv) for i, qkv in enumerate(zip(*parts, strict=True))]
            x = self.net.rest(layer, x, torch.cat(mixed, dim=1))
        for text, tokens in zip(self.texts, new, strict=True):
            text += tokens
        return _given(self.net.end(x).split(counts))


class ComputesAllAnew(_Kept):
    """Caught by: each_row_once. Keeps the tokens and passes whole texts through the net."""

    def feed(self, new):
        for text, tokens in zip(self.texts, new, strict=True):
            text += tokens
        pairs = zip(self.texts, new, strict=True)
        return _given([uncached(self.net, text)[-len(tokens) :] for text, tokens in pairs])


class GivesTheOtherRows(_Kept):
    """Caught by: two_texts. Of each text all new rows where the last is asked for, or the reverse."""

    def feed(self, new):
        whole = [text + tokens for text, tokens in zip(self.texts, new, strict=True)]
        self.texts = whole
        rows = [uncached(self.net, text)[-len(t) :] for text, t in zip(whole, new, strict=True)]
        return [r if RETURNED == "last" else r[-1] for r in rows]


class BeginsAtZeroAgain(_Kept):
    """Caught by: two_texts. The new tokens are numbered from 0 in each feed."""

    def starts(self):
        return [0] * len(self.texts)


class OnePositionForAll(_Kept):
    """Caught by: two_texts. All texts are taken to be as long as the longest."""

    def starts(self):
        return [max(map(len, self.texts))] * len(self.texts)


class MaskFromTheLeft(_Kept):
    """Caught by: several_at_once. The mask of a prompt: its diagonal begins at column 0."""

    def future(self, c, n):
        return torch.ones(c, n + c, dtype=torch.bool).triu(1) if c > 1 else super().future(c, n)


class NoMask(_Kept):
    """Caught by: two_texts. What is kept is the past, so nothing is hidden from the new tokens."""

    def future(self, c, n):
        return torch.zeros(c, n + c, dtype=torch.bool)


class OneCacheForAllLayers(_Kept):
    """Caught by: two_texts. Keys of all layers stand in one list."""

    def key(self, layer, text):
        return text


class OneCacheForAllTexts(_Kept):
    """Caught by: two_texts. A text looks at the tokens of the others."""

    def key(self, layer, text):
        return layer


class TextByText(_Kept):
    """Caught by: each_row_once. The weights are read once for each text."""

    def feed(self, new):
        if not self.kept:
            self.alone = [_Kept(self.net, 1) for _ in self.texts]
            self.kept = {"begun": True}
        return [one.feed([tokens])[0] for one, tokens in zip(self.alone, new, strict=True)]


class PadsToTheLongest(_Kept):
    """Caught by: each_row_once. All texts get as many rows as the longest, and some are thrown away."""

    def attend(self, layer, text, q, k, v):
        c = self.counts[text]
        mixed = super().attend(layer, text, q[:, :c], k[:, :c], v[:, :c])
        return torch.nn.functional.pad(mixed, (0, 0, 0, q.shape[1] - c))

    def feed(self, new):
        self.counts = [len(tokens) for tokens in new]
        most = max(self.counts)
        before = self.starts()
        positions = [min(n + j, S - 1) for n in before for j in range(most)]
        x = self.net.begin([t for tokens in new for t in [*tokens, *[0] * most][:most]], positions)
        for layer in range(self.net.layers):
            parts = [y.split(most, dim=1) for y in self.net.qkv(layer, x)]
            mixed = [self.attend(layer, i, *qkv) for i, qkv in enumerate(zip(*parts, strict=True))]
            x = self.net.rest(layer, x, torch.cat(mixed, dim=1))
        for text, tokens in zip(self.texts, new, strict=True):
            text += tokens
        rows = self.net.end(x).split(most)
        return _given([text[:c] for text, c in zip(rows, self.counts, strict=True)])
