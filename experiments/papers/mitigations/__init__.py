"""Against staleness and stragglers: Gap-Aware, elastic averaging, backup workers."""

from __future__ import annotations

from experiments.papers.mitigations.backup import claims as backup
from experiments.papers.mitigations.backup.runs import measure as measure_backup
from experiments.papers.mitigations.elastic import claims as elastic
from experiments.papers.mitigations.elastic.runs import measure as measure_elastic
from experiments.papers.mitigations.figure import draw, table
from experiments.papers.mitigations.gap import claims as gap
from experiments.papers.mitigations.gap.runs import measure as measure_gap
from jax_ssp.report.papers import Claim, Paper, Row, Size


def measure(size: Size, seeds: int) -> list[Row]:
    studies = (measure_gap, measure_elastic, measure_backup)
    return [row for measured in studies for row in measured(size, seeds)]


CLAIMS: tuple[Claim, ...] = (*gap.CLAIMS, *elastic.CLAIMS, *backup.CLAIMS)

PAPER = Paper(
    number=7,
    title="Gap-Aware, elastic averaging, backup workers",
    reference='Barkai, Hakimi, Schuster 2020, "Gap-aware mitigation of gradient staleness", '
    'arXiv:1909.10802; Zhang, Choromanska, LeCun 2015, "Deep learning with elastic averaging SGD", '
    'arXiv:1412.6651; Chen, Pan, Monga, Bengio, Jozefowicz 2016, "Revisiting distributed '
    'synchronous SGD", arXiv:1604.00981',
    shows="Gap-Aware keeps the error of asynchronous SGD low as workers are added, at the rate of "
    "a single one, where plain and staleness-aware ASGD lose (CIFAR, ImageNet). EASGD's center "
    "does well at long periods of exchange, its test error even improving with them, where "
    "DOWNPOUR fails (CIFAR, 4 to 16 workers). A few backup workers make synchronous SGD faster; "
    "too many waste gradients (ImageNet, 50 to 200 workers).",
    ran="All three on the digits with an MLP, 1 to 16 workers, plain SGD without momentum (the "
    "papers of the first two have it also with; EASGD with it, EAMSGD, does best there). "
    "Gap-Aware and EASGD: LogNormal(1, 0.3) seconds a step, merging on arrival, a delta weighs 1, "
    "rates swept for every cell; in Gap-Aware's all methods also at the best rate of a single "
    "worker, as the paper has it. EASGD: alpha = 0.9 / W, as many steps for all periods (256 a "
    "worker at size `laptop`, far fewer than the paper's), and a worker is pulled after the "
    "center has moved, where the authors' code takes both from the same center; DOWNPOUR pushes "
    "the sum of its local steps. Backup workers: Pareto delays of shape 1.5, batches of 4, rates "
    "swept for every b; who comes too late is dropped, not cancelled. Seconds to the target are "
    "iterations to it times the clockwork's seconds an iteration over a long run, since with such "
    "tails a short one says little.",
    measure=measure,
    claims=CLAIMS,
    table=table,
    draw=draw,
    height=5.2,
    notes="A test image is 0.28 % of the test error, so that less than a point counts as no "
    "difference. Best rates are those of the lowest loss on seed 0. With a rate of its own for "
    "each, what is stale can take a smaller one, which does much of what mitigations are for; they "
    "are for a rate that is kept as workers are added. DOWNPOUR's delta at long periods is many "
    "steps long and the server adds those of all W workers whole; with 1 / W, which the paper does "
    "not compare, it adds their mean.",
)
