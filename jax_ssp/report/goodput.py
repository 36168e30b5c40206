"""Where the time of a run went, from its tape: useful steps, waits, lost work, recoveries.

The workers' time is divided without remainder. A worker's time goes from when it joined first to
the last row, and the time in which the whole run was down between two terms comes on top. A clock
counts as what became of it:

- *useful*: its delta was merged, and every number of it was finite;
- *waiting*: for slower workers (`gate`: they have not finished the clocks that the bound asks
  for), or for a merge (`merge`);
- *exchange*: it computed nothing while its snapshot was on the way to it, or its delta to the
  server, where that is known (`ssp.Network`); else this is part of a clock;
- *lost*, by cause: `dropped` and `cancelled` (decisions of the policy), `not finite`, `late`
  (pushed after its worker was lost), `lost` (its worker was lost in it), `unsettled` (the tape ends
  before);
- *away*: between the loss of a worker and the first clock of who comes in its place;
- *finished*: it has done all that it was to do;
- *down*: nobody ran; *restoring*: a resumed run computed the last rows once more.

The field's words: *goodput* is the share that is useful. *ETTR*, effective training time ratio, is
the share that failures left over (Kokolis et al. 2024, "Revisiting Reliability in Large-Scale
Machine Learning Research Clusters", arXiv:2410.21680); waits and what a policy drops are not
failures. *MTBF* is the mean time between failures, *MTTR* the mean time to recover from one (both
after Barlow and Proschan 1965, "Mathematical Theory of Reliability").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax_ssp.controller.tape import Tape
from jax_ssp.report.spending import KINDS, Spending

FAILED = ("not finite", "late", "lost", "away", "down", "restoring")
"""The kinds of time that failures cost."""


@dataclass(frozen=True)
class Goodput:
    """Where the workers' time went.

    Attributes:
        seconds: from the first row to the last, and in which the run was down.
        by_worker: for each worker, the seconds of each kind, which are its whole time; see the
            module for the kinds.
        recoveries: by cause, how long each recovery took (seconds): from the loss of a worker to
            the first clock of who came in its place; under "resumed", from the last row of a term
            to the first of the next.
        for_good: by cause, how often nobody came in a lost worker's place.
        late: pushes that were fenced.
        recomputed: rows that resumes computed once more.
    """

    seconds: float
    by_worker: Mapping[int, Mapping[str, float]]
    recoveries: Mapping[str, Sequence[float]]
    for_good: Mapping[str, int]
    late: int = 0
    recomputed: int = 0

    @property
    def shares(self) -> dict[str, float]:
        """Of all workers' time, by kind; they add up to 1, or are all 0 where no time passed."""
        spent = {kind: sum(times[kind] for times in self.by_worker.values()) for kind in KINDS}
        total = sum(spent.values())
        return {kind: seconds / total if total else 0.0 for kind, seconds in spent.items()}

    @property
    def useful(self) -> float:
        """The goodput: share of the workers' time in clocks that were merged (0 to 1)."""
        return self.shares["useful"]

    @property
    def waiting(self) -> float:
        """Share of the workers' time in which they waited for others or for a merge."""
        shares = self.shares
        return shares["gate"] + shares["merge"]

    @property
    def exchange(self) -> float:
        """Share of the workers' time in which they waited for the network, where that is known."""
        return self.shares["exchange"]

    @property
    def ettr(self) -> float:
        """The effective training time ratio: share of the time that failures left over."""
        shares = self.shares
        return 1.0 - sum(shares[kind] for kind in FAILED)

    @property
    def failures(self) -> int:
        """How often a worker was lost, or the run broken off."""
        return sum(map(len, self.recoveries.values())) + sum(self.for_good.values())

    @property
    def mtbf(self) -> float | None:
        """The mean time between failures (seconds); None without any."""
        return self.seconds / self.failures if self.failures else None

    @property
    def mttr(self) -> float | None:
        """The mean time to recover from a failure (seconds); None where nothing was recovered."""
        times = [seconds for each in self.recoveries.values() for seconds in each]
        return sum(times) / len(times) if times else None

    def facts(self) -> dict[str, Any]:
        """For JSON: what is said of it, in total and by worker."""
        return {
            "goodput": self.useful,
            "ettr": self.ettr,
            "seconds": self.seconds,
            "shares": self.shares,
            "failures": self.failures,
            "mtbf": self.mtbf,
            "mttr": self.mttr,
            "recoveries": {cause: list(each) for cause, each in self.recoveries.items()},
            "for_good": dict(self.for_good),
            "late": self.late,
            "recomputed": self.recomputed,
            "by_worker": {
                str(worker): {kind: seconds for kind, seconds in spent.items() if seconds}
                for worker, spent in self.by_worker.items()
            },
        }

    def __str__(self) -> str:
        said = [f"{kind} {share:.1%}" for kind, share in self.shares.items() if share >= 0.0005]
        lines = [f"time: {', '.join(said) if said else 'none passed'}"]
        if self.failures:
            lines.append(
                f"failures: {self.failures}, one in {self.mtbf:.4g} s, ETTR {self.ettr:.1%}"
            )
        for cause, each in self.recoveries.items():
            mean, most = sum(each) / len(each), max(each)
            lines.append(
                f"recovered, {cause}: {len(each)}, mean {mean:.4g} s, at most {most:.4g} s"
            )
        for cause, count in self.for_good.items():
            lines.append(f"not recovered, {cause}: {count}")
        return "\n".join(lines)


def goodput(tape: Tape) -> Goodput:
    """Where the time of a run went; across resumes, if there were any.

    Args:
        tape: of a run in any world; its times are the world's seconds.

    Example:
        >>> import jax_ssp as ssp
        >>> runtime = ssp.Virtual(2, compute=False, delay=ssp.delays.PerWorker([1.0, 3.0]))
        >>> run = ssp.train(runtime=runtime, policy=ssp.BSP(), num_clocks=2)
        >>> spent = goodput(run.tape)
        >>> {kind: round(share, 3) for kind, share in spent.shares.items() if share}
        {'useful': 0.667, 'gate': 0.167, 'finished': 0.167}
        >>> spent.ettr
        1.0
    """
    return Goodput(**Spending.of(tape).divided())
