"""Rewrites a checkpoint for another layout: one process, one rank's file after the other.

A run does not need it, since any layout reads any checkpoint. It prepares a restart on other
machines, or shows what a layout would write.
"""

import dataclasses
from pathlib import Path

from minimtnlg import config as configuration
from minimtnlg.parallel.layout import Layout
from minimtnlg.train import checkpoint
from minimtnlg.train.boxes import owned, stage_of
from minimtnlg.train.export import new_folder


def reshard(run, out, overrides=()):
    """Write the latest checkpoint of `run` as the new run `out`; returns its Config.

    overrides: "parallel.key=value" texts. InputError for an impossible layout, a checkpoint that is
    damaged, or an `out` that is there already.
    """
    run = Path(run)
    found = checkpoint.latest(run)
    found.verify()
    config = _changed(configuration.load(run / "config.yaml"), overrides)
    layout = Layout.of(config.parallel)
    step = found.index["step"]
    with new_folder(out) as folder:
        aside = checkpoint.aside_of(folder, step)
        aside.mkdir(parents=True)
        files = {}
        for rank in range(layout.world):
            pieces = _pieces(found, config, layout.place(rank))
            files[checkpoint.file_name(rank)] = checkpoint.write(aside, rank, pieces)
        index = found.index | {"files": files, "parallel": dataclasses.asdict(config.parallel)}
        configuration.save(config, folder / "config.yaml")
        for name in found.index.get("beside", {}):
            (folder / name).write_bytes((run / name).read_bytes())
        checkpoint.commit(folder, step, index)
    return config


def _changed(config, overrides):
    """`config` with another layout; what is not said of it is not taken over from the old one."""
    values = dataclasses.asdict(config)
    values["parallel"] = {}
    configuration.overridden(values, overrides, ["parallel"])
    return configuration.sized(configuration.build(values))


def _pieces(found, config, place):
    """{key: (Box, tensor)} of what the rank at `place` owns."""
    pieces = {}
    for key, about in found.tensors.items():
        if stage_of(key.partition("/")[2], config.model.layers, config.parallel) != place.pp:
            continue
        box = owned(tuple(about["shape"]), about["split"], config.parallel, place)
        if not box.empty:
            pieces[key] = box, found.read(key, box)
    return pieces
