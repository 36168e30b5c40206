"""What the papers say, each as a few lines around a heap; nothing of it is taken from our code.

A simulation gives a log, and so does a tape of ours (`log_of`), in the same words:
("start", worker, clock, version), ("finish", worker, clock, version), ("merge", deltas),
("drop", worker, clock), ("cancel", worker, clock), each behind the time of it; a delta is (worker,
clock, version). Delays come from a table, so both worlds draw the same, and no two events fall on
one moment by chance.
"""

import heapq
import itertools
import random

import jax.numpy as jnp
import numpy as np

import jax_ssp as ssp

WORKERS = 6


def exponential(workers=WORKERS, clocks=2000, seed=0):
    """A table of delays: seconds of (worker, clock)."""
    return np.random.default_rng(seed).exponential(size=(workers, clocks))


def heavy(workers=WORKERS, clocks=2000, seed=0):
    return np.random.default_rng(seed).lognormal(sigma=1.5, size=(workers, clocks))


def unequal(workers=WORKERS, clocks=2000):
    """Workers of fixed speeds, whose whole multiples never meet."""
    return np.sqrt([2, 3, 5, 7, 11, 13, 17, 19][:workers])[:, None] * np.ones(clocks)


TABLES = {"exponential": exponential(), "heavy": heavy(), "unequal": unequal()}


def virtual(table, **others):
    """Our world, with the delays of a table."""

    def delay(worker, clock, steps, rng):
        return float(table[worker, clock])

    return ssp.Virtual(len(table), delay, **others)


def clockwork(policy, table, **others):
    return ssp.train(policy=policy, runtime=virtual(table, compute=False), **others)


def log_of(tape):
    log = []
    for now, event, commands in tape:
        if type(event).__name__ == "DeltaReady":
            log.append((now, "finish", event.worker, event.clock, event.version))
        for command in commands:
            match type(command).__name__:
                case "StartClock":
                    worker, clock, version = command.worker, command.clock, command.version
                    log.append((now, "start", worker, clock, version))
                case "Merge":
                    log.append((now, "merge", tuple(tuple(d[:3]) for d in command.deltas)))
                case "Drop" | "Cancel":
                    log.append((now, type(command).__name__.lower(), *command[:2]))
    return log


def until_last_merge(log, last):
    """What happens before the last merge, and that; sorted, since within a moment order is free."""
    return sorted(row for row in log if row[0] < last or (row[0] == last and row[1] == "merge"))


class Cluster:
    """Workers that take table[worker, clock] seconds for a clock, and a log."""

    def __init__(self, table):
        self.table, self.size = table, len(table)
        self.now, self.version, self.merges = 0.0, 0, 0
        self.done = [0] * self.size  # clocks finished or cancelled
        self.running = {}  # worker -> the version it computes on
        self.log = []
        self._heap = []
        self.start(*range(self.size))

    def start(self, *workers):
        for worker in workers:
            clock = self.done[worker]
            self.running[worker] = self.version
            self.log.append((self.now, "start", worker, clock, self.version))
            heapq.heappush(self._heap, (self.now + self.table[worker, clock], worker, clock))

    def next_time(self):
        """When the next clock ends; one that was cancelled does not."""
        while self._heap and self._heap[0][2] != self.done[self._heap[0][1]]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else np.inf

    def wait(self):
        """Wait for whoever finishes next; gives its delta."""
        self.now = self.next_time()
        _, worker, clock = heapq.heappop(self._heap)
        delta = worker, clock, self.running.pop(worker)
        self.done[worker] += 1
        self.log.append((self.now, "finish", *delta))
        return delta

    def merge(self, deltas):
        self.version += 1
        self.log.append((self.now, "merge", tuple(deltas)))

    def drop(self, delta):
        self.log.append((self.now, "drop", *delta[:2]))

    def cancel(self, *workers):
        for worker in workers:
            del self.running[worker]
            self.log.append((self.now, "cancel", worker, self.done[worker]))
            self.done[worker] += 1


