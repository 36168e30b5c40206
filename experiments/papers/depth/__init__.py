"""Staleness, depth and optimizers: updates to a target (Dai et al. 2019)."""

from __future__ import annotations

from experiments.papers.depth.claims import CLAIMS
from experiments.papers.depth.figure import draw, table
from experiments.papers.depth.runs import ACCURACY, BATCH, EVERY, WIDTH, measure
from jax_ssp.report.papers import Paper

PAPER = Paper(
    number=9,
    title="Staleness, depth and optimizers",
    reference="Dai, Zhou, Dong, Zhang, Xing 2019, "
    '"Toward understanding the impact of staleness in distributed machine learning", ICLR, '
    "arXiv:1810.03264",
    shows="Staleness slows convergence, by a factor that depends on the model; deeper networks "
    "suffer more from as much of it; SGD and Adagrad are more robust than Momentum, RMSProp and "
    "Adam (fully connected networks on MNIST, ResNets on CIFAR-10, delays drawn uniformly).",
    ran=f"ReLU networks of {WIDTH} units a layer on the digits, batches of {BATCH}; updates to a "
    f"test accuracy of {100 * ACCURACY:.0f} %, looked at every {EVERY} updates. s + 1 equal "
    "workers take turns, so that after the first round each gradient is exactly s versions old: "
    "constant staleness, not the paper's random one. The optimizer is the server's, one for all "
    "workers. For every cell the rate is swept anew.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=2.9,
    notes=f"Updates are counted in steps of {EVERY}, so that ratios are known to some 25 %; what "
    "differs by less counts as equal, in every claim of ratios. Deep networks need small rates, "
    "and more updates, without staleness, so that as many updates more are a smaller ratio. The "
    "ratios depend on the target and on the rates tried.",
)
