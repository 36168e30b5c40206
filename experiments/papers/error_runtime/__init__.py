"""Error-runtime trade-offs of K-sync, K-async and their batch variants (Dutta et al. 2018)."""

from __future__ import annotations

from experiments.papers.error_runtime.claims import CLAIMS
from experiments.papers.error_runtime.figure import draw, table
from experiments.papers.error_runtime.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=6,
    title="Error-runtime trade-offs of K-sync and K-async SGD",
    reference='Dutta, Joshi, Ghosh, Dube, Nagpurkar 2018, "Slow and stale gradients can win the '
    'race", arXiv:1803.01113',
    shows="The time of an iteration has closed forms, by which waiting for fewer, and not waiting "
    "at all, is faster; at one learning rate asynchronous SGD is ahead first and ends at a higher "
    "error than synchronous SGD, so that the curves cross (CIFAR-10, 8 workers).",
    ran="The clockwork alone for the iterations' times; then regularized logistic regression "
    "(training objective) and an MLP (test loss) on the digits, batches of 4, 8 workers with "
    "exponential clocks, 2,400 virtual seconds for each and 800 with the MLP. All rates for all "
    "methods on seed 0; the methods are compared at one rate on all seeds, as in the paper; that "
    "it is the largest at which all of them at least halve the loss is our rule.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=4.8,
    notes="A floor needs gradients that are noisy at the minimum. Those of the regularized "
    "logistic regression are, and there the curves cross; the MLP can fit its data, and on a test "
    "loss small noisy batches end lower: in these seconds more updates are all that counts. That "
    "K-sync ends below K-async at equal K does not show at K = 4, where a delta is "
    "one version stale: what counts is how many are averaged. With a smaller rate of its own "
    "K-async with K = 1 comes near the others (last columns).",
)