def asp(cluster, versions):
    while cluster.version < versions:
        delta = cluster.wait()
        cluster.merge([delta])
        cluster.start(delta[0])


def bsp(cluster, versions):
    while cluster.version < versions:
        cluster.merge(sorted(cluster.wait() for _ in range(cluster.size)))
        cluster.start(*range(cluster.size))


def ssp_(cluster, versions, bound):
    """Ho et al. 2013: the fastest is at most `bound` clocks ahead of the slowest at a start."""
    waiting = set()
    while cluster.version < versions:
        delta = cluster.wait()
        cluster.merge([delta])
        waiting.add(delta[0])
        free = {w for w in waiting if cluster.done[w] - min(cluster.done) <= bound}
        cluster.start(*free)
        waiting -= free


def k_sync(cluster, versions, k):
    """Dutta et al. 2018, section 2: the first K of P; the remaining are cancelled."""
    while cluster.version < versions:
        cluster.merge(sorted(cluster.wait() for _ in range(k)))
        cluster.cancel(*cluster.running)
        cluster.start(*range(cluster.size))


def k_batch_sync(cluster, versions, k):
    """The same: K mini-batches at the same parameters, of whomever; the remaining are cancelled."""
    while cluster.version < versions:
        batch = []
        while len(batch) < k:
            batch.append(cluster.wait())
            if len(batch) < k:
                cluster.start(batch[-1][0])
        cluster.merge(batch)
        cluster.cancel(*cluster.running)
        cluster.start(*range(cluster.size))


def k_async(cluster, versions, k):
    """The same: the first K of P, each of which waits for the new parameters; the rest go on."""
    while cluster.version < versions:
        batch = [cluster.wait() for _ in range(k)]
        cluster.merge(batch)
        cluster.start(*(worker for worker, _, _ in batch))


def k_batch_async(cluster, versions, k):
    """The same: every K mini-batches; who has given one reads what is there and goes on.

    It is Algorithm 1 of FedBuff (Nguyen et al. 2022) too, and n-softsync (Zhang et al. 2016) with
    K = floor(workers / n).
    """
    while cluster.version < versions:
        batch = []
        while len(batch) < k:
            batch.append(cluster.wait())
            if len(batch) == k:
                cluster.merge(batch)
            cluster.start(batch[-1][0])


def backup(cluster, versions, b):
    """Chen et al. 2016: the first N of N + b gradients of the newest step; late ones are dropped.

    Who was late fetches the newest parameters, and takes part in what goes on there.
    """
    batch = []
    while cluster.version < versions:
        delta = cluster.wait()
        if delta[2] < cluster.version:
            cluster.drop(delta)
            cluster.start(delta[0])
            continue
        batch.append(delta)
        if len(batch) == cluster.size - b:
            cluster.merge(batch)
            cluster.start(*(worker for worker, _, _ in batch))
            batch = []


def ringmaster(cluster, versions, delay):
    """Maranjyan et al. 2025, Algorithm 4. `delays` counts updates since a worker got its point."""
    delays = [0] * cluster.size
    while cluster.version < versions:
        delta = cluster.wait()
        worker = delta[0]
        if delays[worker] < delay:
            cluster.merge([delta])
            delays = [each + 1 for each in delays]
        else:
            cluster.drop(delta)
        delays[worker] = 0
        cluster.start(worker)


def ringmaster_stops(cluster, versions, delay):
    """Algorithm 5 of the same: whose delay comes to R stops, and starts at the newest point."""
    delays = [0] * cluster.size
    while cluster.version < versions:
        delta = cluster.wait()
        cluster.merge([delta])
        delays = [each + 1 for each in delays]
        delays[delta[0]] = 0
        late = [worker for worker in cluster.running if delays[worker] >= delay]
        cluster.cancel(*late)
        cluster.start(*late, delta[0])
        for worker in late:
            delays[worker] = 0


