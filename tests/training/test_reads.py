"""A worker reads its own writes on top of a version, each once.

Worker w pushes 2 ** (4 w + c) in clock c, so what it reads says what is in it.
"""

import numpy as np
import pytest

import jax_ssp as ssp
from tests.helpers.training import virtual


class Told:
    """A step whose delta is the batch, and whose metrics are the parameters it was given."""

    init = staticmethod(lambda params: ())
    averaged = staticmethod(lambda params: {"trained": False, "averaged": True})

    def __call__(self, params, worker_state, batch, key):
        return {"trained": batch, "averaged": batch}, worker_state, params


def averaged_reads(tape):
    """What `Told` reads of what is averaged, by the rule for statistics: all moves are upwards."""
    workers = tape.header["num_workers"]
    versions, read = [0.0], {}

    def push(worker, clock):
        move = 2.0 ** (4 * worker + clock)
        return move, read[worker, clock] + move

    for _, _, commands in tape:
        for command in commands:
            if type(command).__name__ == "Merge":
                moves, values = zip(*(push(d.worker, d.clock) for d in command.deltas), strict=True)
                share = 1 / max(workers, len(moves))  # the same for all of these weights
                versions.append(min(versions[-1] + share * sum(moves), max(versions[-1], *values)))
            elif type(command).__name__ == "StartClock":
                local = versions[command.version]
                for stamp in command.pending:
                    move, value = push(command.worker, stamp)
                    local = min(local + move / workers, max(local, value))
                read[command.worker, command.clock] = local
    return read, versions[-1]


def told(result):
    """What each clock has read, by (worker, clock): of what is trained, and of what is averaged."""
    return (
        {(row["worker"], row["clock"]): row["metrics"][name] for row in result.history}
        for name in ("trained", "averaged")
    )


def trained_by_two(policy, slow, weight):
    """Two workers of 1 and `slow` seconds a clock, whose deltas are powers of 2."""
    return ssp.train(
        Told(),
        params={"trained": np.float32(0), "averaged": np.float32(0)},
        data=lambda worker: (np.float32(2 ** (4 * worker + clock)) for clock in range(4)),
        policy=policy,
        runtime=virtual(1, slow),
        num_clocks=4,
        weight=weight,
    )


@pytest.mark.parametrize(("weight", "factor"), [("sum", 1.0), ("mean", 0.5), (3, 3.0)])
def test_a_worker_reads_its_own_writes_on_top_of_an_old_snapshot(weight, factor):
    # Worker 0 takes 1 s a clock and worker 1 takes 2.5 s. Lazy at bound 2: worker 0 keeps version 0
    # for clocks 0, 1 and 2. Clock 3 needs coverage 1, which is there only at 2.5 s. At 3 s worker 0
    # has done clock 2; it adopts what is there: its own 1, 2, 4 and worker 1's 16.
    result = trained_by_two(ssp.SSP(2, "lazy"), 2.5, weight)
    read, averaged = told(result)
    base = {(row["worker"], row["clock"]): row["base_version"] for row in result.history}
    expected = {
        (0, 0): (0, 0), (0, 1): (0, 1), (0, 2): (0, 1 + 2), (0, 3): (4, 1 + 2 + 4 + 16),
        (1, 0): (0, 0), (1, 1): (0, 16), (1, 2): (0, 16 + 32),
        # At 7.5 s worker 0 is done; coverage 1 is needed, and version 0 covers none.
        (1, 3): (7, 15 + 16 + 32 + 64),
    }  # fmt: skip
    assert base == {place: version for place, (version, _) in expected.items()}
    assert read == {place: factor * total for place, (_, total) in expected.items()}
    assert float(result.params["trained"]) == factor * 255
    assert (averaged, float(result.params["averaged"])) == averaged_reads(result.tape)


class LateMerge(ssp.Policy):
    """Merges four at a time, so that a worker adopts while its own are still on their way."""

    def ready(self, view):
        waiting = tuple(view.buffered)
        return ssp.policies.Decision(merge=waiting[:4] if len(waiting) >= 4 else ())


@pytest.mark.parametrize(("weight", "factor"), [("sum", 1.0), ("mean", 0.5), (3, 3.0)])
def test_a_worker_reads_its_own_writes_that_are_still_on_their_way(weight, factor):
    # Worker 0 at 1, 2, 3, 4 s, worker 1 at 1.75, 3.5, .. s; merged at 3 s: 1, 16, 2, 4.
    result = trained_by_two(LateMerge(), 1.75, weight)
    read, averaged = told(result)
    expected = {
        (0, 0): 0,
        (0, 1): 1,
        (0, 2): 1 + 2,
        (0, 3): 1 + 16 + 2 + 4,
        (1, 0): 0,
        (1, 1): 16,
        (1, 2): 1 + 16 + 2 + 4 + 32,
        (1, 3): 1 + 16 + 2 + 4 + 32 + 64,
    }
    assert read == {place: factor * total for place, total in expected.items()}
    assert float(result.params["trained"]) == factor * 255
    assert (averaged, float(result.params["averaged"])) == averaged_reads(result.tape)
    ssp.check_contract(result.tape)
