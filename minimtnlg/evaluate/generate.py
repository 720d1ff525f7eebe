"""Text from a model: the most likely token, again and again."""

import torch


@torch.no_grad()
def greedy(model, tokens, count, eod=None, vocab=None):
    """Continue `tokens` (list of ids) by up to `count` greedy ones; returns the new ids alone.

    Stops at `eod`. Rows of the embedding from `vocab` on are padding and are never chosen. Beyond
    the model's sequence length only the last model.config.seq tokens are seen.
    """
    tokens, start = list(tokens), len(tokens)
    where = next(model.parameters()).device
    for _ in range(count):
        window = torch.tensor([tokens[-model.config.seq :]], device=where)
        token = model(window)[-1, 0, :vocab].argmax().item()
        if token == eod:
            break
        tokens.append(token)
    return tokens[start:]
