"""The weight of a delta: by the run's rule, by what its push reports, or as the policy says."""

from dataclasses import dataclass

import pytest

import jax_ssp as ssp
from jax_ssp.controller import Merge, PolicyError, check_contract
from jax_ssp.controller.weight import COUNTING, NAMED, shares_of
from jax_ssp.policies import BSP, Quorum, Rennala
from jax_ssp.policies.base import merges_on_arrival
from jax_ssp.testing import check_policy
from jax_ssp.testing.driving import Run, random_run


def merges_of(tape):
    return [c for _, _, commands in tape for c in commands if isinstance(c, Merge)]


@pytest.mark.parametrize("weight", COUNTING)
def test_a_delta_has_its_share_of_what_its_merge_was_computed_from(weight):
    run = random_run(Quorum(3, 0.5), seed=3, events=80, weight=weight, losses=True)
    pushes = {push.token: push for push in run.model.pushes}
    merges = merges_of(run.tape)
    assert any(len(merge.deltas) > 2 for merge in merges)
    for merge in merges:
        counts = [getattr(pushes[delta.token], weight) for delta in merge.deltas]
        assert [d.weight for d in merge.deltas] == [count / sum(counts) for count in counts]
    assert check_contract(run.drain()).merged == len(run.model.stalenesses)


def test_the_shares_of_samples_and_of_tokens_differ():
    runs = [random_run(BSP(), seed=1, weight=name) for name in ("merged", *COUNTING)]
    weights = [[d.weight for m in merges_of(run.tape) for d in m.deltas] for run in runs]
    assert len({tuple(each) for each in weights}) == 3


def test_where_nothing_is_counted_all_are_equal():
    run = ssp.train(
        policy=ssp.Quorum(2, 0.0),
        runtime=ssp.Virtual(2, compute=False),
        num_clocks=3,
        weight="tokens",
    )
    assert run.schedule["weight"].tolist() == [0.5] * 6


def test_a_tape_with_another_weight_than_by_the_counts_is_refused():
    run = random_run(Quorum(3, 0.5), seed=3, weight="tokens")
    tape = run.drain()

    def changed(command):
        if not isinstance(command, Merge) or len(command.deltas) < 2:
            return command
        one, other, *rest = command.deltas
        swapped = one._replace(weight=other.weight), other._replace(weight=one.weight)
        return command._replace(deltas=(*swapped, *rest))

    wrong = type(tape)(tape.header)
    for now, event, commands in tape:
        wrong.append(now, event, list(map(changed, commands)))
    with pytest.raises(ssp.ContractViolation, match=r"clause 4 broken.*weight are"):
        check_contract(wrong)


def test_shares_of_statistics_follow_the_weights_but_for_sums_and_numbers():
    for name in NAMED:
        shares = [0.25, 0.75] if name != "sum" else [0.5, 0.5]
        assert shares_of(name, [0.25, 0.75], 2) == shares
        assert shares_of(name, [0.0, 0.0], 2) == ([0.0, 0.0] if name != "sum" else [0.5, 0.5])
    assert shares_of(0.3, [0.3, 0.3], 4) == [0.25, 0.25]


# Weights of a policy.


@dataclass(frozen=True)
class ByClock(ssp.Policy):
    """The older a delta's clock, the less it weighs."""

    def weights(self, view, merged):
        assert not set(view.buffered) & {(each.worker, each.clock, each.version) for each in merged}
        return [1 / (1 + view.version - each.version) for each in merged]


@dataclass(frozen=True)
class Pairs(ByClock):
    def ready(self, view):
        some = tuple(view.buffered)
        return ssp.policies.Decision(merge=some[:2] if len(some) > 1 else ())


@pytest.mark.parametrize("policy", [ByClock(), Pairs()], ids=repr)
def test_a_policy_may_say_the_weights(policy):
    check_policy(policy, schedules=10)
    run = random_run(policy, seed=4, losses=True)
    assert not merges_on_arrival(policy)
    for merge in merges_of(run.tape):
        for delta in merge.deltas:
            assert delta.weight == 1 / (1 + delta.staleness)
    tape = run.drain()
    assert check_contract(tape).merged
    tape.header["gives_weights"] = False
    with pytest.raises(ssp.ContractViolation, match="weight are"):
        check_contract(tape)


@pytest.mark.parametrize("given", [[], [1.0, 1.0, 1.0], ["1"], [float("nan")], [True]], ids=repr)
def test_weights_that_cannot_be_end_the_run_with_the_policys_name(given):
    @dataclass(frozen=True)
    class Wrong(ssp.Policy):
        def weights(self, view, merged):
            return given

    with pytest.raises(PolicyError, match=r"Wrong\(\) gives 1 deltas the weights"):
        random_run(Wrong(), seed=0)


def test_a_policy_that_gives_weights_leaves_no_choice_of_them():
    quiet = ssp.Virtual(2, compute=False)
    with pytest.raises(
        ValueError, match=r"`weight='sum'`, but ByClock gives the weights of a merge"
    ):
        ssp.train(policy=ByClock(), runtime=quiet, num_clocks=2, weight="sum")
    run = ssp.train(policy=ByClock(), runtime=quiet, num_clocks=2)
    assert check_contract(run.tape).merged == 4


def test_a_policy_may_leave_the_weights_to_the_run():
    @dataclass(frozen=True)
    class Leaves(ssp.Policy):
        def weights(self, view, merged):
            return None

    run = random_run(Leaves(), seed=0)
    assert {d.weight for merge in merges_of(run.tape) for d in merge.deltas} == {0.25}


def test_rules_that_do_not_count_give_what_they_did():
    for weight, expected in (("mean", 0.25), ("sum", 1.0), ("merged", 0.5), (0.3, 0.3)):
        run = Run(Rennala(2), workers=4, weight=weight)
        run.finish(0), run.finish(1)
        (merge,) = merges_of(run.tape)
        assert [delta.weight for delta in merge.deltas] == [expected] * 2
