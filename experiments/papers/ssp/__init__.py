"""SSP against BSP, asynchrony and a single worker, with the reads of the paper (Ho et al. 2013)."""

from __future__ import annotations

from experiments.papers.ssp.claims import CLAIMS
from experiments.papers.ssp.figure import draw, table
from experiments.papers.ssp.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=1,
    title="SSP: a bound between bulk-synchronous and asynchronous",
    reference='Ho, Cipar, Cui, Lee, Kim, Gibbons, Gibson, Ganger, Xing 2013, "More effective '
    'distributed ML via a stale synchronous parallel parameter server", NeurIPS',
    shows="With a bound on staleness the workers of a cluster wait far less than at barriers; each "
    "update is worth a little less, but there are so many more that the objective comes down "
    "sooner than under BSP and than without any bound (topic models, matrix factorization of "
    "Netflix, and Lasso by coordinate descent, on up to 32 machines).",
    ran="Synthetic ratings of rank 8 (240 by 160), Lasso by coordinate descent (128 by 512), and, "
    "in place of topic models, logistic regression on the digits; 16 workers (32 at size `paper`) "
    "in virtual time, clocks of 0.5 s + an exponential of mean 0.5 s. SSP reads as in the paper, "
    'from a cache kept until the bound forbids it (`adopt="lazy"`). A network takes no time here, '
    "so that lazy reads save nothing, and asynchronous workers read what is newest. As many "
    "updates of the same weight for all; rates swept for each, on one seed, by the last "
    "objective. Levels: 90 and 99 % of what BSP gains in its run.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=6.2,
    notes="Asynchronous workers are equally fast here, there is no network, and they read what is "
    "newest at every clock, so that their updates are less stale than those of lazy reads from "
    "bound 3 on: nothing holds them back that a bound would help against. A rate is the one with "
    "the best last value, which need not be the one that is soonest at 90 %. Coordinate "
    "descent, of Lasso, cannot bear a rate of 2, nor one so high if several steps are at once. "
    "Counts of updates come in steps between evaluations, so that small ones say little of an "
    "order. At the largest bound a worker refreshes its cache a few times in its run only.",
)
