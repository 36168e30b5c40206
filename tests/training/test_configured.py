"""A transform of a config has the arguments of its function as fields, on the command line too."""

import dataclasses
import pickle

import jax.numpy as jnp
import optax
import pytest
import tyro

import jax_ssp as ssp
from jax_ssp.mitigations import scale_by_staleness
from jax_ssp.training.configured import Configured

CLOCKWORK = ssp.Virtual(num_workers=4, compute=False)


def test_a_configured_transform_has_the_functions_parameters_as_fields():
    transform = ssp.configured(optax.sgd, learning_rate=0.5)
    assert isinstance(transform, Configured)
    assert [each.name for each in dataclasses.fields(transform)] == [
        "learning_rate",
        "momentum",
        "nesterov",
        "accumulator_dtype",
    ]
    assert (transform.learning_rate, transform.momentum, transform.nesterov) == (0.5, None, False)
    half = ssp.configured(scale_by_staleness, exponent=0.5)
    assert repr(half) == "scale_by_staleness(exponent=0.5, shape='inverse', threshold=4)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        transform.momentum = 0.9


def test_it_builds_the_transform():
    transform = ssp.configured(optax.sgd, learning_rate=0.5).build()
    updates, _ = transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
    assert updates.tolist() == [-0.5, -0.5]


def test_equal_arguments_make_equal_transforms():
    half, default = ssp.configured(scale_by_staleness, exponent=0.5), scale_by_staleness
    assert half == ssp.configured(default, exponent=0.5)
    assert hash(half) == hash(ssp.configured(default, exponent=0.5))
    assert half != ssp.configured(default)
    assert ssp.configured(optax.identity) == ssp.Experiment().server_tx
    assert dataclasses.replace(half, exponent=1.0) == ssp.configured(default)


def test_it_can_be_pickled_alone_and_in_an_experiment():
    inner = ssp.configured(optax.sgd, learning_rate=0.5)
    transform = ssp.chained(ssp.configured(ssp.outer, optimizer=inner))
    experiment = ssp.Experiment(server_tx=transform)
    again = pickle.loads(pickle.dumps(experiment))
    assert again == experiment
    assert type(again.server_tx.parts[0]) is type(transform.parts[0])


def test_its_arguments_are_checked_at_once():
    with pytest.raises(TypeError, match="learning_rate"):
        ssp.configured(optax.sgd)
    with pytest.raises(TypeError, match="lr"):
        ssp.configured(optax.sgd, lr=0.5)


def overridden(experiment: ssp.Experiment, *words: str) -> ssp.Experiment:
    avoid = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(ssp.Experiment, default=experiment, args=words, config=avoid)


def test_the_command_line_overrides_its_arguments():
    experiment = ssp.Experiment(
        server_tx=ssp.configured(scale_by_staleness), runtime=CLOCKWORK, num_clocks=1
    )
    changed = overridden(experiment, "--server-tx.exponent", "0.25")
    assert changed.server_tx == ssp.configured(scale_by_staleness, exponent=0.25)
    assert dataclasses.replace(changed, server_tx=experiment.server_tx) == experiment


A_SCHEDULE = optax.linear_schedule(0.5, 0.0, 10)


@pytest.mark.parametrize("rate", [0.5, 1, A_SCHEDULE, jnp.ones(())])
def test_a_number_of_optax_is_one_on_the_command_line(rate):
    """Whatever else it may be."""
    experiment = ssp.Experiment(server_tx=ssp.configured(optax.sgd, learning_rate=rate))
    assert overridden(experiment).server_tx == experiment.server_tx
    words = ("--server-tx.learning-rate", "0.25", "--server-tx.momentum", "0.9")
    changed = overridden(experiment, *words)
    assert changed.server_tx == ssp.configured(optax.sgd, learning_rate=0.25, momentum=0.9)
    none = overridden(changed, "--server-tx.momentum", "None", "--server-tx.nesterov")
    assert none.server_tx == ssp.configured(optax.sgd, learning_rate=0.25, nesterov=True)


@pytest.mark.parametrize("word", ["fast", "None"])
def test_what_is_no_number_is_refused(word, capsys):
    experiment = ssp.Experiment(server_tx=ssp.configured(optax.sgd, learning_rate=0.5))
    with pytest.raises(SystemExit):
        overridden(experiment, "--server-tx.learning-rate", word)
    assert "could not convert string to float" in capsys.readouterr().err


def test_an_optimizer_whose_types_cannot_be_resolved_is_configured_too():
    """Those of optax with a mask: it is of a type that their module does not know."""
    experiment = ssp.Experiment(server_tx=ssp.configured(optax.adamw, learning_rate=A_SCHEDULE))
    words = ("--server-tx.learning-rate", "0.25", "--server-tx.weight-decay", "0")
    changed = overridden(experiment, *words).server_tx
    assert changed == ssp.configured(optax.adamw, learning_rate=0.25, weight_decay=0.0)
    changed.build()
