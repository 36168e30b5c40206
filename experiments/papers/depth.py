"""Staleness, depth and optimizers: updates to a target (Dai et al. 2019)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import jax_ssp as ssp
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import outer
from jax_ssp.report.papers import Claim, Paper, Row, Rows, Size

WIDTH, BATCH, EVERY = 64, 16, 16  # EVERY: updates from one evaluation to the next
ACCURACY = 0.93  # the target, on the test images
MARGIN = 1.25  # of ratios: the fewest updates are some 64, known to 16
STALENESS = {"smoke": (0, 3), "laptop": (0, 3, 7, 15), "paper": (0, 1, 3, 7, 15)}
UPDATES = {"smoke": 480, "laptop": 2400, "paper": 16_000}  # at most
DEPTHS = {"smoke": (0, 3), "laptop": (0, 1, 3, 6), "paper": tuple(range(7))}  # hidden layers
# Each optimizer, what else it is given, and the rate that STEPS multiply.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "SGD": (optax.sgd, {}, 0.3),
    "Momentum": (optax.sgd, {"momentum": 0.9}, 0.1),
    "Adam": (optax.adam, {}, 0.03),
    "RMSProp": (optax.rmsprop, {"decay": 0.9}, 0.03),
    "Adagrad": (optax.adagrad, {}, 0.3),
}
STEPS: dict[Size, tuple[float, ...]] = {
    "smoke": (0.3,),
    "laptop": (3.0, 1.0, 0.3, 0.1, 0.03),
    "paper": tuple(2.0**-power for power in range(-2, 8)),
}


def needed(
    optimizer: str, hidden: int, staleness: int, rate: float, seed: int, size: Size
) -> tuple[int | None, float]:
    """Updates to the target (None if it was not reached), and the mean staleness there was."""
    function, arguments, _ = OPTIMIZERS[optimizer]
    made = ssp.configured(function, learning_rate=rate, **arguments)
    workers = staleness + 1  # equal ones take turns: each delta is as stale as there are others
    run = ssp.Experiment(
        # Workers push plain gradients; the optimizer is the server's, and sees each in turn.
        workload=DigitsMLP(hidden=(WIDTH,) * hidden, batch_size=BATCH, learning_rate=1.0),
        policy=ssp.ASP(),
        runtime=ssp.Virtual(workers, ssp.delays.Constant(1.0), seed),
        server_tx=ssp.configured(outer, optimizer=made),
        weight="sum",
        max_updates=UPDATES[size],
        eval_every=EVERY // workers,
        target=f"test_accuracy >= {ACCURACY}",
        seed=seed,
    ).run()
    reached = (row["updates"] for row in run.evaluations if row["test_accuracy"] >= ACCURACY)
    return next(reached, None), float(run.schedule["staleness"].mean())


def cell(optimizer: str, hidden: int, staleness: int, size: Size, seeds: int) -> Row:
    """The rate that needs the fewest updates on seed 0, and what it needs on all seeds."""
    rates = [OPTIMIZERS[optimizer][2] * step for step in STEPS[size]]
    tried = {rate: needed(optimizer, hidden, staleness, rate, 0, size) for rate in rates}
    best = min(tried, key=lambda rate: finite(tried[rate][0]))
    others = (needed(optimizer, hidden, staleness, best, seed, size) for seed in range(1, seeds))
    found = [tried[best], *others]
    return {
        "staleness": staleness,
        "rate": best,
        "updates": [updates for updates, _ in found],
        "mean_staleness": statistics.fmean(mean for _, mean in found),
        "swept": [{"rate": rate, "updates": updates} for rate, (updates, _) in tried.items()],
        "most_updates": UPDATES[size],
    }


def measure(size: Size, seeds: int) -> list[Row]:
    names = ("SGD", "Adam") if size == "smoke" else tuple(OPTIMIZERS)
    rows: list[Row] = []
    for staleness in STALENESS[size]:
        for name in names:
            about = {"family": "optimizer", "label": name}
            rows.append({**about, **cell(name, 1, staleness, size, seeds)})
        for hidden in DEPTHS[size]:
            about = {"family": "depth", "label": str(hidden)}
            rows.append({**about, **cell("SGD", hidden, staleness, size, seeds)})
    return rows


def finite(updates: int | None) -> float:
    return math.inf if updates is None else updates


def middle(row: Mapping[str, Any]) -> float:
    """The median over the seeds; infinite if most did not reach the target."""
    return statistics.median(finite(updates) for updates in row["updates"])


def labels(rows: Rows, family: str) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows if row["family"] == family))


def cells(rows: Rows, family: str, label: str) -> list[Mapping[str, Any]]:
    """Those of a label, from the least staleness to the most."""
    own = [row for row in rows if (row["family"], row["label"]) == (family, label)]
    return sorted(own, key=lambda row: row["staleness"])


def slowdown(rows: Rows, family: str, label: str) -> float:
    """Updates at the most staleness over those at none."""
    own = cells(rows, family, label)
    return middle(own[-1]) / base(own)


def base(own: Sequence[Mapping[str, Any]]) -> float:
    """Updates without staleness; all there were if they did not suffice."""
    return min(middle(own[0]), own[0]["most_updates"])


def shown(rows: Rows, family: str) -> tuple[dict[str, float], str]:
    found = {name: slowdown(rows, family, name) for name in labels(rows, family)}
    most = max(row["staleness"] for row in rows)
    each = ", ".join(f"{name} {ratio:.1f}" for name, ratio in found.items())
    return found, f"times the updates at staleness {most}: {each}"


def slows_all(rows: Rows, family: str) -> tuple[bool, str]:
    found, said = shown(rows, family)
    return all(ratio > MARGIN for ratio in found.values()), said


def deeper_suffers(rows: Rows) -> tuple[bool, str]:
    found, said = shown(rows, "depth")
    return list(found.values()) == sorted(found.values()), said


def deeper_needs_more(rows: Rows) -> tuple[bool, str]:
    own = [cells(rows, "depth", label) for label in labels(rows, "depth")]
    more = [middle(each[-1]) - base(each) for each in own]
    said = ", ".join(f"{each:g}" for each in more)
    return more == sorted(more), f"updates more at the most staleness, by depth: {said}"


def more_than_sgd(rows: Rows, name: str) -> tuple[bool, str]:
    found, said = shown(rows, "optimizer")
    return found.get(name, math.nan) > MARGIN * found["SGD"], said


def adagrad_robust(rows: Rows) -> tuple[bool, str]:
    found, said = shown(rows, "optimizer")
    return min(found.keys() - {"SGD"}, key=found.__getitem__) == "Adagrad", said


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for family in ("optimizer", "depth"):
        for label in labels(rows, family):
            row: Row = {"median updates to the target (best rate)": NAMES[family].format(label)}
            for each in cells(rows, family, label):
                value = f"{middle(each):.0f} ({each['rate']:.2g})"
                row[f"staleness {each['staleness']}"] = value
            found.append(row)
    return found


NAMES = {"optimizer": "{}, hidden layers: 1", "depth": "SGD, hidden layers: {}"}
LOOKS = {
    "optimizer": ("#000000", "#0072b2", "#d55e00", "#2f9e8f", "#cc79a7"),
    "depth": ("#a6cbe3", "#5a9bc8", "#2f6a9f", "#12304f"),
}
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (4, 1.2, 1, 1.2)),
    (0, (1.2, 1)),
    (0, (5, 1.2, 2, 1.2)),
)


def panel(axis: Axes, rows: Rows, family: str) -> None:
    """Updates over those without staleness; an arrow up where the target was not reached."""
    for index, label in enumerate(labels(rows, family)):
        colour = LOOKS[family][index % len(LOOKS[family])]
        own = cells(rows, family, label)
        points = [(row["staleness"], middle(row) / base(own)) for row in own]
        reached = [point for point in points if point[1] < math.inf]
        look: dict[str, Any] = {"color": colour, "linestyle": DASHES[index % len(DASHES)]}
        across, up = [x for x, _ in reached], [y for _, y in reached]
        axis.plot(across, up, marker="os^Dv"[index % 5], label=label, **look)
        for row, point in zip(own, points, strict=True):
            if point[1] == math.inf:
                limit = row["most_updates"] / base(own)
                axis.plot(point[0], limit, color=colour, marker="$\\uparrow$", markersize=9)
    axis.set(xlabel="staleness (versions)", yscale="log")
    axis.set_ylabel("updates to the target,\nover those at staleness 0")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(sorted({row["staleness"] for row in rows}))
    axis.legend(title=None if family == "optimizer" else "hidden layers")


def draw(figure: Figure, rows: Rows) -> None:
    titles = {"optimizer": "(a) optimizers, 1 hidden layer", "depth": "(b) depth, under SGD"}
    for axis, (family, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        panel(axis, rows, family)
        axis.set_title(title, loc="left")


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
    claims=(
        Claim(
            "staleness slows the convergence of every optimizer",
            partial(slows_all, family="optimizer"),
        ),
        Claim("staleness slows convergence at every depth", partial(slows_all, family="depth")),
        Claim("the deeper the network, the more it suffers in proportion", deeper_suffers),
        Claim(
            "the deeper, the more updates staleness costs (ours: not normalised)", deeper_needs_more
        ),
        *(
            Claim(f"{name} suffers more than SGD", partial(more_than_sgd, name=name))
            for name in ("Momentum", "Adam", "RMSProp")
        ),
        Claim("Adagrad suffers less than Momentum, Adam and RMSProp", adagrad_robust),
    ),
    table=table,
    draw=draw,
    height=2.9,
    notes="Updates are counted in steps of 16, so that ratios are known to some 25 %; what differs "
    "by less counts as equal. Deep networks need small rates, and more updates, without staleness. "
    "The ratios depend on the target: an earlier run, to 90 % and with rates half as large, gave "
    "2.7, 7.5, 10.5 and 5.6 by depth, and Adagrad as the least sensitive optimizer.",
)
