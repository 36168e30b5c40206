"""What the controller does not ask a policy is what the policy would have answered."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.controller import StartAhead
from jax_ssp.policies import ASP, BSP, SSP, Policy
from jax_ssp.policies.base import merges_on_arrival
from tests.helpers.harness import Forgetful, random_run


class Asked:
    """Changes nothing, but so that the controller cannot know: it has to ask."""

    def ready(self, view):
        return super().ready(view)

    def local_steps(self, view, worker):
        return super().local_steps(view, worker)


@dataclass(frozen=True)
class AskedASP(Asked, ASP):
    pass


@dataclass(frozen=True)
class AskedSSP(Asked, SSP):
    pass


def test_who_merges_on_arrival_is_known_where_ready_is_the_default():
    assert all(map(merges_on_arrival, [Policy(), ASP(), SSP(1), SSP(3, "lazy")]))
    others = [AskedASP(), AskedSSP(3), Forgetful(3), BSP(), SSP(0)]
    assert not any(map(merges_on_arrival, others))


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (ASP(), AskedASP()),
        (SSP(1), AskedSSP(1)),
        (SSP(3), AskedSSP(3)),
        (SSP(2, "lazy"), AskedSSP(2, "lazy")),
    ],
    ids=repr,
)
@settings(deadline=None)
@given(
    limits=st.sampled_from(
        [
            *({}, {"num_clocks": 5}, {"max_updates": 20}, {"local_steps": 4}),
            {"max_samples": 45, "round_samples": 8},
            {"max_steps": 30, "local_steps": 4},
        ]
    ),
    losses=st.booleans(),
    grant_ahead=st.booleans(),
    seed=st.integers(0, 2**32),
)
@pytest.mark.every(5)
def test_not_to_ask_changes_nothing(policy, asked, limits, losses, grant_ahead, seed):
    options = {"losses": losses, "grant_ahead": grant_ahead, **limits}
    one, other = random_run(policy, seed, **options), random_run(asked, seed, **options)
    for row, same in zip(one.drain(), other.drain(), strict=True):
        # Of steps that are asked for when the clock starts, one is sure before.
        commands = [c._replace(local_steps=1) if type(c) is StartAhead else c for c in row.commands]
        if limits.get("local_steps", 1) == 1:
            assert commands == row.commands
        assert row._replace(commands=commands) == same
    assert (one.controller.coverage, one.controller.min_clock) == (
        other.controller.coverage,
        other.controller.min_clock,
    )
