"""Workers on slices exchange in fragments, as those with one device do; nothing is gathered."""

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from tests.helpers.broken_off import gone_on, whole
from tests.runtimes.test_slices import STEP, TENSOR, TWO, data, first, loss, on_devices, same, train

WIRES = {"delta_wire": ssp.compression.Int8(), "snapshot_wire": ssp.compression.Int8()}
MIX = {"overlap": 1, "local_steps": 2, "adopt": ssp.Mix(0.5)}
MEASURED = {"delta_tx": ssp.mitigations.delay_compensation(0.5)}
STACKED = ssp.Fragments(2, by="strided", layers="w1")  # rows of an axis that FSDP shards
FSDP, MODEL = ssp.Devices(**TWO), ssp.Devices(devices_per_worker=2, shardings=TENSOR)
slow = pytest.mark.slow


AHEAD = {**MIX, "adopt": "rebase"}
LAST = ssp.Fragments(2, by="sequential", layers="w2")
PATHS = ssp.Fragments(paths=(("w1",), ("b", "w2")))


@pytest.mark.parametrize(
    ("runtime", "fragments", "how"),
    [
        (FSDP, STACKED, MIX),
        pytest.param(FSDP, LAST, {}, marks=slow),
        pytest.param(FSDP, 3, AHEAD, marks=slow),
        pytest.param(MODEL, STACKED, MEASURED, marks=slow),
        pytest.param(MODEL, PATHS, AHEAD, marks=slow),
        pytest.param(MODEL, 3, MIX, marks=slow),
    ],
)
def test_two_slices_train_as_two_devices_do(runtime, fragments, how):
    spec = {"policy": ssp.BSP(), "num_clocks": 6, "fragments": fragments, **how}
    flat, result = train(ssp.Devices(num_workers=2), **spec), train(runtime, **spec)
    for name, leaf in flat.params.items():
        np.testing.assert_allclose(result.params[name], leaf, rtol=1e-5, atol=1e-7)
        assert result.params[name].sharding.spec == runtime.shardings[name]
    ssp.check_contract(result.tape)


@pytest.mark.parametrize(
    "how", [{}, pytest.param({**MIX, **WIRES}, marks=slow)], ids=["plain", "wires and mix"]
)
def test_one_fragment_is_none_to_the_bit(how):
    runs = [train(FSDP, policy=ssp.BSP(), fragments=count, **how) for count in (None, 1)]
    assert same(runs[0].params, runs[1].params)
    assert same(runs[0].states, runs[1].states)


@pytest.mark.parametrize(
    "how",
    [
        MIX,
        *(
            pytest.param(each, marks=slow)
            for each in (
                {**MIX, **WIRES},
                {"placement": "devices", **MEASURED},
                {"policy": ssp.SSP(2, "lazy"), "snapshot_wire": ssp.compression.BFloat16()},
            )
        ),
    ],
    ids=["mix", "wires", "merged on the workers' devices", "lazy"],
)
def test_replays_to_the_bit(how):
    spec = {"fragments": STACKED, "num_clocks": 6, **how}
    result = train(FSDP, **spec)
    again = train(ssp.Replay(result.tape), **spec)
    assert same(result.params, again.params)
    assert same(result.states, again.states)
    ssp.check_contract(result.tape)
    if how is not MIX:  # a state for each fragment and position, and each worker that merges it
        assert len(result.states.server) == 2 * 2 * (2 if "placement" in how else 1)
        with pytest.raises(ssp.TapeMismatch, match="fragments"):
            train(ssp.Replay(result.tape), **{**spec, "fragments": 2})


@pytest.mark.parametrize(
    ("fragments", "how"),
    [
        (ssp.Fragments(2, by="strided", layers="w2"), {}),
        (3, {"overlap": 1, "local_steps": 2, **WIRES}),
        (ssp.Fragments(paths=(("w1",), ("w2",))), MIX),
    ],
    ids=["plain", "ahead with wires", "mix"],
)
@slow
def test_what_a_user_shards_is_never_whole_on_a_device(fragments, how, standard_promotion):
    found = on_devices(fragments=fragments, **how)
    assert found[5, 20] > 0
    assert found[20, 3] > 0
    assert found[5, 40] == found[40, 3] == 0


LOSSY = {**MIX, "delta_wire": ssp.compression.Int8()}


@pytest.mark.parametrize(
    ("policy", "how"), [(ssp.BSP(), {}), (ssp.BSP(), LOSSY), (ssp.SSP(2), LOSSY)], ids=str
)
@slow
def test_a_run_that_was_broken_off_goes_on(policy, how):
    """To the same bits, where the order of workers makes no difference."""
    spec = {"params": first(), "step": STEP, "data": data, "runtime": FSDP, "policy": policy}
    spec |= {"num_clocks": 6, "fragments": 2, **how}
    result, cuts = whole(spec)
    pending = [cut for cut in cuts if any("/own/" in name for name in cut.arrays)]
    for cut in (None, (pending or cuts)[-1]):
        rows = len(result.tape) - 3 if cut is None else cut.rows
        other = gone_on(spec, result, rows, cut)
        again = ssp.train(**{**spec, "runtime": ssp.Replay(other.tape), "progress": False})
        assert same(again.params, other.params)
        if policy == ssp.BSP():
            assert same(result.params, other.params)
            assert same(result.states, other.states)
    assert pending or policy == ssp.BSP()


@slow
def test_what_adopts_a_fragment_is_compiled_before_the_run(caplog):
    """Once for all slices: what is rehearsed lies as what clocks leave."""
    jax.config.update("jax_log_compiles", True)
    try:
        step = ssp.make_step(loss, optax.sgd(0.1))  # of which nothing is compiled yet
        train(FSDP, step=step, fragments=STACKED, policy=ssp.BSP())
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [each.getMessage() for each in caplog.records]
    assert sum(each.startswith("Compiling jit(_adopted)") for each in compiled) == 2
    assert sum(each.startswith("Compiling jit(rest)") for each in compiled) == 1
