"""What is public and takes arguments, with arguments that are right.

Read off the public names and their signatures, so that what is new is fuzzed without an edit here;
only an argument without a default may need a sample.
"""

import dataclasses
import enum
import inspect
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_ssp as ssp
from jax_ssp import data
from jax_ssp.checkpoint.metrics import MetricsWriter, read_metrics
from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.compression import Compressor
from jax_ssp.controller import DeltaReady, WorkerJoined
from jax_ssp.delays import Delay
from jax_ssp.policies import LocalSteps
from jax_ssp.runtimes.evaluation import Target
from jax_ssp.runtimes.plan import describe


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something to be called.

    Attributes:
        name: for people.
        call: takes keyword arguments.
        right: arguments that are right.
        parameters: names of all that can be given.
        maybe: names of those that may be None.
        sense: raises unless the value that came of it makes sense.
    """

    name: str
    call: object
    right: dict
    parameters: tuple
    maybe: tuple
    sense: object


NOT_ASKED = {
    # Given by the package, never taken from a user.
    *("Result", "Run", "ContractReport", "ShardIterator", "Version"),
    # The name that a message shall say.
    "as_schedule.field",
    # However many there are, each takes its time.
    "check_policy.schedules",
    # What a step of this package gives.
    "Server.views",
}


def loss_fn(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {}


def batches(worker):
    return itertools.repeat(np.float32(1))


def nnx_loss(model, batch):
    return jnp.mean(model(batch) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(0.1))
PARAMS = {"w": np.zeros(2, np.float32)}
CLOCKWORK = {
    "policy": ssp.SSP(bound=1),
    "runtime": ssp.Virtual(num_workers=2, compute=False),
    "num_clocks": 2,
    "max_updates": 20,
}
COMPUTING = {
    "step": STEP,
    "params": PARAMS,
    "data": batches,
    "policy": ssp.SSP(bound=1),
    "runtime": ssp.Virtual(num_workers=2),
    "num_clocks": 2,
    "max_updates": 20,
}
RUN = ssp.train(**CLOCKWORK)
SCHEDULE = RUN.schedule


def sample(parameter):
    """A value that should be right for an argument without a default."""
    by_name = {
        "policy": ssp.SSP(bound=1),
        "params": PARAMS,
        "tree": PARAMS,
        "like": PARAMS,
        "compressor": ssp.compression.Int8(),
        "residual": ssp.compression.residual_of(PARAMS),
        "message": [jnp.zeros(2)],
        "arrays": np.arange(12.0),
        "batch_size": 2,
        "num_workers": 2,
        "deltas": [PARAMS],
        "iterator": iter([np.zeros(2)]),
        "device": jax.devices()[0],
        "worker": 0,
        "mean": 1.0,
        "shift": 1.0,
        "minimum": 1.0,
        "shape": 2.0,
        "median": 1.0,
        "sigma": 0.5,
        "tape": RUN.tape,
        "header": dict(RUN.tape.header),
        "optimizer": optax.sgd(0.1),
        "loss_fn": loss_fn,
        "model": nnx.Linear(2, 1, rngs=nnx.Rngs(0)),
        "loss": nnx_loss,
        "function": optax.identity,
        "local_steps": 2,
        "schedule": SCHEDULE,
        "text": "a >= 1",
        "metrics": {"a": 1.0},
        "event": WorkerJoined(0),
        "now": 0.0,
        "metric": "a",
        "decay": 0.5,
        "at_least": True,
        "value": 1.0,
        "config": {},
    }
    by_type = {
        "GradientTransformation": optax.sgd(0.1),
        "Callable": lambda *each: 1.0,
        "bool": True,
        "int": 1,
        "float": 1.0,
        "str": "a",
    }
    found = [value for kind, value in by_type.items() if kind in str(parameter.annotation)]
    return by_name.get(parameter.name, next(iter(found), None))


FAULTS = (
    *("Crash", "Hang", "Slow", "NaN", "Raise", "OutOfMemory", "Duplicate", "Late", "LostPush"),
    *("HoldLock", "Stopped", "Kill", "Terminate"),
)

# Where the sample of a name is another one.
OTHERWISE = {
    "PerWorker.seconds": (1.0, 2.0),
    "FromTrace.seconds": ((1.0,), (2.0,)),
    "write_tape.path": "tape.jsonl.gz",
    "read_tape.path": "recorded.jsonl.gz",
    "load_params.run": "saved",
    "read_run.folder": "a-run",
    "runs_in.folder": "a-run",
    "Run.read.folder": "a-run",
    "save_params.folder": "run",
    "RunFolder.path": "a/run",
    "MetricsWriter.folder": "metrics",
    "read_metrics.path": "measured",
    "check_delay_model.delay": ssp.delays.Exponential(),
    "check_step.step": STEP,
    "check_step.batch": np.float32(1),
    "check_mitigation.transform": optax.identity(),
    "chained.parts": ssp.configured(optax.identity),
    "Straggler.burst": 1,
    "Straggler.every": 2,
    "KSync.k": 2,
    "Poisson.mtbf": 4.0,
    "from_words.words": ["crash:1:2"],
    "in_words.faults": [ssp.faults.Crash(1, 2)],
    **{f"{kind}.{name}": value for kind in FAULTS for name, value in (("worker", 0), ("clock", 1))},
}


def public():
    """The public classes and functions by name, of the package and of its public modules."""
    found = {name: getattr(ssp, name) for name in ssp.__all__}
    for module in [each for each in found.values() if inspect.ismodule(each)]:
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (getattr(value, "__module__", None) or "").startswith(module.__name__)
        ]
        found.update({name: getattr(module, name) for name in names})
    found.update(RunFolder=RunFolder, MetricsWriter=MetricsWriter, read_metrics=read_metrics)
    found.update(Target=Target)
    return {name: value for name, value in found.items() if is_asked(name, value)}


def is_asked(name, value):
    if name in NOT_ASKED:
        return False
    if inspect.isclass(value):
        made = not issubclass(value, tuple | Exception | enum.Enum)
        return made and not inspect.isabstract(value) and not getattr(value, "_is_protocol", False)
    return inspect.isfunction(value) or hasattr(value, "__wrapped__")


def subject(name, call, sense, right=None):
    """A subject by the signature of what is called."""
    parameters = {
        each.name: each
        for each in inspect.signature(call).parameters.values()
        if each.kind is not each.VAR_KEYWORD
        and f"{name}.{each.name}" not in NOT_ASKED
        and (each.kind is not each.VAR_POSITIONAL or f"{name}.{each.name}" in OTHERWISE)
    }
    if right is None:
        right = {}
        for parameter in parameters.values():
            full = f"{name}.{parameter.name}"
            if full in OTHERWISE:
                right[parameter.name] = OTHERWISE[full]
            elif parameter.default is parameter.empty:
                right[parameter.name] = sample(parameter)
    several = [each.name for each in parameters.values() if each.kind is each.VAR_POSITIONAL]

    def called(**arguments):
        spread = [arguments.pop(each) for each in several if each in arguments]
        return call(*spread, **arguments)

    maybe = tuple(each for each in parameters if parameters[each].default is None)
    return Subject(name, called, right, tuple(parameters), maybe, sense)


def subjects():
    """All of them, by name."""
    found = [subject(name, value, sense_of(name)) for name, value in public().items()]
    found = [each for each in found if each.parameters and each.name != "train"]
    found += [
        subject("train", ssp.train, makes_a_result, CLOCKWORK),
        subject("sweep", ssp.sweep, anything, {"experiments": [ssp.Experiment(**CLOCKWORK)]}),
        subject("Experiment.run", ssp.Experiment(**CLOCKWORK).run, makes_a_result),
        dataclasses.replace(
            subject("Experiment", ssp.Experiment, makes_a_result, CLOCKWORK),
            name="Experiment(...).run()",
            call=lambda **given: ssp.Experiment(**given).run(),
        ),
        method("Server.merge", server),
        method("Server.snapshot", server),
        method("Shards.__call__", shards),
        method("Epochs.batch", epochs, {"epoch": 0, "index": 0}),
        method("ShardIterator.set_state", lambda: shards()(0), {"state": shards()(0).get_state()}),
        method("Controller.handle", controller),
        method("FromTrace.from_schedule", lambda: ssp.delays.FromTrace),
        method("Run.read", lambda: ssp.Run, {"folder": "a-run"}),
        method("Target.parse", lambda: Target),
        method("Target.reached", lambda: Target.parse("a >= 1")),
        method("Int8.encode", ssp.compression.Int8),
        method("TopK.encode", ssp.compression.TopK),
        method("Sign.encode", ssp.compression.Sign),
        method("BFloat16.encode", ssp.compression.BFloat16),
    ]
    return {each.name: each for each in found}


def computing():
    """`train` where gradients are computed; slower."""
    return subject("train", ssp.train, makes_a_result, COMPUTING)


def method(name, make, right=None):
    """A method of an object that is made anew for each call."""
    bare = name.split(".")[1]
    shown = subject(name, getattr(make(), bare), anything, right)

    def call(**arguments):
        return getattr(make(), bare)(**arguments)

    return dataclasses.replace(shown, call=call)


def server():
    return ssp.Server({"w": jnp.zeros(2)})


def shards():
    return data.Shards(np.arange(12.0), batch_size=2, num_workers=2)


def epochs():
    return data.Epochs(np.arange(12.0), batch_size=2)


def controller():
    made = ssp.Controller(ssp.SSP(bound=1), ends=ssp.Ends(num_clocks=2))
    made.handle(WorkerJoined(1), 0.0)
    return made


# What a value has to be like.


def sense_of(name):
    return {
        "Server": keeps_numbers,
        "Controller": comes_to_an_end,
        "Shards": gives_batches,
        "Epochs": gives_epochs,
        "Experiment": anything,
        "Task": anything,  # it holds what has no hash
        "make_step": anything,
        "configured": anything,
    }.get(name, whatever_it_is)


def anything(value):
    """No more is asked."""


def makes_a_result(result):
    assert result.status in ("done", "target")
    json.dumps(result.tape.header)
    ssp.check_contract(result.tape)


def whatever_it_is(value):
    """By its kind."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        repr(value)
        hash(value)
        assert value == value
        json.dumps(describe(value))
    if isinstance(value, ssp.Policy):
        runs(policy=value)
    elif isinstance(value, LocalSteps):
        runs(local_steps=value)
    elif isinstance(value, Delay):
        runs(runtime=ssp.Virtual(2, value, compute=False))
    elif isinstance(value, ssp.Virtual):
        if value.num_workers <= 200:
            runs(runtime=dataclasses.replace(value, compute=False))
    elif isinstance(value, ssp.Devices):
        value.count()
    elif isinstance(value, Compressor):
        keeps_shapes(value)
    elif isinstance(value, optax.GradientTransformation):
        transforms(value)


