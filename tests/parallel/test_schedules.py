"""Schedules over all p <= 8, m <= 16, v <= 4: complete, causal, paired, and Megatron's order."""

import __future__

import ast
import importlib.util
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from minimtnlg.errors import InputError
from minimtnlg.parallel.schedules import (
    Backward,
    Exchange,
    Forward,
    Free,
    GPipe,
    Interleaved,
    Message,
    OneFOneB,
    Schedule,
)


def every(forward_only):
    for p in range(1, 9):
        for m in range(1, 17):
            yield GPipe(pp=p, m=m, forward_only=forward_only)
            yield OneFOneB(pp=p, m=m, forward_only=forward_only)
            for v in range(1, 5) if p > 1 and m % p == 0 else ():
                yield Interleaved(pp=p, m=m, virtual=v, forward_only=forward_only)


TRAINING, FORWARD_ONLY = list(every(False)), list(every(True))


def computing(instructions):
    return [op for op in instructions if isinstance(op, Forward | Backward)]


def test_every_pass_is_made_once():
    for schedule in TRAINING + FORWARD_ONLY:
        kinds = [Forward] if schedule.forward_only else [Forward, Backward]
        passes = {
            kind(i, chunk): 1
            for kind in kinds
            for i in range(schedule.m)
            for chunk in range(schedule.virtual)
        }
        assert len(schedule) == schedule.pp
        for instructions in schedule:
            assert Counter(computing(instructions)) == passes, schedule


def test_nothing_is_used_before_it_is_there():
    """Replayed with virtual stages written out, and without the rules of the package."""
    for schedule in TRAINING + FORWARD_ONLY:
        last = schedule.pp * schedule.virtual - 1
        for stage, instructions in enumerate(schedule):
            have, sent = set(), set()
            for op in instructions:
                match op:
                    case Exchange(sends, receives):
                        assert len(sends) <= 1 and sends + receives
                        assert len({m.source % schedule.pp for m in receives}) == len(receives)
                        for message in sends:
                            assert (message.kind, message.micro_batch, message.source) in have
                        assert not sent, "the previous exchange was not freed"
                        sent = set(sends)
                        have |= {("got " + m.kind, m.micro_batch, m.target) for m in receives}
                    case Free(sends):
                        assert set(sends) == sent
                        sent = set()
                    case Forward(i, chunk):
                        x = chunk * schedule.pp + stage
                        assert x == 0 or ("got activation", i, x) in have
                        have |= {("activation", i, x)}
                    case Backward(i, chunk):
                        x = chunk * schedule.pp + stage
                        assert ("activation", i, x) in have
                        assert x == last or ("got gradient", i, x) in have
                        assert not any(m.micro_batch == i and m.source == x for m in sent)
                        have |= {("gradient", i, x)}
            assert not sent, "the last exchange was not freed"


def test_each_send_has_its_receive_in_the_same_order():
    for schedule in TRAINING + FORWARD_ONLY:
        sent, received = defaultdict(list), defaultdict(list)
        for stage, instructions in enumerate(schedule):
            for op in instructions:
                if isinstance(op, Exchange):
                    for m in op.sends:
                        assert m.source % schedule.pp == stage
                        sent[stage, m.target % schedule.pp].append(m)
                    for m in op.receives:
                        assert m.target % schedule.pp == stage
                        received[m.source % schedule.pp, stage].append(m)
        assert sent == received
        messages = [message for channel in sent.values() for message in channel]
        ways = 1 if schedule.forward_only else 2
        count = schedule.m * (schedule.pp * schedule.virtual - 1) * ways
        assert len(messages) == len(set(messages)) == count


def test_few_received_tensors_wait_at_a_stage():
    """What is received early takes memory: at most one tensor, two in 1F1B, four interleaved."""
    most = defaultdict(int)
    for schedule in TRAINING:
        for stage, instructions in enumerate(schedule):
            waiting = 0
            for op in instructions:
                if isinstance(op, Exchange):
                    waiting += len(op.receives)
                    most[type(schedule)] = max(most[type(schedule)], waiting)
                elif not isinstance(op, Free):
                    x = op.chunk * schedule.pp + stage
                    end = 0 if isinstance(op, Forward) else schedule.pp * schedule.virtual - 1
                    waiting -= x != end
            assert waiting == 0
    assert most == {GPipe: 1, OneFOneB: 2, Interleaved: 4}


def written(instructions):
    passes = computing(instructions)
    return " ".join(f"{type(op).__name__[0]}{op.micro_batch}{'abcd'[op.chunk]}" for op in passes)


