"""The lm-evaluation-harness on our models, so that any of its tasks can be asked [S19].

    python -m minimtnlg.evaluate.harness --model minimtnlg --model_args run=RUN --tasks wic

The rest of the command line is the harness's own. From Python, in any layout, on every rank:

    lm_eval.simple_evaluate(model=Adapter(model, tokenizer), tasks=[...])

The harness writes prompts, counts and averages; this answers its three questions about a model. It
needs the extra [eval].
"""

import sys

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)

from minimtnlg.errors import InputError
from minimtnlg.evaluate.generate import generate
from minimtnlg.evaluate.generate import until as ends_at
from minimtnlg.evaluate.models import as_run, opened
from minimtnlg.evaluate.scoring import encoded, scores

COUNT = 256  # tokens that are generated where a task does not say, as the harness's own models do


@register_model("minimtnlg")
class Adapter(LM):
    """A GPT and its Tokenizer, as the harness wants a model. batch: see scoring.scores."""

    def __init__(self, model, tokenizer, batch=4096):
        super().__init__()
        self.model, self.tokenizer, self.batch = model, tokenizer, batch

    @classmethod
    def create_from_arg_obj(cls, arg_dict, additional_config=None):
        """From the command line's --model_args run=RUN, a run or a Hugging Face folder.

        InputError without run=. Other arguments are passed over.
        additional_config: the harness's own options of batch size and device, not used here.
        """
        if "run" not in arg_dict:
            raise InputError("which model? --model_args run=RUN")
        with as_run(arg_dict["run"]) as run:
            return cls(*opened(run))

    @classmethod
    def create_from_arg_string(cls, arg_string, additional_config=None):
        """The same from a text, "run=RUN"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string))

    def loglikelihood(self, requests):
        """[(log P(continuation | context), whether it is greedy)] of texts."""
        texts = [request.args for request in requests]
        found = self._scores(encoded(self.tokenizer, texts))
        return self._told("loglikelihood", texts, [(s.logprob, s.greedy) for s in found])

    def loglikelihood_rolling(self, requests):
        """[log P] of whole texts, each token once.

        The first `seq` tokens stand after the end of a document, each further `seq` after the one
        token before them, and what is left after as many as the model has room for.
        """
        texts, pairs, owner = [request.args for request in requests], [], []
        for i, (text,) in enumerate(texts):
            ids, seq = self.tokenizer.encode(text), self.model.config.seq
            for window in get_rolling_token_windows(ids, self.tokenizer.eod, seq, 1):
                pairs.append(make_disjoint_window(window))
                owner.append(i)
        sums = [0.0] * len(texts)
        for i, score in zip(owner, self._scores(pairs), strict=True):
            sums[i] += score.logprob
        return self._told("loglikelihood_rolling", texts, sums)

    def generate_until(self, requests):
        """[continuation] of texts: up to the first of the task's `until`, which is not in it."""
        texts, results = [request.args for request in requests], [""] * len(requests)
        alike = {}  # requests with the same settings go together
        for i, (_, settings) in enumerate(texts):
            alike.setdefault(repr(sorted(settings.items())), []).append(i)
        for chosen in alike.values():
            found = self._generated([texts[i][0] for i in chosen], **texts[chosen[0]][1])
            for i, text in zip(chosen, found, strict=True):
                results[i] = text
        return self._told("generate_until", texts, results)

    def _generated(
        self, prompts, until=(), max_gen_toks=COUNT, do_sample=False, temperature=0.0,
        top_k=None, top_p=None, **_,
    ):  # fmt: skip
        """The harness's own names of settings; those that no model here has are passed over."""
        words, seq = self.tokenizer, self.model.config.seq
        until = [until] if isinstance(until, str) else until
        stop, cut = ends_at(words, [end for end in until if end])
        room = max(1, seq // 2, seq - max_gen_toks)  # of a long prompt the end is read
        ids = generate(
            self.model,
            [(words.encode(prompt) or [words.eod])[-room:] for prompt in prompts],
            max_gen_toks,
            temperature=temperature if do_sample else 0.0,
            top_k=top_k,
            top_p=top_p,
            eod=words.eod,
            vocab=words.size,
            stop=stop,
        )
        return [cut(words.decode(new)) for new in ids]

    def _scores(self, pairs):
        words = self.tokenizer
        return scores(self.model, pairs, eod=words.eod, vocab=words.size, batch=self.batch)

    def _told(self, kind, texts, results):
        """`results`, which the harness keeps where it was asked to (--use_cache)."""
        for args, result in zip(texts, results, strict=True):
            self.cache_hook.add_partial(kind, args, result)
        return results


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except InputError as error:
        sys.exit(f"minimtnlg: {error}")
