"""What a run keeps to from its first step to its last, and what may change when it goes on."""

import dataclasses
import json

from minimtnlg.errors import InputError

# What may change while a run goes on: its layout (with another tp or micro-batch, dropout draws
# other masks), and what leaves the numbers alone.
FREE = (
    "parallel", "model.attention", "data.path", "train.micro_batch", "train.eval_every",
    "train.save_every", "train.keep", "train.async_save", "train.patience", "train.on_bad_step",
    "train.loss_spike", "train.norm_spike",
)  # fmt: skip


def settings_of(config, corpus):
    """{key: value} of all that a run keeps to: its Config without FREE, its corpus' digest."""
    settings = {"corpus": corpus}
    for section, values in dataclasses.asdict(config).items():
        settings |= {f"{section}.{key}": value for key, value in values.items()}
    settings = {key: x for key, x in settings.items() if not {key, key.partition(".")[0]} & {*FREE}}
    return json.loads(json.dumps(settings))  # as an index gives them back


def refuse_others(index, settings, folder):
    """InputError where a checkpoint belongs to a run of other settings than these."""
    for key, value in settings.items():
        found = index["settings"].get(key)
        if found != value:
            raise InputError(
                f"{folder} was saved with {key}={found}, and not {value}: a run goes on as it "
                "began; only layout, micro-batch and what watches over it may change"
            )
