"""From a scenario that goes wrong to a smaller one that does, and to a text that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from jax_ssp.controller import Ends
from jax_ssp.policies import ASP, BSP, SSP
from jax_ssp.testing.simulation.scenario import Scenario, scenario
from jax_ssp.testing.simulation.seeds import simulate

MOST_TRIES = 400


@dataclass(frozen=True)
class Failure:
    """A seed that went wrong.

    Attributes:
        scenario: what it stands for.
        smallest: what is left of that, and goes wrong still.
        error: of the smallest.
    """

    scenario: Scenario
    smallest: Scenario
    error: Exception

    def __str__(self) -> str:
        what = f"{type(self.error).__name__}: {self.error}"
        return (
            f"seed {self.scenario.seed} goes wrong: {what}\n"
            f"  as a smaller scenario: {self.smallest}\n"
            f"  See it again: jax_ssp.testing.simulation.simulate(scenario({self.scenario.seed}))"
        )


def failure(seed: int, run: Callable[[Scenario], Any] = simulate) -> Failure | None:
    """Run a seed; if it goes wrong, find out what of it has to do with that.

    Args:
        seed: of the scenario.
        run: raises what is wrong.
    """
    whole = scenario(seed)
    error = _error(whole, run)
    if error is None:
        return None
    smallest, error = shrunk(whole, error, run)
    return Failure(whole, smallest, error)


def shrunk(
    whole: Scenario, error: Exception, run: Callable[[Scenario], Any] = simulate
) -> tuple[Scenario, Exception]:
    """The smallest scenario that was found and goes wrong, with an error of the same kind."""
    smallest, tries = whole, 0
    again = True
    while again:
        again = False
        for smaller in _smaller(smallest):
            tries += 1
            found = _error(smaller, run)
            if found is not None and type(found) is type(error):
                smallest, error, again = smaller, found, True
                break
            if tries >= MOST_TRIES:
                return smallest, error
    return smallest, error


def _error(what: Scenario, run: Callable[[Scenario], Any]) -> Exception | None:
    try:
        run(what)
    except Exception as error:
        return error
    return None


def _smaller(whole: Scenario) -> Iterator[Scenario]:
    """Scenarios with less in them, those first that have much less."""
    for name in ("lost", "late", "data_ends", "damage", "power", "saves", "overlap"):
        if getattr(whole, name):
            yield replace(whole, **{name: 0})
    for name in ("donates", "keeps"):
        if getattr(whole, name):
            yield replace(whole, **{name: False})
    for at in range(len(whole.stops)):
        yield replace(whole, stops=whole.stops[:at] + whole.stops[at + 1 :])
    if not whole.same and whole.ends != Ends():
        yield replace(whole, same=True)
    for policy in (ASP(), BSP(), SSP(bound=1)):
        if whole.policy not in (ASP(), BSP(), SSP(bound=1)):
            yield replace(whole, policy=policy)
    plainer: dict[str, Any] = {"ends": Ends(), "local_steps": 1, "weight": "mean"}
    for name, value in plainer.items():
        if getattr(whole, name) != value and not (whole.same and name == "ends"):
            yield replace(whole, **{name: value})
    for name, least in (("rows", 1), ("workers", 1)):
        value = getattr(whole, name)
        for less in dict.fromkeys((least, value // 2, value - 1)):
            if least <= less < value:
                yield replace(whole, **{name: less})
    for at, stop in enumerate(whole.stops):
        for less in dict.fromkeys((0, stop // 2, stop - 1)):
            if 0 <= less < stop:
                yield replace(whole, stops=(*whole.stops[:at], less, *whole.stops[at + 1 :]))
