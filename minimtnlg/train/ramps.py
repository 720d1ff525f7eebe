"""What changes while training: the learning rate (in tokens) and the global batch (in samples).

Pure arithmetic. config arguments are config.Optim and config.Train; a sample is one sequence.
"""

import itertools
import math


def learning_rate(tokens, optim):
    """Rate after `tokens` tokens: linear up to lr, cosine down to min_lr, then constant.

    MT-NLG: 1 B tokens up to 5e-5, down to a tenth over 340 B, warm-up included [S3]. A
    step asks with its own tokens counted in, so that the first one moves; Megatron's asks without,
    one step behind.
    """
    if tokens < optim.warmup_tokens:
        return optim.lr * tokens / optim.warmup_tokens
    done = (tokens - optim.warmup_tokens) / (optim.decay_tokens - optim.warmup_tokens)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return optim.min_lr + (optim.lr - optim.min_lr) * cosine


def batch_size(samples, train, seq):
    """Global batch of the step that starts after `samples` samples, as Megatron's ramp [S10].

    The ramp's samples are divided evenly over its increments: MT-NLG climbs from 32 to 1920 in 59
    increments of 99 311 samples, 12 B tokens in all [S3].
    """
    if not train.ramp:
        return train.global_batch
    start, increment, ramp_tokens = train.ramp
    increments = (train.global_batch - start) // increment
    samples_each = ramp_tokens / seq / increments
    return min(start + int(samples / samples_each) * increment, train.global_batch)


def batches(train, seq):
    """The global batch of each step of the whole run, one after the other."""
    samples = 0
    for step in itertools.count():
        if step == train.steps if train.steps else samples * seq >= train.tokens:
            return
        batch = batch_size(samples, train, seq)
        samples += batch
        yield batch


def total_samples(train, seq):
    """Samples that the whole run reads: the number for which the data's indices are drawn."""
    return sum(batches(train, seq))