def test_orders_by_hand():
    assert written(GPipe(pp=4, m=3)[2]) == "F0a F1a F2a B0a B1a B2a"
    four = OneFOneB(pp=4, m=5)
    assert written(four[0]) == "F0a F1a F2a F3a B0a F4a B1a B2a B3a B4a"
    assert written(four[2]) == "F0a F1a B0a F2a B1a F3a B2a F4a B3a B4a"
    assert written(four[3]) == "F0a B0a F1a B1a F2a B2a F3a B3a F4a B4a"
    assert written(OneFOneB(pp=4, m=2)[0]) == "F0a F1a B0a B1a"
    two = Interleaved(pp=2, m=4, virtual=2)
    assert written(two[1]) == (
        "F0a F1a F0b B0b F1b B1b F2a B0a F3a B1a F2b B2b F3b B3b B2a B3a"
    )


def test_one_message_by_hand():
    """Chunk 0 of stage 1 goes on to chunk 1 of stage 0: the stages form a ring."""
    stage = Interleaved(pp=2, m=2, virtual=2)[0]
    assert stage[:4] == (
        Forward(0, 0),
        Exchange((Message(0, source=0, target=1),), ()),
        Forward(1, 0),
        Free((Message(0, source=0, target=1),)),
    )
    assert stage[4].receives == (Message(0, source=1, target=2),)
    assert [m.kind for m in stage[-2].receives] == ["gradient"]


def megatron_functions(*names):
    """These functions of the installed Megatron-Core, without the seconds that its import takes."""
    try:
        found = importlib.util.find_spec("megatron.core")
    except ModuleNotFoundError:
        found = None
    if not found:
        pytest.skip("megatron-core is not installed")
    source = Path(found.origin).with_name("pipeline_parallel") / "schedules.py"
    tree = ast.parse(source.read_text())
    tree.body = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name in names]
    namespace = {}
    flags = __future__.annotations.compiler_flag
    exec(compile(tree, str(source), "exec", flags=flags), namespace)
    return [namespace[name] for name in names]


def test_order_is_megatrons():
    table, counts = megatron_functions("get_schedule_table", "get_pp_rank_microbatches")
    for schedule in TRAINING + FORWARD_ONLY:
        if isinstance(schedule, GPipe):
            continue  # Megatron has none
        p, v = schedule.pp, schedule.virtual
        virtual = v if isinstance(schedule, Interleaved) else None
        turns = table(schedule.m, v, p)
        forwards = [Forward(i, chunk) for i, chunk in turns]
        backwards = [Backward(i, v - 1 - chunk) for i, chunk in turns]
        for stage, instructions in enumerate(schedule):
            group = SimpleNamespace(size=lambda p=p: p, rank=lambda stage=stage: stage)
            place = SimpleNamespace(pp_group=group, virtual_pipeline_model_parallel_size=virtual)
            total, _, ahead, steady = counts(
                schedule.m, v, p, schedule.forward_only, p2p_communicator=place
            )
            order = forwards[:ahead]
            for k in range(steady):
                order += [forwards[ahead + k], backwards[k]]
            order += [] if schedule.forward_only else backwards[steady:]
            assert total == len(forwards)
            assert computing(instructions) == order, (schedule, stage)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Interleaved(pp=4, m=6, virtual=2), "groups of 4, so 4 or 8 would fit; .*1f1b"),
        (lambda: Interleaved(pp=4, m=3, virtual=2), "groups of 4, so 4 would fit"),
        (lambda: Interleaved(pp=1, m=4, virtual=2), "parallel.pp=1: .* two stages or more"),
        (lambda: Interleaved(pp=2, m=4, virtual=0), "parallel.virtual=0: .* from 1"),
        (lambda: OneFOneB(pp=0, m=4), "parallel.pp=0: .* from 1"),
        (lambda: GPipe(pp=2, m=0), "0 micro-batches: .* one or more"),
        (lambda: GPipe(pp=2, m=2.0), "2.0 micro-batches"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_impossible_order_is_refused_and_does_not_hang():
    class BackwardFirst(Schedule):
        def order(self, stage):
            passes = [Forward(0), Backward(0)]
            return passes if stage else passes[::-1]

    with pytest.raises(InputError, match=r"stage 0 would wait forever at Backward\(micro_batch=0"):
        BackwardFirst(pp=2, m=1)[0]


def test_no_torch():
    code = "import sys, minimtnlg.parallel.simulate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
