"""The presets as plain data, from a minute on two cores to a trillion parameters.

nano, small and micro are ours. The others are published; where a paper gives no value, the line
says "nc" (not confirmed) and from where the value is taken. Token counts are steps x batch x
sequence.
"""


def _shape(layers, hidden, heads, seq, vocab=51_200, dropout=0.1):
    return dict(layers=layers, hidden=hidden, heads=heads, seq=seq, vocab=vocab, dropout=dropout)


def _rate(lr, min_lr, warmup_tokens, decay_tokens, **others):
    return dict(
        lr=lr, min_lr=min_lr, warmup_tokens=warmup_tokens, decay_tokens=decay_tokens, **others
    )


# Ours run on the default corpus: half prose, half the documentation and source of Python.
_CORPUS = dict(weights={"wikipedia": 0.6, "python-docs": 0.1, "python-source": 0.3})

# Megatron-LM's recipe of 2019, 300 000 steps of 512 sequences of 1 024 tokens [S24; nc].
_MEGATRON_2019 = dict(
    optim=_rate(
        1.5e-4, 1e-5, 3_000 * 512 * 1024, 300_000 * 512 * 1024, beta2=0.999, weight_decay=0.01
    ),
    train=dict(steps=300_000, global_batch=512, micro_batch=8, dtype="float16"),
)

PRESETS = {
    "nano": dict(  # MT-NLG's recipe with every number of tokens scaled down, 340 B to 567 k
        model=_shape(8, 128, 8, 128, vocab=2048, dropout=0.0),
        data=_CORPUS,
        optim=_rate(4e-3, 4e-4, 20_000, 567_000),
        train=dict(
            tokens=450_000, global_batch=16, micro_batch=2, ramp=(8, 8, 60_000), eval_every=50
        ),
    ),
    "small": dict(  # MT-NLG's recipe once more, 20 minutes on two cores: for lessons 18 to 20
        model=_shape(8, 192, 8, 256, vocab=2048, dropout=0.0),
        data=_CORPUS,
        optim=_rate(3e-3, 3e-4, 100_000, 6_300_000),
        train=dict(
            tokens=5_000_000,
            global_batch=16,
            micro_batch=4,
            ramp=(8, 8, 500_000),
            eval_every=50,
            save_every=50,
        ),
    ),
    "micro": dict(  # five times nano, for an afternoon on two cores
        model=_shape(12, 256, 8, 256, vocab=2048, dropout=0.0),
        data=_CORPUS,
        optim=_rate(1.5e-3, 1.5e-4, 500_000, 40_000_000),
        train=dict(
            tokens=32_000_000,
            global_batch=64,
            micro_batch=4,
            ramp=(16, 16, 1_500_000),
            eval_every=100,
        ),
    ),
    "gpt2-1.5b": dict(  # GPT-2's largest, in Megatron-LM's training recipe
        model=_shape(48, 1600, 25, 1024),
        parallel=dict(tp=1, pp=1, dp=64),
        **_MEGATRON_2019,
    ),
    "megatron-8b": dict(  # 8.3 B on 8-way tensor parallelism [S24]; heads nc
        model=_shape(72, 3072, 32, 1024),
        parallel=dict(tp=8, pp=1, dp=64, recompute="full"),
        **_MEGATRON_2019,
    ),
    "turing-17b": dict(  # Turing-NLG; batch 512 on 256 GPUs, ZeRO-1 with 4-way slicing [S15]
        model=_shape(78, 4256, 28, 1024),
        parallel=dict(tp=4, pp=1, dp=64, recompute="full"),
        **_MEGATRON_2019,
    ),
    "gpt3-175b": dict(  # NVIDIA's example script for 128 nodes [S10, pretrain_gpt3_175B.sh]
        model=_shape(96, 12288, 96, 2048),
        parallel=dict(tp=8, pp=16, dp=8, recompute="full"),
        optim=_rate(6e-5, 6e-6, 375_000_000, 260_000_000_000),
        train=dict(
            tokens=300_000_000_000,
            global_batch=1536,
            micro_batch=1,
            ramp=(16, 16, 12_000_000_000),
            dtype="float16",
        ),
    ),
    "mtnlg-530b": dict(  # [S3]; micro-batch 1, vocabulary and dropout are nc
        model=_shape(105, 20480, 128, 2048),
        parallel=dict(tp=8, pp=35, dp=8, recompute="full"),
        optim=_rate(5e-5, 5e-6, 1_000_000_000, 340_000_000_000),
        train=dict(
            tokens=270_000_000_000,
            global_batch=1920,
            micro_batch=1,
            ramp=(32, 32, 12_000_000_000),
            dtype="bfloat16",
        ),
    ),
    "gpt-1t": dict(  # the largest of S12, Table 1; its training recipe was never run: MT-NLG's, nc
        model=_shape(128, 25600, 160, 2048),
        parallel=dict(tp=8, pp=64, dp=6, recompute="full"),
        optim=_rate(5e-5, 5e-6, 1_000_000_000, 450_000_000_000),
        train=dict(tokens=450_000_000_000, global_batch=3072, micro_batch=1, dtype="bfloat16"),
    ),
}
