"""One way to sweep: settings x methods x rates x seeds.

The rate of every method in every setting is picked on some seeds, alike for all, and the methods
are compared on others: a rate that is picked and reported on the same seeds looks better than it
is. Nothing is run twice, and with a file an interrupted study goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jax_ssp.report.papers import Row

Cell: TypeAlias = Mapping[str, Any]  # a method in a setting: the columns that name it in its rows


def crossed(**columns: Iterable[Any]) -> list[Cell]:
    """A cell for every combination of the columns' values, the last column's the fastest.

    Example:
        >>> crossed(workers=[1, 8], label=["ASP"])
        [{'workers': 1, 'label': 'ASP'}, {'workers': 8, 'label': 'ASP'}]
    """
    return [dict(zip(columns, each, strict=True)) for each in itertools.product(*columns.values())]


class Tuned(NamedTuple):
    """A cell, its best rate, what each rate came to, and the rows that say so."""

    cell: Cell
    best: float
    scores: dict[float, float]  # the median over the seeds; infinite where any of them diverged
    tried: list[Row]

    @property
    def marked(self) -> str:
        """The best rate, and whether it is at the edge of those tried."""
        return marked(self.best, self.scores)


@dataclass(frozen=True)
class Study:
    """Methods in settings at every rate on some seeds, and at their best rates on others.

    Attributes:
        cells: settings x methods; see `crossed`.
        rates: learning rates, the same for all.
        seeds: those that are reported.
        run: (cell, rate, seed) -> what the run came to; cell, rate and seed are added to it.
        tuning: the seeds on which the best rate is picked; by default the three that follow those
            reported. A study whose published rows were picked on a reported seed names that.
        loss: the column that is smallest at the best rate; what is no finite number has diverged.
        refine: how many times at the most the best rate is halved and doubled, until it lies
            between two that are worse.
        kept: a file that gets each run's row when it is done; those in it are not run again.
        about: what the rows of that file depend on besides: size and commit, say.
        each: is told each row that was run.

    Raises:
        ValueError: if there is nothing to run, or the file is of another study.

    Example:
        >>> def run(cell, rate, seed):
        ...     return {"last": abs(rate - 0.3) + seed}
        >>> study = Study(crossed(label=["SGD"]), (0.1, 0.3, 1.0), seeds=(0, 1), run=run)
        >>> study.tune({"label": "SGD"}).best
        0.3
        >>> [row["last"] for row in study.rows() if row.get("kind") != "swept"]
        [0.0, 1.0]
    """

    cells: Sequence[Cell]
    rates: Sequence[float]
    seeds: Sequence[int]
    run: Callable[[Cell, float, int], Row]
    tuning: Sequence[int] | None = None
    loss: str = "last"
    refine: int = 0
    kept: Path | None = None
    about: Cell = field(default_factory=dict[str, Any])
    each: Callable[[Row], object] | None = None
    _made: dict[str, Row] = field(default_factory=dict[str, Row], init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("cells", "rates", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"`Study({name}=...)` must not be empty.")
        if self.tuning is None:
            after = max(self.seeds) + 1
            object.__setattr__(self, "tuning", tuple(range(after, after + 3)))
        if not self.tuning:
            raise ValueError("`Study(tuning=...)` must name a seed; None means other ones.")
        if self.kept is not None:
            self._read(self.kept)

    def made(self, cell: Cell, rate: float, seed: int) -> Row:
        """The row of one run, which is run unless it was before."""
        key = json.dumps([cell, rate, seed], sort_keys=True)
        if key not in self._made:
            about = {**cell, "rate": rate, "seed": seed}
            row = {**about, **self.run(cell, rate, seed)}
            if self.kept is not None:
                with self.kept.open("a") as file:
                    file.write(json.dumps([key, row]) + "\n")
            self._made[key] = row
            if self.each is not None:
                self.each(row)
        return self._made[key]

    def tune(self, cell: Cell) -> Tuned:
        """Run a cell at every rate on the seeds for it; the best rate has the smallest loss."""
        rows: list[Row] = []

        def score(rate: float) -> float:
            own = [self.made(cell, rate, seed) for seed in self.tuning or ()]
            rows.extend(own)
            losses = [finite(row[self.loss]) for row in own]
            return statistics.median(losses) if math.isfinite(max(losses)) else math.inf

        scores = refined(score, self.rates, self.refine)
        return Tuned(cell, min(scores, key=scores.__getitem__), scores, rows)

    def report(self, tuned: Tuned) -> list[Row]:
        """A cell at its best rate, on the seeds that are reported."""
        return [self.made(tuned.cell, tuned.best, seed) for seed in self.seeds]

    def rows(self) -> list[Row]:
        """Of every cell a row of kind "swept" for each rate, and its runs at the best one."""
        found: list[Row] = []
        for tuned in map(self.tune, self.cells):
            for rate, score in tuned.scores.items():
                swept = {"kind": "swept", **tuned.cell, "rate": rate, self.loss: score}
                found.append(swept)
            found += self.report(tuned)
        return found

    def every(self, tuned: Tuned, also: Iterable[float] = ()) -> list[Row]:
        """All runs of a cell: those tried, then others at its best rate and at those of `also`."""
        rest = [seed for seed in self.seeds if seed not in (self.tuning or ())]
        rates = sorted({tuned.best, *also})
        return tuned.tried + [self.made(tuned.cell, rate, s) for rate in rates for s in rest]

    def gathered(self, cell: Cell, column: str) -> Row:
        """One row for a cell: its best rate, and a column of all that was tried and reported."""
        tuned = self.tune(cell)
        swept = [{"rate": row["rate"], column: row[column]} for row in tuned.tried]
        ends = [row[column] for row in self.report(tuned)]
        return {**cell, "rate": tuned.best, column: ends, "swept": swept}

    def grid(self) -> list[Row]:
        """Every cell at every rate on every seed that is reported; nothing is picked."""
        every = itertools.product(self.rates, self.seeds, self.cells)
        return [self.made(cell, rate, seed) for rate, seed, cell in every]

    def _read(self, file: Path) -> None:
        head = json.dumps({"study": dict(self.about)}, sort_keys=True)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(head + "\n")
            return
        first, *lines = file.read_text().splitlines(keepends=True) or [""]
        if first != head + "\n":
            raise ValueError(
                f"{file} is of another study ({first.strip()}), this one is {head}; remove it, or "
                "name another file"
            )
        whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut short
        if len(whole) < len(lines):
            file.write_text(first + "".join(whole))
        self._made.update(map(json.loads, whole))


def refined(
    attempt: Callable[[float], float], rates: Iterable[float], most: int
) -> dict[float, float]:
    """What was tried of a grid, then half and double of the best, until it lies between both.

    Args:
        attempt: of a rate, what it comes to, infinite if it diverged.
        rates: the grid.
        most: how many times the best is halved and doubled.
    """
    found = {rate: attempt(rate) for rate in rates}
    for _ in range(most):
        best = min(found, key=found.__getitem__)
        beside = [rate for rate in (best / 2, best * 2) if rate not in found]
        if not beside:
            break
        found |= {rate: attempt(rate) for rate in beside}
    return found


def marked(rate: float, tried: Iterable[float]) -> str:
    """A best rate as a table shows it, with a mark if it is at the edge of those tried.

    Example:
        >>> marked(0.3, [0.1, 0.3]), marked(0.1, [0.1])
        ('0.3 (largest tried)', '0.1')
    """
    rates = sorted(set(tried))
    if len(rates) > 1 and rate in (rates[0], rates[-1]):
        return f"{rate:g} ({'smallest' if rate == rates[0] else 'largest'} tried)"
    return f"{rate:g}"


def finite(value: float | None) -> float:
    """A loss as a number; infinite where it diverged."""
    return value if value is not None and math.isfinite(value) else math.inf
