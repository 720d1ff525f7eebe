"""The clock: the papers' bubbles, activations in flight, no deadlock, and deadlocks found."""

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
)
from minimtnlg.parallel.simulate import simulate


def every(forward_only=False):
    for p in range(1, 9):
        for m in range(1, 17):
            yield GPipe(pp=p, m=m, forward_only=forward_only)
            yield OneFOneB(pp=p, m=m, forward_only=forward_only)
            for v in range(1, 5) if p > 1 and m % p == 0 else ():
                yield Interleaved(pp=p, m=m, virtual=v, forward_only=forward_only)


TRAINING = list(every())


@functools.cache
def simulated(schedule, backward):
    return simulate(schedule, forward=1, backward=backward)


@pytest.mark.parametrize("backward", [1, 2, 3])
def test_bubble_of_equal_stages(backward):
    """Full recomputation makes a backward pass three forward passes long; and all is exact."""
    for schedule in TRAINING:
        done = simulated(schedule, backward)
        p, m, v = schedule.pp, schedule.m, schedule.virtual
        assert done.deadlock == ""
        assert done.total == (m * v + p - 1) * (1 + backward), schedule
        assert done.idle == [(p - 1) * (1 + backward)] * p
        assert done.idle_over_ideal == pytest.approx((p - 1) / (m * v))
        assert done.idle_over_total == pytest.approx(1 - m * v / (m * v + p - 1))


def test_activations_in_flight():
    for schedule in TRAINING:
        p, m, v = schedule.pp, schedule.m, schedule.virtual
        for stage, most in enumerate(simulated(schedule, 2).in_flight):
            if isinstance(schedule, GPipe):
                assert most == m
            elif isinstance(schedule, OneFOneB):
                assert most == min(m, p - stage)
            else:
                assert most == min(2 * (p - stage - 1) + (v - 1) * p + 1, v * m)


def test_forward_only_keeps_nothing():
    for schedule in every(forward_only=True):
        done = simulate(schedule)
        assert done.deadlock == "" and done.in_flight == [0] * schedule.pp
        assert done.total == schedule.m * schedule.virtual + schedule.pp - 1


def test_no_deadlock_where_every_exchange_blocks():
    stalls = 0
    for schedule in TRAINING:
        done = simulate(schedule, blocking=True)
        assert done.deadlock == ""
        ideal = (schedule.m * schedule.virtual + schedule.pp - 1) * 3
        if isinstance(schedule, Interleaved):
            stalls += done.total > ideal
        else:  # nobody has work to do while an exchange blocks
            assert done.total == ideal
    assert stalls  # the reason for Exchange to let the stage go on


@settings(max_examples=60, deadline=None)
@given(
    schedule=st.sampled_from(TRAINING), seed=st.integers(0, 2**32), transfer=st.floats(0, 2),
    blocking=st.booleans(),
)
def test_time_line_of_uneven_stages(schedule, seed, transfer, blocking):
    """Whatever the durations: no deadlock, nothing at the same time, nothing before its input."""
    draw, count = random.Random(seed), schedule.pp * schedule.virtual
    took = {kind: [draw.uniform(0.1, 5) for _ in range(count)] for kind in (Forward, Backward)}
    done = simulate(
        schedule, took[Forward], took[Backward], transfer=transfer, blocking=blocking
    )
    assert done.deadlock == ""
    ends = {}
    for stage, spans in enumerate(done.computing):
        for start, end, op in spans:
            x = op.chunk * schedule.pp + stage
            assert end - start == pytest.approx(took[type(op)][x])
            ends[type(op), op.micro_batch, x] = (start, end)
    for (kind, i, x), (start, _) in ends.items():
        inputs = []
        if kind is Forward and x > 0:
            inputs = [(ends[Forward, i, x - 1][1], transfer)]
        elif kind is Backward:
            inputs = [(ends[Forward, i, x][1], 0)]
            inputs += [(ends[Backward, i, x + 1][1], transfer)] if x < count - 1 else []
        for ended, travelled in inputs:
            assert start >= ended + travelled - 1e-9
    for spans in done.computing + done.exchanging:
        for before, after in zip(spans, spans[1:], strict=False):
            assert after.start >= before.end - 1e-9
    for stage, spans in enumerate(done.exchanging):
        assert [x for *_, x in spans] == [x for x in schedule[stage] if isinstance(x, Exchange)]


def test_one_transfer_by_hand():
    """Two stages, one micro-batch: forward, transfer, forward, backward, transfer, backward."""
    done = simulate(OneFOneB(pp=2, m=1), [1, 2], [3, 4], transfer=0.5)
    assert done.total == 1 + 0.5 + 2 + 4 + 0.5 + 3
    assert [(start, end) for start, end, _ in done.computing[1]] == [(1.5, 3.5), (3.5, 7.5)]
    assert done.idle == [7, 5]


def test_mtnlg():
    """280 nodes: 240 micro-batches through 35 stages keep the GPUs busy 87.6 % of the time."""
    done = simulate(OneFOneB(pp=35, m=240))
    assert 1 - done.idle_over_total == pytest.approx(0.876, abs=5e-4)
    assert done.in_flight == [35 - stage for stage in range(35)]


FIRST, DOWN, BACK = Message(0, 0, 1), Message(1, 0, 1), Message(0, 1, 0)


def send(*messages):
    return Exchange(messages, ())


def receive(*messages):
    return Exchange((), messages)


def steady_state(of_stage_0, of_stage_1):
    """Two stages that meet once: one has an activation to send, the other a gradient."""
    last = Message(1, source=1, target=0)
    return [
        [Forward(0), send(FIRST), Forward(1), *of_stage_0, Backward(0), receive(last), Backward(1)],
        [receive(FIRST), Forward(0), Backward(0), *of_stage_1, Forward(1), Backward(1), send(last)],
    ]


