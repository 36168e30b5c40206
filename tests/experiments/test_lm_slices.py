"""The language model on slices: two workers of two devices train as two of one do."""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding

import jax_ssp as ssp
from experiments.workloads import lm
from experiments.workloads import transformer as net
from jax_ssp.placement import separate_memory
from jax_ssp.runtimes.slicing import worker_places
from jax_ssp.shardings import state_specs
from tests.helpers.problems import bits

P = jax.P
SHAPE = net.Shape(layers=1, width=24, heads=2, groups=2, hidden=40)
SLICES = jax.devices()[:2], jax.devices()[2:4]
FSDP = ssp.Devices(devices_per_worker=2, axes={"fsdp": 2})


def explicit(axis):
    kinds = (AxisType.Explicit,)
    return ssp.Devices([Mesh(np.array(each), (axis,), axis_types=kinds) for each in SLICES])


@dataclass(frozen=True)
class Plain(lm.LM):
    """With momentum: of a gradient near 0 AdamW makes as much as of any other."""

    def optimizer(self):
        return optax.sgd(0.1, momentum=0.9)


def experiment(runtime, **changed):
    how = net.Computing("float32", scan=True, remat=True)
    workload = Plain(SHAPE, how, context=16, batch_size=2, held_out=4)
    spec = {"policy": ssp.BSP(), "num_clocks": 3, "local_steps": 2, "eval_every": 2}
    return ssp.Experiment(workload=workload, runtime=runtime, **{**spec, **changed})


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [FSDP, explicit("fsdp")], ids=["auto", "explicit"])
def test_two_slices_train_a_language_model_as_two_devices_do(runtime, standard_promotion):
    flat = experiment(ssp.Devices(num_workers=2)).run()
    result = experiment(runtime).run()
    assert result.params["embedding"].sharding.spec == P(None, "fsdp")
    for name, leaf in flat.params.items():
        found = np.asarray(result.params[name])
        np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-6, err_msg=name)
    for one, other in zip(result.evaluations, flat.evaluations, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-5)


@pytest.mark.slow
def test_two_slices_exchange_it_in_fragments_as_two_devices_do(standard_promotion):
    """Streaming DiLoCo, in fragments that cut stacked layers and tables between their rows."""
    how = ssp.methods.streaming_diloco(h=4, fragments=ssp.Fragments(2), overlap=1)
    flat, result = (
        experiment(runtime, **{**how, "num_clocks": 5}).run()
        for runtime in (ssp.Devices(num_workers=2), FSDP)
    )
    ssp.check_contract(result.tape)
    for name, leaf in flat.params.items():
        found = np.asarray(result.params[name])
        np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_it_replays_to_the_bit_and_nothing_sharded_is_ever_whole(standard_promotion):
    """With memories apart, where the last device stands for the host, on which all of it is."""
    found, others = Counter(), jax.live_arrays()  # of other tests
    known = set(map(id, others))

    class Looking(ssp.Observer):
        def on_version(self, version):
            for array in (each for each in jax.live_arrays() if id(each) not in known):
                with contextlib.suppress(RuntimeError):  # a program has just taken it over
                    for shard in array.addressable_shards:
                        if shard.device in jax.devices()[:3]:
                            found[shard.data.shape] += 1

        def on_clock(self, *given):
            self.on_version(None)

    with separate_memory():
        run = experiment(FSDP, **{**ssp.methods.diloco(h=2), "policy": ssp.SSP(1)})
        result = run.run(observers=[Looking()])
        again = replace(run, runtime=ssp.Replay(result.tape)).run()
    assert bits(again.params) == bits(result.params)
    assert bits(again.states) == bits(result.states)
    ssp.check_contract(result.tape)
    specs = net.shardings(SHAPE, run.workload.computing, ("fsdp",))
    sharded = [leaf for name, leaf in result.params.items() if specs[name]]
    assert len(sharded) == 8
    for leaf in sharded:
        assert found[leaf.sharding.shard_shape(leaf.shape)] > 0
        assert found[leaf.shape] == 0


@pytest.mark.parametrize(
    ("axes", "embedding", "query"),
    [
        ({"fsdp": 2}, P(None, "fsdp"), P("fsdp")),
        ({"model": 2}, P("model"), P(None, "model")),
        ({"model": 2, "fsdp": 2}, P("model", "fsdp"), P("fsdp", "model")),
        ({"data": 2}, P(), P()),
    ],
    ids=str,
)
def test_the_workload_says_how_its_parameters_lie_on_a_slice(axes, embedding, query):
    """By the axes that the slice has, so that a runtime need not say it."""
    unstacked = replace(experiment(FSDP).workload, computing=net.Computing("float32"))
    task = unstacked.build(1, seed=0)
    (place, *_) = worker_places(ssp.Devices(axes=axes), task)
    specs = dict(zip(sorted(task.params), place.params, strict=True))
    assert specs["embedding"] == embedding
    assert specs["layers.0.attention.query.kernel"] == query
    assert specs["norm.scale"] == P()


@pytest.mark.parametrize("scan", [False, True])
def test_what_an_optimizer_keeps_for_a_parameter_lies_as_that_does(scan):
    """By its name, though query and out have one shape, and moments are dicts in dicts."""
    how = net.Computing("float32", scan=scan)
    step = lm.LM(SHAPE, how).step(0)
    specs = net.shardings(SHAPE, how, ("fsdp",))
    state = jax.eval_shape(step.init, step.params)
    found = state_specs(state, step.params, [specs[name] for name in sorted(step.params)])
    seen = Counter()
    for (path, leaf), spec in zip(jax.tree.leaves_with_path(state), found, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        _, _, name = name.replace(".nu.", ".mu.").partition(".mu.")
        assert spec == (specs[name] if name else P()), name
        assert bool(name) == bool(leaf.shape)
        seen[name] += 1
    assert {seen[name] for name in specs} == {2}


def test_what_a_runtime_says_goes_before_what_a_workload_says():
    task = experiment(FSDP).workload.build(1, seed=0)
    (place, *_) = worker_places(replace(FSDP, shardings=P()), task)
    assert {*place.params} == {P()}


def test_tensor_parallel_along_explicit_axes_is_refused():
    mesh = explicit("model").devices[0]
    kernel = jax.device_put(np.zeros((4, 2)), NamedSharding(mesh, P(None, "model")))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="give meshes with that axis `AxisTyp"):
        net.whole(kernel)
