"""What a dry run should count, by formulas: exact where things are counted, near for the memory."""

from minimtnlg.plan import flops
from minimtnlg.plan.hardware import hardware, stack
from minimtnlg.plan.memory import GIB, memory, parameters

SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def expected(config, job, stage):
    """{quantity: value} of a rank on a stage, for the package's own engine.

    config is whole, job its Job. Bytes of sums over the tensor group are given where activations
    are not cut along the sequence; peak bytes in 16 bits.
    """
    model, m, size = job.model, job.m, SIZES[config.train.dtype]
    rows = model.seq * job.micro_batch
    tensor = size * rows * model.hidden
    sides = (stage > 0) + (stage < job.pp - 1)
    found = {
        "parameters": parameters(job)[stage],
        "FLOPs a micro-batch": flops.stages(
            model, job.pp, job.virtual, job.tp, job.micro_batch, job.recompute
        )[stage],
    }
    if job.pp > 1 and job.virtual == 1:  # activations one way, gradients the other
        found["bytes sent to other stages"] = sides * m * tensor // job.tp
    if job.tp > 1 and not job.sequence_parallel:
        sums = job.layers[stage] * (6 if job.recompute == "full" else 4)
        total = m * sums * tensor
        if stage == 0:
            total += m * tensor  # of the embedding
        if stage == job.pp - 1:  # before the logits; largest logit, and two sums, of each token
            total += m * (tensor + rows * (size + 2 * max(4, size)))
        found["bytes summed over tensor ranks"] = total + max(4, size)  # and the norm
    if size == 2:
        soft, hw = stack("megatron-2022"), hardware("a100-80gb")  # 4 bytes a gradient, as here
        found["peak bytes"] = memory(job, hw, soft, [stage])[0].allocated * GIB
    return found