def rennala(cluster, versions, batch):
    """Tyurin, Richtarik 2023, Method 4: gradients of an earlier iteration are ignored."""
    taken = []
    while cluster.version < versions:
        delta = cluster.wait()
        if delta[2] == cluster.version:
            taken.append(delta)
        else:
            cluster.drop(delta)
        if len(taken) == batch:
            cluster.merge(taken)
            taken = []
        cluster.start(delta[0])


def quorum(cluster, versions, k, grace, apart=False):
    """K deltas, then a window of `grace` seconds in which more may come.

    `apart`: each is a server step of its own (Liu et al. 2024, section 5.1); who is in the window
    goes on from the last.
    """
    batch = []
    while cluster.version < versions:
        while len(batch) < k:
            batch.append(cluster.wait())
        deadline = cluster.now + grace
        while cluster.running and cluster.next_time() <= deadline and grace:
            batch.append(cluster.wait())
        if cluster.running:
            cluster.now = deadline
        for part in [[delta] for delta in batch] if apart else [batch]:
            cluster.merge(part)
        cluster.start(*(worker for worker, _, _ in batch))
        batch = []


def dssp(cluster, versions, lower, upper):
    """Zhao et al. 2019, Algorithms 1 (server) and 2 (controller), as `DSSP` describes them.

    `extra` is r_p of the paper. A grant ends with its last clock, or once its worker is back within
    the lower bound.
    """
    pushes = [[] for _ in range(cluster.size)]
    extra, blocked = {}, set()

    def interval(worker):
        return pushes[worker][-1] - pushes[worker][-2]

    def controller(worker):
        others = [w for w in range(cluster.size) if w != worker]
        least = min(cluster.done[w] for w in others)
        slowest = [w for w in others if cluster.done[w] == least]
        if any(len(pushes[w]) < 2 for w in (worker, *slowest)):
            return 0
        slow = max(slowest, key=lambda w: pushes[w][-1] + interval(w))
        mine = [pushes[worker][-1] + r * interval(worker) for r in range(upper - lower + 1)]
        theirs = [pushes[slow][-1] + k * interval(slow) for k in range(1, upper - lower + 2)]
        gaps = [(abs(m - t), r) for r, m in enumerate(mine) for t in theirs]
        return min(gaps)[1]

    while cluster.version < versions:
        delta = cluster.wait()
        worker = delta[0]
        cluster.merge([delta])
        pushes[worker].append(cluster.now)
        lead = [done - min(cluster.done) for done in cluster.done]
        for other in sorted(blocked):
            if lead[other] <= lower:
                blocked.remove(other)
                extra.pop(other, None)
                cluster.start(other)
        if lead[worker] <= lower:
            extra.pop(worker, None)
            cluster.start(worker)
            continue
        if worker not in extra:
            extra[worker] = controller(worker) if lead[worker] == max(lead) else 0
        if extra[worker] > 0:
            extra[worker] -= 1
            cluster.start(worker)
        else:
            blocked.add(worker)


def psp(cluster, versions, sample, bound, seed=0):
    """Wang et al. 2017: as SSP, with the slowest of a sample in place of the slowest of all.

    The rule of the seed is ours: Python's `random`, seeded by "seed, worker, clock".
    """
    drawn, waiting = {}, []

    def free(worker):
        clock = cluster.done[worker]
        others = [w for w in range(cluster.size) if w != worker]
        if (worker, clock) not in drawn:
            rng = random.Random(f"{seed}, {worker}, {clock}")
            drawn[worker, clock] = rng.sample(others, min(sample, len(others)))
        return all(clock - cluster.done[w] <= bound for w in drawn[worker, clock])

    while cluster.version < versions:
        delta = cluster.wait()
        cluster.merge([delta])
        waiting.append(delta[0])
        cluster.start(*filter(free, waiting))
        waiting = [worker for worker in waiting if worker not in cluster.running]


