"""What watches a run, is told what happens in it, and may end it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_ssp import checks
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.worker.waits import Waiting

if TYPE_CHECKING:
    from jax_ssp.runtimes.version import Version
    from jax_ssp.trees import Params


class Kept(NamedTuple):
    """What an observer keeps of a run, for its result and its folder; its method `kept` gives it.

    Attributes:
        name: under which it is kept, such as "ema": letters, digits and underscores.
        params: what is kept.
        about: what is to be said of it, as facts for JSON.

    Example:
        >>> Kept("half", {"w": 0.5}, {"of": "the way"}).name
        'half'
    """

    name: str
    params: Params
    about: Mapping[str, Any]


OF_THE_RUN = ("params", "residuals")  # folders in a run's folder that are its own


def check_name(field: str, name: Any) -> str:
    """A name under which something can be kept: a folder's, in the run's folder.

    Raises:
        ValueError: if it cannot be one.
    """
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        if name not in OF_THE_RUN:
            return name
        raise ValueError(f"`{field}` cannot keep something as {name!r}, which is the run's own.")
    must = "letters, digits and underscores, a letter first"
    raise ValueError(f"`{field}` must keep something under a name of {must}, got {name!r}.")


def measures(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of `Observer.on_clock` that are worth a curve, beside its metrics."""
    own = {"clock_seconds": row["finish"] - row["start"]}
    if row["merge_version"] >= 0:  # a dropped delta has neither
        own |= {"staleness": row["staleness"], "lag": row["lag"]}
    return own


class Observer:
    """Watches a run. Every method does nothing; override what you need.

    Calls never overlap (but for `on_wait`), but on real devices they come from the workers'
    threads, and everybody else waits meanwhile: they should return soon. What is given to them is
    theirs to keep and to change. One that raises ends the run with its error, which carries what
    there is of the result; the others are told all the same.

    Example:
        >>> import jax_ssp as ssp
        >>> class Enough(ssp.Observer):
        ...     def on_clock(self, row):
        ...         if row["updates"] >= 3:
        ...             self.stop("three are enough")
        >>> rehearsal = ssp.Virtual(num_workers=1, compute=False)
        >>> result = ssp.train(runtime=rehearsal, num_clocks=100, observers=[Enough()])
        >>> result.status, result.reason
        ('early', 'three are enough')
    """

    needs_evaluation = False
    """Whether a run that it watches must evaluate: then a version is evaluated each clock by
    default, and a run that has no `evaluate` is refused."""

    stays = False
    """Whether it is told in the process that calls `train` where another one carries the run out
    (`ssp.Ray(controller="actor")`), for what is to be seen, or happen, there. It is told a little
    later then, so that it holds nothing up: `stop` ends the run then, and not at that event. It
    reads no versions, and nothing of it is kept or saved. By default an observer travels with the
    run: a copy is told there, and what that has come to by the end is written into its attributes
    here, but for what cannot be pickled."""

    _ask: Callable[[str], object] | None = None  # of the run that it watches

    def stop(self, reason: str) -> None:
        """Have the run end early: nobody starts another clock, running ones are merged.

        It is heard once all is done that follows from the event which was told of: before
        anything else happens, so that what ends a run is the same in every world. It stands on the
        tape. It does nothing in a replay, where the tape says when the run ends; in a run that is
        ending already; and after the first time.

        Args:
            reason: why, in a few words; it becomes `Result.reason`.

        Raises:
            TypeError, ValueError: if the reason is no text, or empty.
            RuntimeError: if there is no run that it watches.
        """
        name = type(self).__name__
        reason = checks.text(f"{name}.stop(reason=...)", reason)
        if self._ask is None:
            raise RuntimeError(
                f"`{name}.stop` was called while it watches no run; call it in a method that tells "
                "of one, such as `on_eval`."
            )
        self._ask(reason)

    def check(self) -> None:
        """Raise if it cannot watch a run; called before any device is touched."""

    def check_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Raise if it can make nothing of such metrics: version 0's, before any worker starts."""

    def kept(self) -> Kept | None:
        """Parameters to be kept with the result, and saved in the run's folder; None for none."""
        return None

    def get_state(self) -> Mapping[str, Any] | None:
        """What it has come to, for a checkpoint, by name: arrays, numbers, texts and None.

        Arrays must stay as they are. None, the default, keeps nothing: where such a run goes on,
        the observer is told of what happens from the checkpoint on.
        """
        return None

    def set_state(self, state: Mapping[str, Any], version: Version) -> None:
        """Go on with what `get_state` gave; called after `on_start`.

        Args:
            state: its arrays are NumPy's.
            version: the newest at the checkpoint, to be read here, for the structure of parameters.
        """

    def on_start(self, info: Mapping[str, Any]) -> None:
        """The run begins, or goes on.

        There are `name, num_workers, policy, time` and the tape's other facts; what ends it,
        `num_clocks, max_updates, max_steps, max_samples, num_epochs`; and `remarks`, sentences on
        where the optimizer lives and what its schedules count.
        """

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape; `now` in seconds."""

    def on_clock(self, row: Mapping[str, Any]) -> None:
        """A delta was merged; or dropped, or its clock cancelled (then `merge_version` is -1).

        See `Result.history` for what is in the row. The metrics of a cancelled clock are empty.
        """

    def on_version(self, version: Version) -> None:
        """A version is there: number 0 before the first clock, then each that a merge has made.

        Its rows have been told before, by `on_clock`. Parameters and states are fetched when they
        are read, and only then cost anything.
        """

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """A version was evaluated.

        The row has `version`; the totals `updates, steps, samples` that are merged in it; `time`
        (seconds), `passed_over` and `metrics`. `passed_over` counts the versions that were due
        since the evaluation before, and waited when this one came.
        """

    def on_evaluated(self, version: Version, row: Mapping[str, Any]) -> None:
        """A version was evaluated, and this is that very version, with the row of `on_eval`.

        On real devices there may be newer ones by now, unless `eval_waits` is set.
        """

    def on_wait(self, waits: Sequence[Waiting]) -> None:
        """Nothing happens any more, as far as can be seen, and these are waited for.

        It comes from a thread of its own, perhaps while another call is under way. If no observer
        of a run overrides this, it is said on standard error.
        """

    def on_result(self, result: Any, error: BaseException | None) -> None:
        """All is closed, and this is the `Result`; with the error that ended the run, if one did.

        Not for a run that has failed so that there is no result. What one raises here carries the
        result too.
        """

    def on_end(self, status: str) -> None:
        """The run is over.

        The status is that of a `Result`: done, target, early, stopped, too few workers,
        interrupted, diverged or failed.
        """
