# ---
# mark: 1
# minutes: 20
# help: worked
# needs: [layout, micro-batch, number format, ZeRO, activation checkpointing, sequence parallelism, stage, schedule, engine, adapter]
# draws:
#   LENGTH: [samples, iterations]
#   CHUNKS: [layers, number]
#   STAGES: [2, 4]
#   VIRTUAL: [3, 2]
# ---

# %% [markdown]
# # Speak Megatron
#
# Write a configuration of this course as the flags of Megatron-LM's command line, a dict
# `{flag: value}`; a switch has the value `True`. `renamed` below does what only has another name.
# The rest are conversions:
#
# - **Chunks**, `parallel.virtual` on a stage, if the schedule is interleaved: {{CHUNKS_RULE}}
# - **Sequence parallelism** is a switch, `--sequence-parallel`. What is off has no flag.
# - **Recomputation**: `--recompute-granularity` is `selective` or `full`; none has no flag. With
#   `full`, Megatron also asks how: `--recompute-method` `uniform`, `--recompute-num-layers` 1.
# - **ZeRO 1** is the switch `--use-distributed-optimizer`. ZeRO 2 and 3 are not there: `refuse` with
#   `parallel.zero` in the text.
# - **Length**: {{LENGTH_RULE}}
#
# Replicas have no flag: they are what the GPUs leave.
#
# **Target:** 24 layers on {{STAGES}} stages of {{VIRTUAL}} chunks are `{{CHUNKS_EXAMPLE}}`. MT-NLG's
# 270 billion tokens without a ramp are `{{LENGTH_EXAMPLE}}`{{RAMP_EXAMPLE}}.
#
# To read what you get: `print(line(megatron_flags(load("mtnlg-530b", ["train.ramp=null"]))))`. All
# words of a configuration: `print(load("mtnlg-530b"))`.

# %%
from minimtnlg.config import load

SAME = {  # our word: Megatron's flag
    "model.layers": "--num-layers",
    "model.hidden": "--hidden-size",
    "model.heads": "--num-attention-heads",
    "model.seq": "--seq-length",
    "parallel.tp": "--tensor-model-parallel-size",
    "parallel.pp": "--pipeline-model-parallel-size",
    "train.micro_batch": "--micro-batch-size",
    "train.global_batch": "--global-batch-size",
    "optim.clip": "--clip-grad",
}


def renamed(config):
    """The flags that have our value under another name, and the number format, a switch."""
    found = {}
    for ours, theirs in SAME.items():
        section, word = ours.split(".")
        found[theirs] = getattr(getattr(config, section), word)
    found["--max-position-embeddings"] = config.model.seq  # asked for once more
    switch = {"bfloat16": "--bf16", "float16": "--fp16"}.get(config.train.dtype)
    return found | ({switch: True} if switch else {})


def refuse(text):
    """For what Megatron does not have; the text begins with our word, as in "parallel.zero=2"."""
    raise ValueError(text)


def line(flags):
    """The flags as one types them."""
    return " ".join(flag if value is True else f"{flag} {value}" for flag, value in flags.items())


# %% tags=["target"]
CHUNKS_RULE = {
    "layers": "`--num-layers-per-virtual-pipeline-stage` is the number of layers in a chunk.",
    "number": "`--num-virtual-stages-per-pipeline-rank` is the number of chunks on a stage.",
}[CHUNKS]
CHUNKS_EXAMPLE = {
    "layers": f"--num-layers-per-virtual-pipeline-stage {24 // STAGES // VIRTUAL}",
    "number": f"--num-virtual-stages-per-pipeline-rank {VIRTUAL}",
}[CHUNKS]
LENGTH_RULE = {
    "samples": "`--train-samples`, whole sequences, rounded down, from `train.tokens`, or from "
    "`train.steps`, whichever is not 0. Our ramp is `train.ramp`: first batch, increment, tokens. "
    "Here Megatron counts in samples, so the third number is one of samples, too: "
    "`--rampup-batch-size` has the three as a text with spaces. No check has both a ramp and "
    "`train.steps`.",
    "iterations": "`--train-iters`, whole steps, rounded down, from `train.tokens`, or "
    "`train.steps`, whichever is not 0. Counting in iterations, Megatron takes no ramp: `refuse` it, "
    "with `train.ramp` in the text.",
}[LENGTH]
LENGTH_EXAMPLE, RAMP_EXAMPLE = {
    "samples": (
        "--train-samples 131835937", ", and its ramp is `--rampup-batch-size 32 32 5859375`"
    ),
    "iterations": ("--train-iters 68664", ""),
}[LENGTH]  # fmt: skip


