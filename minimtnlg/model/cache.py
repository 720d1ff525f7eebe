"""Keys and values of the tokens that were seen, so that the next token needs no others.

Attention reads the tokens before a token by their keys and values alone, and these never change: a
later token is seen by no earlier one. So each is computed once and kept, and a step of generation
feeds the model one token a text.

Column j belongs to position j of a text, whatever the lengths of the others: texts of a batch are
padded on the right, to one length, for their first pass alone. What lies to the right of a text's
end is never looked at, and overwritten as the text grows.
"""

import torch
import torch.nn.functional as F

from minimtnlg.parallel.collectives import size


class Cache:
    """What attention keeps of a batch of texts: [2, b, a, S, d] a layer of this rank.

    2: keys and values. b: texts. a: this rank's heads, of size d. S: tokens that a text may have.

        cache = Cache(model, b, S)
        cache.feed([3, 5], 5);  model(tokens, cache=cache)  # tokens [2, 5]: texts of 3 and 5 tokens
        cache.feed([1, 1], 1);  model(tokens, cache=cache)  # tokens [2, 1]: one more of each
    """

    def __init__(self, model, b, S):
        first, heads = next(model.parameters()), model.config.heads // size(model.mesh.tp)
        shape = (2, b, heads, S, model.config.head_size)
        self.kv = {  # zeros: what is masked still has to be a number
            layer: torch.zeros(shape, dtype=first.dtype, device=first.device)
            for chunk in model.chunks
            for layer in chunk
        }
        self.lengths = [0] * b

    def part(self, rows):
        """A Cache of some rows (a slice), in the same memory."""
        other = object.__new__(Cache)
        other.kv = {layer: kv[:, rows] for layer, kv in self.kv.items()}
        other.lengths = self.lengths[rows]
        return other

    def reorder(self, rows, end):
        """Row i becomes what row rows[i] was, in the columns before `end`."""
        for kv in self.kv.values():
            used = kv[:, :, :, :end]
            used.copy_(used.index_select(1, torch.tensor(rows, device=kv.device)))

    def feed(self, counts, s):
        """Say that the next pass brings counts[i] more tokens of text i, padded to s.

        Texts that have none yet take any s, later ones 1. A text that is full writes over its last
        column.
        """
        S = next(iter(self.kv.values())).shape[3]
        starts = [min(length, S - 1) for length in self.lengths]
        self.lengths = [start + n for start, n in zip(starts, counts, strict=True)]
        self.end = max(starts) + s
        like = {"device": next(iter(self.kv.values())).device}
        self.mask = None
        if len(set(starts)) == 1:  # the usual case: all texts stand at one position
            self.where = slice(None), slice(starts[0], starts[0] + s)
            self.positions = torch.arange(starts[0], starts[0] + s, **like)[:, None]
        else:
            rows, at = torch.arange(len(starts), **like), torch.tensor(starts, **like)
            self.where = rows[:, None], at[:, None]
            self.positions = at[None]
            self.mask = (torch.arange(self.end, **like) <= at[:, None])[:, None, None]

    def attend(self, layer, q, k, v):
        """Keep k and v of the pass, and return what q makes of all that is kept.

        q, k, v: [b, a, s, d], this rank's heads -> [b, a, s, d]. A single token sees all that is
        there, so it needs no mask, unless other texts of the batch are longer.
        """
        kept, causal = self.kv[layer], q.shape[2] > 1
        for columns, new in zip(kept.transpose(2, 3), (k, v), strict=True):
            columns[self.where] = new.transpose(1, 2)
        keys, values = kept[:, :, :, : self.end]
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=self.mask, is_causal=causal
        )
