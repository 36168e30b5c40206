"""Lazy against eager reads under a bound, and how old what they read is (Dai et al. 2015)."""

from __future__ import annotations

from experiments.papers.essp.claims import CLAIMS
from experiments.papers.essp.figure import draw, table
from experiments.papers.essp.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=2,
    title="ESSP: eager reads under the same bound",
    reference="Dai, Kumar, Wei, Ho, Gibson, Xing 2015, "
    '"High-performance distributed ML at scale through parameter server consistency models", '
    "arXiv:1410.8043",
    shows="Under the same bound a server that pushes what is new (ESSP) gives reads that are "
    "nearly all fresh, where a cache refreshed only when it is too old (SSP) gives every age that "
    "the bound allows; so ESSP converges faster, by iterations and by seconds, and does not mind a "
    "large bound, while SSP does (topic models and matrix factorization of Netflix, on a cluster).",
    ran="The matrix factorization and the logistic regression (batches of 32) of `ssp`, 16 workers "
    "(32 at size `paper`) in virtual time: even clocks, log-normal with sigma 0.1, as on a "
    "homogeneous cluster; and, for the reads alone, the uneven clocks of `ssp` too. The clock "
    "differential is the paper's: the last clock of which all deltas were read, minus the "
    "reader's. A network takes no time, so lazy and eager runs of one bound have the same clocks "
    "to the second: what pushing saves in waiting, or costs in traffic, is not seen, and seconds "
    "are in proportion to updates, which alone the figure shows. As many updates for all, rates "
    "swept for each, on one seed. The level: 99 % of what BSP gains in its run.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=6.2,
    notes="What eager reads gain is freshness; it is worth most where the bound is large, as a "
    "small one keeps lazy reads fresh too. Batches are larger than in `ssp`, since the last value "
    "on one seed is to tell of the rates; 5 % are allowed, since a level is seen at an evaluation "
    "only. Where clocks vary independently workers drift apart, the more the "
    "longer a run is, so that by the coverage of what is read (the slowest worker decides) eager "
    "reads grow older with the bound too, under uneven clocks and over longer runs; how stale the "
    "updates are, in versions, does not follow.",
)