# %% tags=["stub"]
def megatron_flags(config):
    """{flag: value} of a Config, True for a switch. What Megatron does not have is refused."""
    raise NotImplementedError("begin with renamed(config); add chunks, switches, recompute, length")
    return renamed(config)


# %% [markdown] tags=["hint"]
# Begin with the simplest: `flags = renamed(config)`, then `if config.parallel.sequence_parallel:`
# and one more flag. Look at what `line` makes of it.

# %% [markdown] tags=["hint"]
# A stage has $L/p$ layers, a chunk a $v$-th of them. A sequence has `config.model.seq` tokens; a
# step is `config.train.global_batch` sequences. `//` rounds down.

# %% [markdown] tags=["hint"]
# ```python
# p, train = config.parallel, config.train
# if p.schedule == "interleaved":
#     flags["{{CHUNKS_FLAG}}"] = ...
# if p.recompute != "none":
#     flags["--recompute-granularity"] = p.recompute
# tokens = train.tokens or train.steps * train.global_batch * config.model.seq
# ```


# %% tags=["target"]
CHUNKS_FLAG, LENGTH_FLAG = CHUNKS_EXAMPLE.split()[0], LENGTH_EXAMPLE.split()[0]
# Lines of the solution that differ.
CHUNKS_CODE = {"layers": "config.model.layers // (p.pp * p.virtual)", "number": "p.virtual"}[CHUNKS]
LENGTH_CODE = {"samples": "seq", "iterations": "seq * train.global_batch"}[LENGTH]
RAMP_CODE = {
    "samples": 'f"{train.ramp[0]} {train.ramp[1]} {train.ramp[2] // seq}"',
    "iterations": 'refuse(f"train.ramp={train.ramp}: iterations have no ramp")',
}[LENGTH]


# %% tags=["solution"]
def megatron_flags(config):
    p, train, seq = config.parallel, config.train, config.model.seq
    if p.zero > 1:
        refuse(f"parallel.zero={p.zero}: Megatron has 0, and 1 as distributed optimizer")
    flags = renamed(config)
    if p.schedule == "interleaved":
        flags["{{CHUNKS_FLAG}}"] = {{CHUNKS_CODE}}
    if p.sequence_parallel:
        flags["--sequence-parallel"] = True
    if p.recompute != "none":
        flags["--recompute-granularity"] = p.recompute
    if p.recompute == "full":
        flags |= {"--recompute-method": "uniform", "--recompute-num-layers": 1}
    if p.zero == 1:
        flags["--use-distributed-optimizer"] = True
    tokens = train.tokens or train.steps * train.global_batch * seq
    flags["{{LENGTH_FLAG}}"] = tokens // ({{LENGTH_CODE}})
    if train.ramp:
        flags["--rampup-batch-size"] = {{RAMP_CODE}}
    return flags


# %% [markdown] tags=["oral"]
# **Q.** The same flags are started on 16 GPUs and on 32. What is different in the second run, and
# is the loss curve another one?
#
# **A.** There are twice as many replicas, each with half as many micro-batches. The global batch is
# a flag of its own and stays, so the curve is the same but for the order of additions.
#
# **Q.** Which mistakes in such a translation would no error message tell?
#
# **A.** All where another value is legal: a default that is not ours, tokens where samples are
# meant, layers per chunk for chunks per stage. Shapes fit and the run starts. Only a comparison of
# losses, norms and weights over several steps shows it.


