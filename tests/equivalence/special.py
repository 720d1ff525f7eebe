"""The special cases: what real engines get wrong, each on the layouts where it could go wrong."""

from dataclasses import replace

from cases import Case

BLOCK_0 = ("blocks.0.",)
TABLES = ("embedding.", "position.")
ALL_BUT_TABLES = ("blocks.", "norm.")


def on(about, *layouts, **case):
    """The same case on several layouts."""
    return [replace(Case(about=about, **case), **layout) for layout in layouts]


def pipeline(pp, **more):
    """A layout of pp stages of one layer each, or of as many layers as `more` says."""
    return {"pp": pp, "layers": pp} | more


INTERLEAVED = {"schedule": "interleaved", "virtual": 2}

MICRO_BATCHES = [
    *on("one micro-batch", {"dp": 2}, {"zero": 2, "dp": 2}, {"zero": 3, "dp": 2}, m=1),
    *on("one micro-batch", pipeline(4), pipeline(2, dp=2, zero=1, schedule="gpipe"), m=1),
    *on("fewer than stages", pipeline(4), pipeline(4, schedule="gpipe", dp=2), m=2),
    *on("more than stages, no multiple", pipeline(4), pipeline(2, tp=2, schedule="gpipe"), m=5),
    *on("as many as stages", pipeline(2, layers=4, **INTERLEAVED), m=2),
    *on("two groups", pipeline(4, layers=8, **INTERLEAVED), m=8),
    *on("four", {"dp": 2}, {"dp": 2, "zero": 1}, {"dp": 2, "zero": 2}, {"dp": 2, "zero": 3}, m=4),
]
STAGES = [
    *on("five layers", pipeline(2, layers=5), pipeline(4, layers=5, dp=2), pipeline(3, layers=5)),
    *on("three chunks", pipeline(2, layers=6, schedule="interleaved", virtual=3), m=4),
    *on("three stages", pipeline(3, tp=2, sp=True), pipeline(3, dp=2, zero=1, schedule="gpipe")),
    *on("three stages", pipeline(3, layers=6, **INTERLEAVED), m=3),
]
MASKS = [
    *on(
        "silent replica",
        *({"dp": 2, "zero": zero} for zero in range(4)),
        pipeline(2, dp=2, zero=1),
        {"dp": 2, "tp": 2, "sp": True},
        masks="silent replica",
    ),
    *on("no token counts", {"dp": 2, "zero": 1}, pipeline(2), masks="nothing"),
]
SHAPES = [
    *on("heads equal tp", {"tp": 2, "heads": 2}, {"tp": 2, "sp": True, "heads": 2}),
    *on("heads equal tp", {"tp": 8, "sp": True}, heads=8, hidden=24, seq=16),
    *on("all positions", {"tp": 4, "sp": True}, pipeline(2, tp=2), seq=8),
    *on("three tensor ranks", {}, {"sp": True, "s": 9}, tp=3, heads=3, hidden=12, vocab=42),
    *on("three replicas", {}, {"zero": 1}, {"zero": 2}, {"zero": 3}, dp=3),
    *on("three replicas", {"zero": 3, "tp": 2, "sp": True, "recompute": "full"}, dp=3),
]
FROZEN = [
    *on(
        "frozen biases",
        {"dp": 2},
        {"dp": 2, "zero": 2, "tp": 2, "sp": True},
        pipeline(2, zero=1, dp=2),
        frozen=("blocks.0.attention.qkv.bias", "blocks.1.mlp.down.bias", "norm.bias"),
    ),
    *on("frozen block", {"dp": 2, "zero": 3}, {"dp": 2, "zero": 1}, frozen=("blocks.1.",)),
    *on("frozen block", pipeline(2, layers=4, **INTERLEAVED), frozen=("blocks.1.",), m=4),
    *on("frozen block", pipeline(2, tp=2), frozen=("blocks.1.",)),
    *on(
        "frozen embedding",
        {"tp": 2},
        {"dp": 2, "zero": 3, "recompute": "full"},
        pipeline(2, dp=2, zero=1),
        frozen=("embedding.",),
    ),
    *on(
        "frozen first stage",
        pipeline(2, tp=2),
        pipeline(2, zero=1, dp=2, schedule="gpipe"),
        frozen=BLOCK_0 + TABLES,
    ),
    *on("frozen middle stage", pipeline(4, zero=1), frozen=("blocks.1.",)),
    *on(
        "only tables trained",
        pipeline(2, tp=2, sp=True),
        pipeline(4, zero=1, dp=2),
        {"dp": 2, "zero": 3},
        {"dp": 2, "zero": 2},
        frozen=ALL_BUT_TABLES,
    ),
]
EXTRA = [  # a parameter that gets a gradient in these micro-batches only
    *on(
        "no gradient anywhere",
        *({"dp": 2, "zero": zero} for zero in range(4)),
        pipeline(2, tp=2),
        extra=(),
    ),
    *on(
        "gradient on one replica",
        *({"dp": 2, "zero": zero} for zero in range(4)),
        pipeline(2, dp=2, zero=1),
        extra=(2,),
    ),
    *on(
        "last gradient on one replica",
        *({"dp": 2, "zero": zero} for zero in range(4)),
        extra=(4,),
    ),
    *on("gradient in the last micro-batch", {"dp": 2}, {"dp": 2, "zero": 2}, extra=(4, 5)),
]
CLIPPING = [
    *on("not clipped", {"dp": 2, "zero": 3}, pipeline(2, tp=2, sp=True), clip=0.0),
    *on("clipping inactive", {"dp": 2, "zero": 1}, {"tp": 2}, clip=1e3),
]
DROPOUT = [
    *on(
        "fused attention",
        {"tp": 2, "sp": True, "recompute": "full"},
        pipeline(2, dp=2, zero=1),
        attention="sdpa",
    ),
    *on("no dropout", {"tp": 2}, pipeline(2, dp=2), dropout=0.0, attention="sdpa"),
    *on("much dropout", {"tp": 2, "sp": True, "dp": 2, "recompute": "selective"}, dropout=0.6),
]
TOPICS = {
    "micro-batches": MICRO_BATCHES,
    "stages": STAGES,
    "masks of the loss": MASKS,
    "shapes": SHAPES,
    "frozen parameters": FROZEN,
    "one parameter": EXTRA,
    "clipping": CLIPPING,
    "dropout": DROPOUT,
}
SPECIAL = [case for cases in TOPICS.values() for case in cases]
