"""What is only averaged, in a fragment that has its turn every few clocks."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, Merge, StartClock
from jax_ssp.controller.commands import StartAhead
from jax_ssp.controller.weight import shares_of
from tests.runtimes.test_statistics import PARAMS, SIZE, TRACKER, numbers

WORKERS, STEPS = 3, 2
FRAGMENTS = ssp.Fragments(paths=(("w",), ("z",), ("mean",)))
ITS = 2  # the fragment of the statistics


class Followed:
    """The statistics of a run: those of each version, and what each worker has come to.

    A worker's are its own until they are adopted, and enter a tree by the rule of `layout.py`.
    """

    def __init__(self, tape, alpha):
        self.alpha, self.versions = alpha, [np.zeros(SIZE)]
        self.data = {worker: numbers(worker) for worker in range(WORKERS)}
        self.own, self.base, self.ahead, self.left, self.pushed = {}, {}, {}, {}, {}
        for _, event, commands in tape:
            if isinstance(event, DeltaReady):
                self.steps(event.worker, self.left[event.worker])
                own, base = self.own[event.worker], self.base[event.worker]
                self.pushed[event.worker, event.clock] = own, own - base
            for command in commands:
                if isinstance(command, Merge):
                    self.merge(command)
                elif isinstance(command, StartAhead):
                    self.ahead[command.worker] = command.clock
                elif isinstance(command, StartClock):
                    self.start(command)

    def steps(self, worker, number):
        for _ in range(number):
            batch = next(self.data[worker]).astype(float)
            self.own[worker] = self.own[worker] + 0.7 * (batch - self.own[worker])

    @staticmethod
    def entered(old, values, shares):
        among = [old, *(value for value, _ in values)]
        moved = old + sum(share * move for share, (_, move) in zip(shares, values, strict=True))
        return np.clip(moved, np.min(among, 0), np.max(among, 0))

    def merge(self, merge):
        its = [delta for delta in merge.deltas if delta.clock % FRAGMENTS.count == ITS]
        values = [self.pushed[delta.worker, delta.clock] for delta in its]
        shares = shares_of("mean", [delta.weight for delta in its], merge.num_workers)
        self.versions.append(self.entered(self.versions[-1], values, shares))

    def start(self, start):
        worker, read = start.worker, self.versions[start.version]
        for stamp in start.pending:
            if stamp % FRAGMENTS.count == ITS:
                read = self.entered(read, [self.pushed[worker, stamp]], [start.weight])
        if worker not in self.own:
            self.own[worker], self.base[worker], self.left[worker] = read, read, STEPS
            return
        ran = int(self.ahead.get(worker) == start.clock)
        before = self.own[worker]
        self.steps(worker, ran)
        self.left[worker] = STEPS - ran
        if (start.clock - 1) % FRAGMENTS.count == ITS:
            own, self.base[worker] = self.own[worker], read
            if self.alpha is None:
                self.own[worker] = self.entered(read, [(own, own - before)], [1.0])
            else:
                self.own[worker] = self.alpha * own + (1 - self.alpha) * read


@pytest.mark.parametrize(
    ("policy", "overlap", "alpha"),
    [
        (ssp.SSP(2), 1, None),
        pytest.param(ssp.BSP(), 0, None, marks=pytest.mark.slow),
        pytest.param(ssp.SSP(2, "lazy"), 0, None, marks=pytest.mark.slow),
        pytest.param(ssp.KAsync(2), 1, 0.5, marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_statistics_have_their_turn(policy, overlap, alpha):
    result = ssp.train(
        TRACKER,
        params=PARAMS,
        data=numbers,
        policy=policy,
        runtime=ssp.Virtual(WORKERS, ssp.delays.Exponential(), seed=2),
        num_clocks=9,
        local_steps=STEPS,
        overlap=overlap,
        adopt="rebase" if alpha is None else ssp.Mix(alpha),
        fragments=FRAGMENTS,
    )
    found = Followed(result.tape, alpha).versions[-1]
    np.testing.assert_allclose(result.params["mean"], found, rtol=1e-4, atol=1e-3)
    assert np.abs(found).max() > 0.01
