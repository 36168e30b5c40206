"""Delay-compensated asynchronous SGD (Zheng et al. 2017)."""

from __future__ import annotations

from experiments.papers.dc_asgd.claims import CLAIMS
from experiments.papers.dc_asgd.figure import draw, table
from experiments.papers.dc_asgd.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=4,
    title="Delay-compensated asynchronous SGD",
    reference='Zheng, Meng, Wang, Chen, Yu, Ma, Liu 2017, "Asynchronous stochastic gradient '
    'descent with delay compensation", arXiv:1609.08326',
    shows="With 4 and 8 workers, at one schedule of rates for all, DC-ASGD ends at a lower error "
    "than ASGD and synchronous SGD at equal epochs, and near sequential SGD; the adaptive lambda "
    "is better than the constant one; ASGD loses with more workers (ResNets on CIFAR-10, and "
    "ImageNet with 16 workers).",
    ran="A ReLU network of 64-64-64-10 on the digits, plain SGD, batches of 16, in virtual time "
    "(0.8 s a clock + an exponential of mean 0.2 s), in which a compensation takes none; settings "
    "of experiments/delay_compensation.py, as many updates for all (3,000: 33 "
    "epochs), no decay of the rate. SSGD applies the mean of a round. The same rates for every "
    "method, each on all seeds; best by the median of the last test loss.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=5.6,
    notes="The correction makes up for staleness where a rate is a little too high for ASGD; where "
    "one is far too high nothing stale learns, and the correction, in which gradients are squared, "
    "can itself diverge. A constant lambda of 0.04 changes little, our squared gradients being "
    "small. SSGD merges 8 (4) times less often, and bears higher rates for it. The verdicts on "
    "every seed are strict: with so few, differences within their range decide. "
    "Rates are chosen and shown on the same seeds; other lambdas are in experiments/README.md.",
)
