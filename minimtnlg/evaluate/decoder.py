"""One step of generation in any layout: texts in, and of each what may come next.

The pipeline is filled with micro-batches of texts, as in training. A step ends when the last stage
has told the others which tokens were chosen, since the first one needs them to go on.
"""

import torch

from minimtnlg.device import fp32
from minimtnlg.errors import InputError
from minimtnlg.model.cache import Cache
from minimtnlg.parallel.collectives import all_gather, broadcast, size
from minimtnlg.parallel.pipeline import carry_out
from minimtnlg.parallel.schedules import named


class Decoder:
    """A model and a batch of texts that grow by one token a step.

    model    a GPT, on every rank of its mesh; InputError under sequence parallelism
    count    how many texts
    longest  the most tokens of a text that the model will see
    cached   keep keys and values; False: each step computes all tokens again
    """

    def __init__(self, model, count, longest, cached=True):
        if model.sequence_parallel:
            raise InputError(
                "parallel.sequence_parallel=true cuts the sequence over the tensor ranks, and a "
                "step of generation has one token: leave it out, the weights are the same"
            )
        pp, virtual = model.mesh.layout.pp, model.virtual
        m = pp if virtual > 1 else min(pp, count)  # the interleaved schedule moves groups of pp
        name = "interleaved" if virtual > 1 else "1f1b"
        self.schedule = named(name, pp, m, virtual, forward_only=True)
        self.model, self.count, self.longest, self.cached = model, count, longest, cached
        self.b = -(-count // m)  # texts of a micro-batch; copies of the last text fill the last one
        self.parts = [slice(k * self.b, (k + 1) * self.b) for k in range(m)]
        self.cache = None
        first = next(model.parameters())
        self.dtype, self.device = first.dtype, first.device

    def step(self, texts, choose, shape):
        """choose(logits) as float64, in which ids are exact; the same on all ranks.

        texts   lists of ids, those of the step before with one token more; one that has ended may
                stay as it was, then nothing about it is to be read any more
        choose  gets the logits [count, V] after the texts, in fp32, on the tensor ranks of the last
                stage, and answers with a tensor of `shape`
        """
        mesh, logits = self.model.mesh, self._logits(texts)
        answer = torch.zeros(shape, dtype=torch.float64, device=self.device)
        if logits is not None:
            answer.copy_(choose(logits))
        return broadcast(answer, size(mesh.pp) - 1, mesh.pp)

    def reorder(self, rows):
        """Text i is from now on what text rows[i] was."""
        copies = [rows[-1]] * (self.b * len(self.parts) - len(rows))
        if self.cached and list(rows) != list(range(len(rows))):
            self.whole.reorder([*rows, *copies], self.cache[0].end)

    def _logits(self, texts):
        model, b = self.model, self.b
        new = [*texts, *[texts[-1]] * (b * len(self.parts) - len(texts))]
        if self.cache is None or not self.cached:
            self.whole = Cache(model, len(new), self.longest)
            self.cache = [self.whole.part(rows) for rows in self.parts]
            new = [text[: self.longest] for text in new]  # one that has ended may be longer
        else:
            new = [text[-1:] for text in new]
        counts = [len(ids) for ids in new]
        s = max(counts)
        padded = torch.tensor([ids + [0] * (s - len(ids)) for ids in new], device=self.device)
        ends = torch.tensor([(n - 1) * b + i % b for i, n in enumerate(counts)], device=self.device)
        for cache, rows in zip(self.cache, self.parts, strict=True):
            cache.feed(counts[rows], s)
        found = []

        def forward(k, chunk, x):
            x = padded[self.parts[k]] if model.begins(chunk) else x
            y = model(x, chunk=chunk, rows=ends[self.parts[k]], cache=self.cache[k])
            if model.ends(chunk):
                found.append(y)
            return y

        shape = s, b, model.config.hidden
        carry_out(self.schedule, model.mesh, forward, shape=shape, dtype=self.dtype)
        if found:
            columns = torch.cat(found)[: self.count]  # of this tensor rank
            return all_gather(columns.t(), model.mesh.tp).t().to(fp32(self.dtype))