ORACLES = [
    (ssp.ASP(), asp, ()),
    (ssp.BSP(), bsp, ()),
    *((ssp.SSP(bound), ssp_, (bound,)) for bound in (1, 3)),
    *((ssp.KSync(k), k_sync, (k,)) for k in (1, 3, 6)),
    *((ssp.KBatchSync(k), k_batch_sync, (k,)) for k in (1, 4, 11)),
    *((ssp.KAsync(k), k_async, (k,)) for k in (1, 3, 6)),
    *((ssp.KBatchAsync(k), k_batch_async, (k,)) for k in (2, 9)),
    *((ssp.FedBuff(size), k_batch_async, (size,)) for size in (1, 4, 10)),
    *((ssp.Softsync(n), k_batch_async, (WORKERS // n,)) for n in (1, 2, 4, 6)),
    *((ssp.BackupWorkers(b), backup, (b,)) for b in (0, 1, 4)),
    *((ssp.Ringmaster(r), ringmaster, (r,)) for r in (1, 2, 4, 9)),
    *((ssp.Ringmaster(r, stops=True), ringmaster_stops, (r,)) for r in (1, 2, 4, 9)),
    *((ssp.Rennala(batch), rennala, (batch,)) for batch in (1, 4, 13)),
    *((ssp.Quorum(k, grace), quorum, (k, grace)) for k in (1, 3, 6) for grace in (0.0, 0.5, 3.0)),
    *(
        (ssp.Quorum(k, grace, apart=True), quorum, (k, grace, True))
        for k in (1, 3, 6)
        for grace in (0.0, 0.5, 3.0)
    ),
    *((ssp.DSSP(lower, upper), dssp, (lower, upper)) for lower, upper in [(1, 8), (2, 4), (0, 5)]),
    *((ssp.PSP(*args), psp, args) for args in [(1, 1), (2, 3), (3, 0, 7)]),
]
"""(policy, its simulation, arguments of that)."""


def simulated(oracle, arguments, table, versions):
    cluster = Cluster(table)
    oracle(cluster, versions, *arguments)
    return cluster.log


# A problem, and how a log trains it.

DIMENSION, RATE = 3, 0.05
PARAMS = {"w": np.zeros(DIMENSION, np.float32)}


def loss_fn(params, batch, key):
    x, y = batch
    return (jnp.sum(params["w"] * x) - y) ** 2, {}


def batches(worker):
    """Endless (x, y) of a noisy linear problem, one row a batch."""
    rng = np.random.default_rng([5, worker])
    while True:
        x = rng.normal(size=DIMENSION).astype(np.float32)
        yield x, np.float32(x.sum() + rng.normal())


def sgd(log, weight, momentum=0.0, factor=lambda staleness: 1.0):
    """Parameters after each merge of a log, in NumPy; deltas are -RATE times momentum's trace.

    A clock that was cancelled uses up its batch and nothing else. `weight` is of a delta, given how
    many are merged; `factor` of one, given its staleness.
    """
    points = [np.zeros(DIMENSION)]
    feeds, traces, taken, deltas = {}, {}, {}, {}
    for _, kind, *about in log:
        if kind == "finish":
            worker, clock, version = about
            feed = feeds.setdefault(worker, batches(worker))
            x, y = next(itertools.islice(feed, clock - taken.get(worker, 0), None))
            taken[worker] = clock + 1
            gradient = 2 * (points[version] @ x - y) * x
            traces[worker] = momentum * traces.get(worker, 0.0) + gradient
            deltas[worker, clock] = -RATE * traces[worker]
        elif kind == "merge":
            step = sum(
                factor(len(points) - 1 - version) * deltas[worker, clock]
                for worker, clock, version in about[0]
            )
            points.append(points[-1] + weight(len(about[0])) * step)
    return points