def runs(**changes):
    makes_a_result(ssp.train(**{**CLOCKWORK, **changes}))


def keeps_shapes(compressor):
    tree = {"w": jnp.arange(5.0)}
    drawn = (jax.random.key(0),) if compressor.random else ()
    decoded = compressor.decode(compressor.encode(tree, *drawn), tree)
    assert jnp.isfinite(decoded["w"]).all()


def transforms(transform):
    params = {"w": jnp.ones(2)}
    about = {
        "staleness": jnp.int32(1),
        "lag": jnp.int32(0),
        "worker": jnp.int32(0),
        "num_workers": jnp.int32(2),
        "stale_params": params,
    }
    transform = optax.with_extra_args_support(transform)
    updates, _ = transform.update({"w": jnp.ones(2)}, transform.init(params), params, **about)
    assert updates["w"].shape == (2,)
    assert jnp.isfinite(updates["w"]).all()


def keeps_numbers(server):
    before = server.params
    assert server.merge([jax.tree.map(jnp.ones_like, before)]) == 1
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(server.params), strict=True):
        assert jnp.isfinite(new).all() or not jnp.isfinite(old).all()


def comes_to_an_end(controller):
    now, starts = 0.0, controller.handle(WorkerJoined(0), 0.0)
    for _ in range(3):
        for start in [each for each in starts if type(each).__name__ == "StartClock"]:
            now += 1.0
            token = start.token
            starts = controller.handle(DeltaReady(0, start.clock, start.version, token), now)
    assert starts


def gives_epochs(epochs):
    batch = epochs.batch(1, epochs.batches_per_epoch - 1)
    assert all(len(leaf) == epochs.batch_size for leaf in jax.tree.leaves(batch))


def gives_batches(shards):
    for worker in range(min(shards.num_workers, 3)):
        batch = next(shards(worker))
        assert all(len(leaf) == shards.batch_size for leaf in jax.tree.leaves(batch))
