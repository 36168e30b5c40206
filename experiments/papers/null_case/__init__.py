"""The null case: equal devices (Cui et al. 2016, GeePS), and when not to use this software."""

from __future__ import annotations

from experiments.papers.null_case.claims import CLAIMS
from experiments.papers.null_case.figure import draw, table
from experiments.papers.null_case.runs import JITTER, measure
from experiments.workloads.slowdowns import SLOW
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=10,
    title="The null case: equal devices, and when not to use this software",
    reference='Cui, Zhang, Ganger, Gibbons, Xing 2016, "GeePS: scalable deep learning on '
    'distributed GPUs with a GPU-specialized parameter server", EuroSys',
    shows="On 16 equal GPU machines nobody waits long for anybody: slack saves next to no time, "
    "updates become stale all the same, and BSP converges fastest (image classification, video).",
    ran="An MLP on the digits, batches of 16, 8 workers, merging on arrival at the weight 1/W; "
    "exchange costs nothing. Learning rates swept alike for all; in each scene all get as many "
    f"virtual seconds. Equal devices (the paper's case) have a log-normal jitter of {JITTER:.0%} a "
    "step. Beside them: one device slow for good, and slowdowns that pass; what W steps cost is of "
    "a long run of the clockwork alone, which some scenes have only. Bursts: a device is "
    f"{SLOW:g} times slower in 2 of 20 clocks.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=5.0,
    notes="Stale methods end a little lower here than BSP, which the paper does not have; but BSP "
    "is sooner, in updates and in seconds, on the way. When not to use this software, our own "
    "part: where devices are equal, since there is next to no waiting to be saved, and plain "
    "synchronous training is simpler; and where one device is slow for good, a bound alone, which "
    "gives a head start of as many clocks, once, however long the run: the remedy there is local "
    "steps by measured speed. DyLU measures before it adapts: its first clock is as long as that "
    "of 8 fixed steps.",
)
