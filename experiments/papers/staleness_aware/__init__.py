"""n-softsync with and without the learning rate divided by the staleness (Zhang et al. 2016)."""

from __future__ import annotations

from experiments.papers.staleness_aware.claims import CLAIMS
from experiments.papers.staleness_aware.figure import draw, table
from experiments.papers.staleness_aware.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=3,
    title="Staleness-aware asynchronous SGD",
    reference='Zhang, Gupta, Lian, Liu 2016, "Staleness-aware async-SGD for distributed deep '
    'learning", arXiv:1511.05950',
    shows="With n-softsync on 30 learners the staleness is about n, and hardly ever above 2n. At "
    "the learning rate of synchronous training 30-softsync does not converge; with the rate of "
    "each gradient divided by its staleness it ends about where synchronous training does, at any "
    "n, and takes less time (CIFAR-10, 30 learners, and ImageNet, 18, with a momentum of 0.9).",
    ran="Staleness from the clockwork alone. A ReLU network of 64-64-64-10 on the digits, plain "
    "SGD at a constant rate (the paper: a momentum of 0.9, and rates that decay), batches of 16, "
    "30 workers in virtual time (0.8 s a clock + an exponential of mean 0.2 s), a merge applies "
    "the mean of its deltas; 6,000 updates for all, as in experiments/staleness_scaling.py. The "
    "same rates for every method, each on all seeds; the figure and the claims are at the best of "
    "BSP, by the median of the last test loss. Levels: 95 and 99 % of the way from the first test "
    "loss to BSP's last.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=5.4,
    notes="While a worker computes, every other one pushes once on average, so that the mean is n "
    "(W - 1) / W; what is above 2n comes of the tail of the delays, heavier here than that of "
    "equal machines. Without the division 15- and 30-softsync can learn at a rate far smaller: "
    "the division saves the search for it. 0.01, below the rates tried here, is worse for all of "
    "them (`results/staleness_scaling/grid.md`). A division by max(1, tau) does little to a "
    "staleness near 1, so that it neither helps nor harms 1-softsync much. Rates are chosen and "
    "shown on the same seeds. The paper's momentum "
    "and decay are not here; either may move the rate at which stale gradients fail.",
)