@pytest.mark.parametrize("blocking", [False, True])
def test_unpaired_transfers_deadlock(blocking):
    both = steady_state([Exchange((DOWN,), (BACK,))], [Exchange((BACK,), (DOWN,))])
    in_turn = steady_state([send(DOWN), receive(BACK)], [receive(DOWN), send(BACK)])
    for stages in both, in_turn:
        assert simulate(stages, blocking=blocking).deadlock == ""
    sends_first = steady_state([send(DOWN), receive(BACK)], [send(BACK), receive(DOWN)])
    assert simulate(sends_first, blocking=blocking).deadlock == (
        "deadlock: "
        "stage 0 waits for stage 1 to receive the activation of micro-batch 1 for virtual stage 1; "
        "stage 1 waits for stage 0 to receive the gradient of micro-batch 0 for virtual stage 0"
    )
    receives_first = steady_state([receive(BACK), send(DOWN)], [receive(DOWN), send(BACK)])
    assert "stage 0 waits for stage 1 to send the gradient" in simulate(receives_first).deadlock
    # Messages of one exchange don't wait for each other, so the neighbour may take them in turn.
    half = steady_state([send(DOWN), receive(BACK)], [Exchange((BACK,), (DOWN,))])
    assert simulate(half, blocking=blocking).deadlock == ""


def test_a_circle_of_three():
    def message(i, x):
        return Message(i, source=x, target=x + 1)

    into = {x: [receive(message(i, x)) for i in range(3)] for x in range(3)}
    out = {x: [send(message(i, x)) for i in range(3)] for x in range(3)}
    stages = [
        [Forward(0), out[0][0], Forward(1), out[0][1], Forward(2), out[0][2], into[2][0]],
        [into[0][0], Forward(0), out[1][0], into[0][1], Forward(1), out[1][1], into[0][2]],
        [into[1][0], Forward(0), out[2][0], into[1][1], Forward(1)],
    ]
    stages[0].append(Forward(0, chunk=1))
    circle = simulate(stages).deadlock.split("; ")
    assert [text.split(" to ")[0] for text in circle] == [
        "deadlock: stage 0 waits for stage 1",
        "stage 1 waits for stage 2",
        "stage 2 waits for stage 0",
    ]


def test_sending_before_receiving_breaks_the_schedules_of_a_ring():
    """Common transfers are one instruction for a reason: split them and most rings stand still."""
    found = 0
    rings = [s for s in TRAINING if isinstance(s, Interleaved) and s.virtual > 1]
    for schedule in rings:
        stages = []
        for instructions in schedule:
            stages.append([])
            for op in instructions:
                if isinstance(op, Exchange) and op.sends and op.receives:
                    stages[-1] += [send(*op.sends), receive(*op.receives)]
                else:
                    stages[-1].append(op)
        found += simulate(stages).deadlock != ""
    assert found > len(rings) / 2, found


@pytest.mark.parametrize(
    "stages, message",
    [
        ([[]], "computes nothing"),
        ([[Forward(0)], [Forward(0)]], "stage 1: Forward.* comes before the activation of micro-b"),
        ([[Forward(0), Forward(0)]], r"stage 0: Forward.* comes twice"),
        ([[Backward(0)]], r"stage 0: Backward.* comes before Forward"),
        ([[send(DOWN), Forward(1)], [receive(DOWN), Forward(1)]], "stage 0: Exchange.* before the"),
        ([[Forward(1), Free((DOWN,))], []], "stage 0: Free.* before sending Message"),
        ([[Forward(1), send(DOWN)], []], "from stage 0 to stage 1: one sends the activation of "
         "micro-batch 1 for virtual stage 1, the other receives nothing"),
        ([[Forward(0)], [receive(DOWN), Forward(1)]], "one sends nothing, the other receives the"),
        ([[Forward(0), Forward(1), send(FIRST), send(DOWN)], [receive(DOWN), receive(FIRST)]],
         "transfer 0 from stage 0 to stage 1: one sends the activation of micro-batch 0"),
    ],
)  # fmt: skip
def test_instructions_that_are_wrong_on_any_network(stages, message):
    with pytest.raises(InputError, match=message):
        simulate(stages)


def test_durations_for_each_virtual_stage():
    with pytest.raises(InputError, match="forward lists 2 durations for 4 virtual stages"):
        simulate(Interleaved(pp=2, m=2, virtual=2), forward=[1, 1])
    with pytest.raises(InputError, match="backward lasts 0: durations are above 0"):
        simulate(OneFOneB(pp=2, m=2), backward=[1, 0])


def test_text():
    assert str(simulate(OneFOneB(pp=2, m=2))) == (
        "stage 0  F0 F1 ......B0--- ...B1---\n"
        "stage 1  ...F0 B0--- F1 B1--- ......\n"
        "         F0: forward of micro-batch 0; B: backward; .: idle\n"
        "         total 9, idle 50.0% of the ideal time; in flight at most 2, 1"
    )
    letters = simulate(Interleaved(pp=2, m=2, virtual=2)).text(width=40)
    assert letters.splitlines()[:2] == ["stage 0  aabb..BB.BBAAAA", "stage 1  .aabBBbBBAAAA.."]
    cut = simulate(GPipe(pp=2, m=16)).text(width=40).splitlines()[:2]
    assert [len(line) for line in cut] == [40, 40] and all(line.endswith(">>>") for line in cut)
    stuck = steady_state([send(DOWN), receive(BACK)], [send(BACK), receive(DOWN)])
    assert simulate(stuck).text().splitlines()[-1].startswith("deadlock: stage 0")
