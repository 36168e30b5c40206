"""What a run gives: parameters, tape, and what was measured."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from jax_ssp.checkpoint.card import Card, heading, rows_of, safely
from jax_ssp.controller import Resumed, StopRequested, WorkerDone
from jax_ssp.controller.tape import Tape
from jax_ssp.data.report import DataReport
from jax_ssp.report.goodput import Goodput, goodput
from jax_ssp.report.outer import OuterReport, outer_report
from jax_ssp.runtimes.dealing import report_of
from jax_ssp.runtimes.ending import told_reason
from jax_ssp.runtimes.losses import Loss, losses, sentences
from jax_ssp.runtimes.observer import Kept
from jax_ssp.runtimes.schedule import schedule
from jax_ssp.runtimes.states import States
from jax_ssp.trees import Params

_ON_THE_CARD = ("status", "reason", "updates", "steps", "samples", "tokens", "seconds", "computing")
_ON_THE_CARD += ("not_finite", "resumes", "metrics")


@dataclass(frozen=True, repr=False)
class Result:
    """What a run gives.

    Example:
        >>> import jax_ssp as ssp
        >>> result = ssp.train(runtime=ssp.Virtual(num_workers=2, compute=False), num_clocks=3)
        >>> result
        Result(done: SSP(bound=3, adopt='eager') on 2 workers, 6 updates in 3 virtual seconds)
        >>> result.schedule[["worker", "clock", "staleness"]][:2].tolist()
        [(0, 0, 0), (1, 0, 1)]

    Attributes:
        params: the last version's parameters, in the dtypes that they were given in; None if
            nothing was computed.
        masters: the same as the server has them, in at least float32, of which `params` are the
            rounded ones; the same object where nothing is in half precision.
        tape: the record from which the run can be replayed and its contract checked.
        history: one row a settled delta: `worker, clock, steps, samples, tokens, start,
            finish` (seconds), `base_version, merge_version` (-1: dropped), `staleness, lag, weight,
            finite`, the totals `updates`, `samples_seen` and `tokens_seen` that were merged by
            then, and `metrics`, a dict of what the step gave, the means over the clock's steps.
            Clocks that were cancelled, or computed nothing, have none; they are in `schedule`.
        residuals: of each worker, what its `delta_wire` has not delivered yet; empty without one.
        evaluations: one row an evaluation: `version`, the totals `updates, steps, samples, tokens`
            that are merged in it, `time` (seconds), `passed_over` (due versions since the one
            before, not evaluated since they waited still) and `metrics`, a dict of what `evaluate`
            gave.
        states: of the optimizers, at the end; None if nothing was computed.
        kept: what observers keep, by name, such as "ema" and "best": `params` and what is to be
            said `about` them.
        status: "done", "target", "early" (an observer ended it; see `reason`), "stopped" (all
            workers were lost, or nothing could happen any more), "too few workers" (see
            `ssp.Recovery`), "interrupted" or "diverged"; of a result that an error carries,
            "failed" or "interrupted".
        version: merges applied.
        updates: deltas merged.
        steps: local steps of these.
        samples: examples in their batches; 0 if nothing was computed.
        tokens: in these, where the step says how to count them; else 0.
        seconds: from the first clock's start to the last merge, virtual or wall as the world has
            it; compilation not included.
        wall_seconds: that the whole call took.
        said: what was said of the run's optimizers when it began; see `ssp.Progress`.
    """

    params: Params | None
    masters: Params | None
    tape: Tape
    history: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    residuals: list[Params]
    states: States | None
    kept: dict[str, Kept]
    status: str
    version: int
    updates: int
    steps: int
    samples: int
    tokens: int
    seconds: float
    wall_seconds: float
    said: list[str] = field(default_factory=list)

    @cached_property
    def schedule(self) -> np.ndarray:
        """One row a settled clock, as a structured array; see `jax_ssp.runtimes.schedule`."""
        return schedule(self.tape)

    @property
    def _stale(self) -> np.ndarray:
        """The staleness of each delta that was merged (versions)."""
        return self.schedule["staleness"][self.schedule["merge_version"] >= 0]

    @property
    def not_finite(self) -> int:
        """Clocks whose delta was not finite, whether it was merged, dropped or kept out."""
        return int((~self.schedule["finite"]).sum())

    @cached_property
    def data(self) -> DataReport:
        """What became of the samples: seen, twice, never, dropped; by epoch where data is dealt."""
        return report_of(self.tape)

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation's metrics; empty if there was none."""
        return dict(self.evaluations[-1]["metrics"]) if self.evaluations else {}

    @property
    def samples_per_second(self) -> float:
        """Examples merged a second, of the run's own time, virtual or wall; 0 if there are none."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens merged a second, of the run's own time; 0 if there are none."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def computing(self) -> float:
        """Share of the workers' time, up to the last finish, in which they computed (0 to 1)."""
        rows = self.schedule
        busy = float(rows["computing"].sum())
        workers = max(self.tape.header["num_workers"], len({*rows["worker"]}))
        total = workers * float(rows["finish"].max(initial=0.0))
        return busy / total if total else 0.0

    @cached_property
    def resumes(self) -> int:
        """How often another process has gone on with the run."""
        return self.tape.resumes

    @cached_property
    def goodput(self) -> Goodput:
        """Where the workers' time went: useful steps, waits, lost work, recoveries."""
        return goodput(self.tape)

    @property
    def outer(self) -> OuterReport | None:
        """What was measured of the outer optimizer: correlation and effective rate; None if not."""
        return outer_report(self.history)

    @cached_property
    def losses(self) -> list[Loss]:
        """Each time that a worker was lost: `worker, clock, what, when, back_after`."""
        return losses(self.tape)

    @cached_property
    def remarks(self) -> list[str]:
        """What was said when the run began, and what is to be said of workers that were lost."""
        return [*self.said, *sentences(self.losses, self.tape.header)]

    @cached_property
    def ended_by_data(self) -> dict[int, int]:
        """The workers whose data ended before the run did, and the clocks that each finished."""
        ends = (event for _, event, _ in self.tape if isinstance(event, WorkerDone))
        return dict(sorted((end.worker, end.clock) for end in ends))

    @cached_property
    def reason(self) -> str:
        """Why an observer ended the run early, or why it has diverged; empty if nothing is told."""
        told = ""
        for _, event, _ in self.tape:
            if isinstance(event, Resumed):  # whatever had ended it, it went on
                told = ""
            elif isinstance(event, StopRequested):
                told = told or told_reason(event.reason)
        return told

    def draw(self, to: str | Path | IO[bytes]) -> None:
        """Draw the run: who computed when, how stale the deltas were, what came of it.

        Args:
            to: a file; the suffix of its name (`.png`, `.pdf`, `.svg`) says what. Or a binary
                stream, which gets a PNG.

        Raises:
            ValueError: if nothing was merged or dropped, so that there is nothing to see.
            OSError: if the file cannot be written.
        """
        from jax_ssp.report import timeline  # matplotlib only when it draws

        unit = f"{self.tape.header['time']} seconds"
        heading = self._heading()
        timeline.run_summary(self.schedule, self.evaluations, to, unit, heading, self.goodput)

    def __repr__(self) -> str:
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        return (
            f"Result({self.status}: {self._heading()}, {self.updates} updates in "
            f"{self.seconds:.4g} {self.tape.header['time']} seconds{metrics})"
        )

    def __rich__(self) -> Any:
        return safely(lambda: self._card(None)).rich()

    def _repr_html_(self) -> str:
        return safely(lambda: self._card(self._picture())).html()

    def _heading(self) -> str:
        header = self.tape.header
        return heading(header.get("name"), header["policy"], header["num_workers"])

    def _card(self, picture: bytes | None) -> Card:
        rows, stale = self.schedule, self._stale
        facts = {
            **{name: getattr(self, name) for name in _ON_THE_CARD},
            "versions": self.version,
            "dropped or cancelled": len(rows) - len(stale),
            "time": self.tape.header["time"],
            "goodput": self.goodput.facts(),
            "outer": None if self.outer is None else self.outer.facts(),
            "mean_staleness": float(stale.mean()) if len(stale) else 0.0,
            "max_staleness": int(stale.max(initial=0)),
        }
        return Card(self._heading(), rows_of(facts), self.remarks, picture)

    def _picture(self) -> bytes | None:
        """The drawn run as a PNG; None if it cannot be drawn."""
        drawn = io.BytesIO()
        with contextlib.suppress(Exception):  # a run that has no clocks, no room, no matplotlib
            self.draw(drawn)
        return drawn.getvalue() or None

    def summary(self) -> str:
        """A few lines for people."""
        rows, stale, header = self.schedule, self._stale, self.tape.header
        why = f" ({self.reason})" if self.reason else ""
        rate, time = self.samples_per_second, header["time"]
        seen = f" on {self.samples} samples, {rate:.4g} a {time} second" if self.samples else ""
        if self.tokens:
            seen += f"; {self.tokens} tokens, {self.tokens_per_second:.4g} a second"
        lines = [
            f"{heading(None, header['policy'], header['num_workers'])}: {self.status}{why}",
            f"{self.updates} updates in {self.version} versions, {len(rows) - len(stale)} dropped "
            "or cancelled",
            f"{self.steps} local steps{seen}",
            f"{self.seconds:.3g} {time} seconds, "
            f"{100 * self.computing:.0f} % of the workers' time computing",
            f"staleness: mean {stale.mean() if len(stale) else 0:.2f}, at most "
            f"{stale.max(initial=0)}",
        ]
        lines += [] if self.outer is None else [f"outer optimizer: {self.outer}"]
        lines += str(self.goodput).splitlines()
        if self.resumes:
            lines.append(f"resumed {self.resumes} times")
        if self.data.epochs is not None or self.data.dropped:
            lines.append(f"data: {self.data}")
        if self.not_finite:
            lines.append(f"{self.not_finite} clocks gave a delta that is not finite")
        passed_over = sum(row["passed_over"] for row in self.evaluations)
        if passed_over:
            lines.append(f"{passed_over} versions that were due passed over by evaluation")
        if self.ended_by_data:
            ends = [f"{worker} after {clock}" for worker, clock in self.ended_by_data.items()]
            more = ", ..." if len(ends) > 8 else ""
            lines.append(f"data ended, worker after clocks: {', '.join(ends[:8])}{more}")
        if self.metrics:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            lines.append(f"last evaluation: {shown}")
        return "\n".join(lines)
