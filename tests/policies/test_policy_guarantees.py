"""What a policy promises holds under any delays, is checked, and is not promised in vain."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.policies import ALL_POLICIES, ALL_SCHEDULES
from tests.helpers.papers import clockwork, exponential, heavy, log_of, unequal

EVERY = list(
    dict.fromkeys(
        [
            *(kind() for kind in ALL_POLICIES),
            *(ssp.SSP(bound, adopt) for bound in (0, 1, 5) for adopt in ("eager", "lazy")),
            *(ssp.DSSP(0, 2), ssp.DSSP(4, 4), ssp.PSP(1, 0), ssp.PSP(4, 2), ssp.VAP(0.1)),
            *(ssp.KSync(1), ssp.KSync(3), ssp.KAsync(1), ssp.KAsync(3)),
            *(ssp.KBatchSync(1), ssp.KBatchSync(9), ssp.KBatchAsync(9), ssp.Softsync(3)),
            *(ssp.BackupWorkers(0), ssp.BackupWorkers(3), ssp.Rennala(1), ssp.Rennala(9)),
            *(ssp.Ringmaster(1), ssp.Ringmaster(3), ssp.Ringmaster(3, stops=True)),
            *(ssp.Quorum(1, 0.0), ssp.Quorum(3, 2.0), ssp.FedBuff(1), ssp.FedBuff(3)),
            *(
                ssp.Quorum(2, 1.0, apart=True),
                ssp.Decoupled(3, 1.0),
                ssp.Decoupled(2, 0.0, carry=3),
            ),
        ]
    )
)


def fits(policy, workers):
    try:
        policy.check(workers)
    except ValueError:
        return False
    return True


FITTING = [
    (policy, workers) for policy in EVERY for workers in (1, 2, 4, 8) if fits(policy, workers)
]


@pytest.mark.parametrize(("policy", "workers"), FITTING, ids=[f"{p!r} {w}" for p, w in FITTING])
@pytest.mark.every(4)
def test_a_policy_keeps_what_it_promises(policy, workers):
    for delays in (exponential, heavy, unequal):
        result = clockwork(policy, delays(workers, 60), num_clocks=50)
        report = ssp.check_contract(result.tape)
        assert report.complete
        assert report.merged + report.dropped + report.cancelled == 50 * workers
        assert report.dropped == 0 or isinstance(
            policy, ssp.BackupWorkers | ssp.Ringmaster | ssp.Rennala | ssp.Decoupled
        )
        allowed = policy.guaranteed_staleness(workers)
        assert (report.staleness_bound, report.bound) == (allowed, policy.guaranteed_bound)
        assert allowed is None or report.max_staleness <= allowed
        # The same figures from the schedule alone.
        rows = result.schedule
        merged = rows[rows["merge_version"] >= 0]
        assert report.max_staleness == merged["staleness"].max()
        recomputed = merged["merge_version"] - 1 - merged["base_version"]
        np.testing.assert_array_equal(merged["staleness"], recomputed)


@pytest.mark.parametrize("policy", EVERY, ids=repr)
@pytest.mark.every(5)
def test_a_tape_that_promises_one_less_than_happened_is_refused(policy):
    result = clockwork(policy, heavy(6, 60), num_clocks=50)
    report = ssp.check_contract(result.tape)
    # A header in which the policy is not known, so that its own promises count.
    del result.tape.header["policy"], result.tape.header["experiment"]
    result.tape.header["max_staleness"] = report.max_staleness
    assert ssp.check_contract(result.tape).max_staleness == report.max_staleness
    result.tape.header["max_staleness"] = report.max_staleness - 1
    with pytest.raises(ssp.ContractViolation, match=r"clause 2 broken.*allowed are|is -1"):
        ssp.check_contract(result.tape)
    result.tape.header["max_staleness"] = None
    result.tape.header["bound"] = report.max_start_lag - 1
    with pytest.raises(ssp.ContractViolation, match=r"clause [12] broken|is -1"):
        ssp.check_contract(result.tape)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("bound", [0, 1, 3])
def test_the_guaranteed_staleness_of_ssp_is_reached_by_some_delays(bound, workers):
    """So it could not be promised lower.

    Worker 0 runs ahead by the bound, before anybody else has finished a clock, and then takes long
    for clock s. Meanwhile the others go from clock 0 to 2 s, all of which are merged before it.
    """
    table = np.ones((workers, 40)) + 1e-3 * np.arange(workers)[:, None]
    table[0, : bound + 1] = [*[1e-4] * bound, 1000.0]
    result = clockwork(ssp.SSP(bound), table, num_clocks=30)
    worst = ssp.check_contract(result.tape).max_staleness
    assert worst == ssp.SSP(bound).guaranteed_staleness(workers)
    assert worst == (0 if bound == 0 else (workers - 1) * (2 * bound + 1))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("bound", [1, 2])
def test_the_guaranteed_staleness_of_lazy_reads_is_reached_by_some_delays(bound, workers):
    policy, rng = ssp.SSP(bound, "lazy"), np.random.default_rng(0)
    allowed = policy.guaranteed_staleness(workers)
    assert allowed == (workers - 1) * (2 * bound + 1) + bound
    for _ in range(50):  # tables; none of them goes beyond
        table = rng.choice([1e-3, 1.0, 3.0, 30.0], size=(workers, 14))
        result = clockwork(policy, table * rng.uniform(0.99, 1.01, table.shape), num_clocks=12)
        if ssp.check_contract(result.tape).max_staleness == allowed:
            return
    pytest.fail("it is promised higher than need be")


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("r", [1, 4, 9])
def test_ringmaster_merges_what_is_r_minus_1_versions_old_and_no_more(r, stops, workers):
    policy, gap = ssp.Ringmaster(r, stops), 1 / (workers - 1)
    table = np.ones((workers, 60))
    for others in (r - 1, r):  # so many clocks of the others end while worker 0 runs its first
        table[1:, 0] = gap * np.arange(1, workers)
        table[0] = gap * (others + 0.5)
        rows = clockwork(policy, table, num_clocks=20).schedule
        first = rows[(rows["worker"] == 0) & (rows["clock"] == 0)][0]
        wanted = (others, others + 1) if others < r else (0, -1)
        assert (first["staleness"], first["merge_version"]) == wanted


# How many deltas a merge usually has; that merge is compiled before the start.


# Who comes within the grace of a quorum depends on the delays: with equal workers it is everybody.
STEADY = [policy for policy in EVERY if not getattr(policy, "grace", 0.0)]


@pytest.mark.parametrize("policy", STEADY, ids=repr)
def test_most_merges_of_equal_workers_have_the_usual_size(policy):
    workers = 6
    table = np.random.default_rng(0).uniform(0.999, 1.001, size=(workers, 70))
    result = clockwork(policy, table, num_clocks=60)
    sizes = Counter(len(row[2]) for row in log_of(result.tape) if row[1] == "merge")
    assert sizes.most_common(1)[0][0] == policy.usual_merge(workers)
    assert sizes.most_common(1)[0][1] > 0.9 * sizes.total()


# Errors.


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ssp.KSync(5), r"`KSync\(k=5\)` waits for more .* 4 workers .* make `k` at most 4, or add"),
        (ssp.KAsync(9), r"`KAsync\(k=9\)` waits for more deltas than 4 workers"),
        (ssp.Quorum(5), r"`Quorum\(k=5\)` waits for more deltas than 4 workers"),
        (ssp.Softsync(5), r"`Softsync\(n=5\)` splits 4 workers .* make `n` at most 4, where it is"),
        (ssp.BackupWorkers(4), r"`BackupWorkers\(b=4\)` leaves no worker of 4 .* `b` at most 3"),
    ],
    ids=repr,
)
def test_what_so_many_workers_cannot_run_is_refused_with_the_remedy(policy, message):
    with pytest.raises(ValueError, match=message):
        clockwork(policy, np.ones((4, 9)), num_clocks=2)
    field = dataclasses.fields(policy)[0].name
    most = dataclasses.replace(policy, **{field: 3 if field == "b" else 4})
    assert clockwork(most, np.ones((4, 9)), num_clocks=2).status == "done"


@pytest.mark.parametrize(
    "policy", [ssp.KBatchSync(9), ssp.KBatchAsync(9), ssp.FedBuff(9), ssp.Rennala(9)], ids=repr
)
def test_a_batch_may_be_larger_than_the_number_of_workers(policy):
    result = clockwork(policy, heavy(2, 60), max_updates=18)
    assert [len(row[2]) for row in log_of(result.tape) if row[1] == "merge"] == [9, 9]


INTEGERS = {
    ssp.SSP: {"bound": 0},
    ssp.DSSP: {"lower": 0, "upper": 0},
    ssp.PSP: {"sample": 0, "bound": 0, "seed": 0},
    ssp.KSync: {"k": 1},
    ssp.KAsync: {"k": 1},
    ssp.KBatchSync: {"k": 1},
    ssp.KBatchAsync: {"k": 1},
    ssp.Softsync: {"n": 1},
    ssp.BackupWorkers: {"b": 0},
    ssp.Ringmaster: {"max_delay": 1},
    ssp.Rennala: {"batch": 1},
    ssp.Quorum: {"k": 1},
    ssp.Decoupled: {"quorum": 1, "tau": 0, "carry": 0},
    ssp.FedBuff: {"size": 1},
    ssp.Fixed: {"h": 1},
    ssp.PostLocal: {"h": 1, "switch": 1},
    ssp.DyLU: {"h": 1, "memory": 1},
}
FIELDS = [(kind, *field) for kind, least in INTEGERS.items() for field in least.items()]


@pytest.mark.parametrize(
    ("kind", "field", "least"), FIELDS, ids=[f"{k.__name__}.{f}" for k, f, _ in FIELDS]
)
def test_an_integer_field_says_what_is_wrong_with_its_value(kind, field, least):
    name = rf"`{kind.__name__}\({field}=...\)` must be "
    for value in (1.5, True, "3", None):
        with pytest.raises(TypeError, match=rf"^{name}an integer, got {value!r}\.$"):
            kind(**{field: value})
    rule = "non-negative" if least == 0 else f"at least {least}"
    for value in (least - 1, -7):
        with pytest.raises(ValueError, match=rf"^{name}{rule}, got {value}\.$"):
            kind(**{field: value})
    others = {"lower": 0} if field == "upper" else {}
    assert getattr(kind(**{field: least}, **others), field) == least


def test_no_policy_and_no_schedule_is_left_out_of_the_table_of_integers():
    for kind in (*ALL_POLICIES, *ALL_SCHEDULES):
        fields = [each for each in dataclasses.fields(kind) if each.type == "int" and each.init]
        assert {each.name for each in fields} == set(INTEGERS.get(kind, ()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ssp.DSSP(lower=9), r"`DSSP\(upper=...\)` must be at least `lower`, .* 9, got 7\."),
        (lambda: ssp.DSSP(3, 2), r"`DSSP\(upper=...\)` must be at least `lower`, .* 3, got 2\."),
        *(
            (lambda value=value: ssp.VAP(value), rf"`VAP\(limit=...\)` must be {must}, got {value}")
            for must, value in (
                *(("positive", 0), ("positive", -1.0)),
                *(("finite", float("nan")), ("finite", float("inf"))),
            )
        ),
        *(
            (
                lambda value=value: ssp.Quorum(grace=value),
                rf"`Quorum\(grace=...\)` must be {must}, got {value}",
            )
            for must, value in (
                *(("non-negative", -0.5), ("finite", float("nan")), ("finite", float("inf"))),
            )
        ),
    ],
)
def test_other_fields_say_what_is_wrong_with_their_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", ["x", True, None])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"`VAP\(limit=...\)` must be a number, got"):
        ssp.VAP(value)
    with pytest.raises(TypeError, match=r"`Quorum\(grace=...\)` must be a number, got"):
        ssp.Quorum(grace=value)
