"""Ringmaster ASGD (2025) and Rennala SGD (2023): a quadratic on many workers of unequal speed."""

from __future__ import annotations

from experiments.papers.ringmaster.claims import CLAIMS
from experiments.papers.ringmaster.figure import draw, table
from experiments.papers.ringmaster.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=8,
    title="Ringmaster ASGD and Rennala SGD",
    reference='Maranjyan, Tyurin, Richtárik 2025, "Ringmaster ASGD: the first asynchronous SGD '
    'with optimal time complexity", arXiv:2501.16168; Tyurin, Richtárik 2023, "Optimal time '
    'complexities of parallel stochastic optimization methods under a fixed computation model", '
    "arXiv:2305.12387. Step sizes by delay: Mishchenko, Bach, Even, Woodworth 2022, "
    "arXiv:2206.07638; Koloskova, Stich, Jaggi 2022, arXiv:2206.08307",
    shows="Slow workers make asynchronous SGD slow, the more of them the more. Dropping what is R "
    "versions old or more makes its time to an accuracy optimal, as Rennala's batches on the "
    "newest version are; in practice it is faster than Rennala and than step sizes by delay (a "
    "quadratic, d = 1729, 6174 workers of delays i + |N(0, i)|).",
    ran="The same quadratic, but from x = 0 and with noise that is independent in each coordinate "
    "(standard deviation 0.01), where the authors' code starts at (sqrt d, 0, ...), 3,500 times "
    "higher, and adds one number to all coordinates: ours is limited by noise, theirs by delays. "
    "On 256 workers, for the virtual seconds in which they compute 3,000 gradients; asynchronous "
    "SGD and Ringmaster at the milder delays on 16 to 4,096 workers too, for as many seconds. "
    "Delays are drawn once a worker, where the authors' code draws one for every gradient: the "
    "paper's, `linear`, and milder ones, `root`: 1 + √i + |N(0, √i)|. Step sizes 4^-3..1 for "
    "every method and every R or batch of 16, 64 and 256, the best of each halved or doubled "
    "until it lies between two that are worse; tuned by the last gap on seed 0. `ASP` is "
    "asynchronous SGD; `step by delay` multiplies its step size by W / max(W, staleness), W "
    "workers, as Mishchenko et al. and Koloskova et al. do, not as a plain quotient. `Rennala` "
    "lets outdated gradients be finished and ignores them, as its algorithm says; `KBatchSync "
    "(cancels)` is Rennala that starts all workers anew at every iteration, as its authors "
    "simulate it. The gap is that of the version that the last worker to start read. Of the "
    "settled gradients alone, not of those still computed at the end, is it counted how many were "
    "dropped or cancelled.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=4.8,
    notes="With a step size of its own asynchronous SGD makes up for slow workers by small steps, "
    "of which it makes more than the others. What Ringmaster drops and Rennala ignores is computed "
    "in vain; a restart gives a slow worker the newest version, but nothing for what it had begun. "
    "An R that is large for the workers drops nothing: that is asynchronous SGD. Where R or step "
    "size is at the edge of those tried, the table says so; another may be better. Not run: the "
    "paper's delays on its 6174 workers.",
)