# %% tags=["check"]
import random

from minimtnlg.course.check import Feedback, expect


def _flags(student, config, said):
    """The student's dict, if it is one of flags."""
    flags = student(config)
    if not isinstance(flags, dict) or not flags:
        raise Feedback(f"what is returned for {said}", "a dict of flags", repr(flags))
    for flag, value in flags.items():
        if not isinstance(flag, str) or not flag.startswith("--"):
            raise Feedback(f"a flag of {said}", "text that begins with --", repr(flag))
        if value is None or value is False:
            look_at = "leave out what is off"
            raise Feedback(f"{flag}, {said}", "no such flag at all", repr(value), look_at)
    return flags


def _check(student, source, overrides):
    """Read the flags back into our words, and compare those with the configuration."""
    config = load(source, overrides)
    said = f"{source} with {', '.join(overrides)}"
    flags = _flags(student, config, said)
    p, train, seq = config.parallel, config.train, config.model.seq
    left = dict(flags)
    for name, flag in SAME.items():
        section, word = name.split(".")
        expect(left.pop(flag, None), getattr(getattr(config, section), word), f"{flag}, {said}")
    expect(left.pop("--max-position-embeddings", None), seq, f"--max-position-embeddings, {said}")
    for dtype, flag in (("bfloat16", "--bf16"), ("float16", "--fp16")):
        expect(left.pop(flag, False), train.dtype == dtype, f"{flag}, {said}", "renamed has it")
    each = left.pop(CHUNKS_FLAG, None)
    if p.schedule == "interleaved":
        # layers = stages x chunks x layers of a chunk
        chunks = config.model.layers / p.pp / p.virtual if CHUNKS == "layers" else p.virtual
        look_at = "a stage has v chunks of L / (p v) layers"
        if isinstance(each, float):
            raise Feedback(f"{CHUNKS_FLAG}, {said}", "a whole number", each, "// gives an int")
        expect(each, int(chunks), f"{CHUNKS_FLAG}, {said}", look_at)
    else:
        expect(each, None, f"{CHUNKS_FLAG}, {said}", "there are chunks only if it is interleaved")
    for flag, word, wanted in (
        ("--sequence-parallel", "parallel.sequence_parallel", p.sequence_parallel),
        ("--use-distributed-optimizer", "parallel.zero=1", p.zero == 1),
    ):
        look_at = f"True if the configuration has {word}, else no such flag"
        expect(left.pop(flag, False), wanted, f"whether {flag} is there, {said}", look_at)
    how = [left.pop(f"--recompute-{x}", None) for x in ("granularity", "method", "num-layers")]
    right = {"none": [None] * 3, "selective": ["selective", None, None]}
    what = f"--recompute-granularity, -method and -num-layers, {said}"
    expect(how, right.get(p.recompute, ["full", "uniform", 1]), what, "only full asks for more")
    _check_length(left, config, said)
    expect(sorted(left), [], f"other flags, {said}", "nothing but what is asked for")


