"""Dynamic SSP (Zhao et al. 2019): one range of bounds against every fixed bound in it."""

from __future__ import annotations

from experiments.papers.dssp.claims import CLAIMS
from experiments.papers.dssp.figure import draw, table
from experiments.papers.dssp.runs import measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=5,
    title="Dynamic SSP: a range of bounds",
    reference='Zhao, An, Liu, Chen 2019, "Dynamic stale synchronous parallel distributed training '
    'for deep learning", arXiv:1908.11848',
    shows="DSSP chooses the bound in 3..15 while it trains, so that none has to be picked: it does "
    "as well as SSP at its fixed bounds on average, or better, waits less, and on a GTX 1060 "
    "beside a GTX 1080 Ti converges faster than BSP and SSP, nearly as fast as ASP (AlexNet and "
    "ResNets on CIFAR; 4 P100 where devices are equal).",
    ran="Waiting at every bound, from the clockwork alone (6,000 updates); an MLP on the digits, "
    "batches of 64, 1,200 updates, at every bound too, rates 0.1 to 1.6 swept for each (the "
    "figure shows some of the curves, the table all). Steps take a log-normal time of median 1 "
    "virtual second and sigma 0.2, 2.5 times that on the slow one of two mixed devices; merging "
    "and sending take none. The claims are judged on the paper's Algorithm 1 (`DSSP as printed`), "
    "whose grant of r lets r + 1 clocks pass, and which asks for another when one is used up, "
    "whatever the lag; and beside it on our DSSP, which never passes its upper bound. Times are "
    "to twice the loss that the worst method that did not diverge came to.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=4.6,
    notes="Of two devices of lastingly unequal speed, any bounded lag lets the fast one do as many "
    "clocks as the slow one and no more: every bound, and DSSP, waits the same, but for a head "
    "start of `upper` clocks at the most, once. The gain of the paper needs a lag without bound, "
    "which its Algorithm 1 as printed allows, one grant after another; but whenever it grants no "
    "clock, which the speeds of the last two pushes decide, the worker is to wait until it is back "
    "within the lower bound, and what lead it had is used up: it gains early on, which a short "
    "training shows more of than a long run of the clockwork. On equal devices steps are "
    "independent draws, of which the last two pushes predict little, and there is little waiting "
    "to be saved. A rate is the best on one seed: bounds that differ by chance in it differ in "
    "time for that reason, and so does the mean that DSSP is compared with.",
)