def _check_length(left, config, said):
    train, seq = config.train, config.model.seq
    unit = seq if LENGTH == "samples" else seq * train.global_batch  # tokens of one sample, or step
    flag = LENGTH_FLAG
    count, ramp = left.pop(flag, None), left.pop("--rampup-batch-size", None)
    if not isinstance(count, int) or isinstance(count, bool):
        raise Feedback(f"{flag}, {said}", "a whole number", repr(count), "// rounds down")
    if train.steps:
        right = train.steps * (train.global_batch if LENGTH == "samples" else 1)
        expect(count, right, f"{flag}, {said}", "how many sequences are in a step?")
    elif not count * unit <= train.tokens < (count + 1) * unit:
        right = f"{train.tokens:,} tokens or a little less: {unit:,} tokens each"
        raise Feedback(f"{flag}, {said}", right, count, "tokens, sequences, steps: which is which?")
    if train.ramp is None:
        expect(ramp, None, f"--rampup-batch-size, {said}", "without a ramp there is no such flag")
        return
    numbers = [train.ramp[0], train.ramp[1], train.ramp[2] // seq]
    got = ramp.split() if isinstance(ramp, str) else ramp
    look_at = "the third number is tokens in our words and samples in Megatron's"
    expect(got, [str(x) for x in numbers], f"--rampup-batch-size, {said}", look_at)


_CUT = [f"parallel.pp={STAGES}", f"parallel.virtual={VIRTUAL}", "parallel.schedule=interleaved"]
_JOB = ["model.layers=24", *_CUT, "parallel.tp=2", "train.global_batch=64", "train.micro_batch=2"]


def the_target(student):
    """24 layers in chunks, sequence parallelism, ZeRO 1, full recomputation"""
    more = ["parallel.sequence_parallel=true", "parallel.zero=1", "parallel.recompute=full"]
    for tokens in (1_000_000, 3_456_789):
        length = ["train.ramp=null", "train.steps=0", f"train.tokens={tokens}"]
        _check(student, "nano", [*_JOB, *more, *length])


def mtnlg(student):
    """MT-NLG's own configuration, without its ramp"""
    _check(student, "mtnlg-530b", ["train.ramp=null"])


def switches_that_are_off(student):
    """What is off has no flag"""
    length = ["train.ramp=null", "train.steps=0", "train.tokens=65536"]
    _check(student, "nano", ["parallel.pp=2", *length])


# %% tags=["hidden"]
def the_ramp(student):
    """MT-NLG's ramp"""
    if LENGTH == "samples":
        _check(student, "mtnlg-530b", ["parallel.tp=8"])
    else:
        _refuses(student, "mtnlg-530b", ["parallel.tp=8"], "train.ramp")


def _refuses(student, source, overrides, word):
    config, what = load(source, overrides), f"{source} with {', '.join(overrides)}"
    look_at = f'what Megatron does not have: refuse("{word}=...")'
    try:
        got = student(config)
    except ValueError as error:
        if word in str(error):
            return
        raise Feedback(what, f"a ValueError that names {word}", str(error), look_at) from None
    raise Feedback(what, f"a ValueError that names {word}", got, look_at)


def zero_2_and_3(student):
    """ZeRO 2 and 3 are refused"""
    for zero in (2, 3):
        _refuses(student, "nano", [f"parallel.zero={zero}", "train.ramp=null"], "parallel.zero")


def steps_instead_of_tokens(student):
    """A length in steps"""
    steps = ["train.ramp=null", "train.tokens=0", "train.steps=300", "train.global_batch=24"]
    _check(student, "nano", [*steps, "train.micro_batch=2"])


def any_configuration(student):
    """Sixty configurations, drawn at random"""
    draw = random.Random(13)
    ramps = ["null", "[16, 16, 123456]"] if LENGTH == "samples" else ["null"]
    for _ in range(60):
        t, p, v = draw.choice((1, 2, 4)), draw.choice((1, 2, 4)), draw.choice((2, 3))
        interleaved = p > 1 and draw.random() < 0.5
        overrides = [
            f"model.layers={12 * draw.choice((2, 4))}",
            f"parallel.tp={t}",
            f"parallel.pp={p}",
            f"parallel.virtual={v if interleaved else 1}",
            f"parallel.schedule={'interleaved' if interleaved else '1f1b'}",
            f"parallel.sequence_parallel={str(t > 1 and draw.random() < 0.5).lower()}",
            f"parallel.zero={draw.choice((0, 1))}",
            f"parallel.recompute={draw.choice(('none', 'selective', 'full'))}",
            "model.attention=readable",
            f"train.dtype={draw.choice(('float32', 'bfloat16', 'float16'))}",
            f"train.micro_batch={draw.choice((1, 2, 4))}",
            "train.global_batch=64",
            "train.steps=0",
            f"train.tokens={draw.randrange(10**6, 10**7)}",
            f"train.ramp={draw.choice(ramps)}",
        ]
        _check(student, "nano", overrides)


# %% tags=["wrong"]
def _changed(config, **changes):
    """The right flags with some replaced, named with _ for -; None leaves one out."""
    flags = megatron_flags(config)
    for name, value in changes.items():
        flag = "--" + name.replace("_", "-")
        flags.pop(flag, None)
        if value is not None:
            flags[flag] = value
    return flags


def only_renames(config):
    """Caught by: the_target. What is given is handed in."""
    return renamed(config)


def the_other_count_of_chunks(config):
    """Caught by: the_target. Chunks of a stage for layers of a chunk, or the other way round."""
    p = config.parallel
    other = {"layers": p.virtual * 100, "number": config.model.layers // p.pp}[CHUNKS]
    return megatron_flags(config) | ({CHUNKS_FLAG: other} if p.schedule == "interleaved" else {})


def chunks_of_the_whole_model(config):
    """Caught by: the_target. Layers, or chunks, of all stages together."""
    flags = megatron_flags(config)
    if CHUNKS_FLAG in flags:
        flags[CHUNKS_FLAG] *= config.parallel.pp
    return flags


def always_chunks(config):
    """Caught by: switches_that_are_off. One chunk a stage is written down as well."""
    p = config.parallel
    each = config.model.layers // (p.pp * p.virtual) if CHUNKS == "layers" else p.virtual
    return megatron_flags(config) | {CHUNKS_FLAG: each}


def switches_are_true_or_false(config):
    """Caught by: switches_that_are_off. A switch that is off is given the value False."""
    return {"--sequence-parallel": False} | megatron_flags(config)


def tokens_are_samples(config):
    """Caught by: mtnlg. The number of tokens is taken over as it is."""
    return megatron_flags(config) | {LENGTH_FLAG: config.train.tokens}


def the_other_length(config):
    """Caught by: mtnlg. Steps for samples, or samples for steps."""
    flags = megatron_flags(config)
    if LENGTH == "samples":
        flags["--train-samples"] //= config.train.global_batch
    else:
        flags["--train-iters"] *= config.train.global_batch
    return flags


def full_says_all(config):
    """Caught by: the_target. Full recomputation without its method."""
    return _changed(config, recompute_method=None, recompute_num_layers=None)


def none_is_a_granularity(config):
    """Caught by: switches_that_are_off. No recomputation is written down, too."""
    return {"--recompute-granularity": "none"} | megatron_flags(config)


def zero_is_a_number(config):
    """Caught by: zero_2_and_3. Any stage of ZeRO is the distributed optimizer."""
    try:
        return megatron_flags(config)
    except ValueError as error:
        if "zero" not in str(error):
            raise
    return renamed(config) | {"--use-distributed-optimizer": True}


def ramp_in_tokens(config):
    """Caught by: the_ramp. The ramp is copied, or left out."""
    if config.train.ramp is None:
        return megatron_flags(config)
    return renamed(config) | {"--rampup-batch-size": " ".join(map(str, config.train.ramp))}


def replicas_have_a_flag(config):
    """Caught by: the_target. The number of replicas is passed on."""
    return megatron_flags(config) | {"--data-parallel-size": config.parallel.dp}


def chunks_are_fractions(config):
    """Caught by: the_target. Chunks are divided with /, which gives 4.0."""
    flags = megatron_flags(config)
    return flags | {flag: float(flags[flag]) for flag in (CHUNKS_FLAG,) if flag in flags}


def divides(config):
    """Caught by: mtnlg. Lengths are fractions."""
    flags = megatron_flags(config)
    unit = config.model.seq * (config.train.global_batch if LENGTH == "iterations" else 1)
    return flags | {LENGTH_FLAG: config.train.tokens / unit}
