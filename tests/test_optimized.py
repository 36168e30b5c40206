"""`python -O`, which leaves out assertions, changes nothing: none of them checks input."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import jax.numpy as jnp, numpy as np, optax
    import jax_ssp as ssp

    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch) ** 2), {}

    step = ssp.make_step(loss, optax.sgd(0.1))
    spec = dict(
        params={"w": jnp.zeros(3)}, data=lambda worker: iter([np.float32(1)] * 40), num_clocks=3,
        evaluate=lambda params: {"a": jnp.sum(params["w"])},
    )
    virtual = ssp.Virtual(num_workers=2)
    first = ssp.train(step, runtime=virtual, **spec)
    again = ssp.train(step, runtime=ssp.Replay(first.tape), **spec)
    print(np.array_equal(first.params["w"], again.params["w"]), ssp.check_contract(first.tape))

    def tried(**more):
        try:
            ssp.train(**{"step": step, "runtime": virtual, **spec, **more})
            print("accepted")
        except Exception as error:
            print(type(error).__name__, error)

    for target in ("accuracy 0.9", "a >= high", "b >= 1"):
        tried(target=target)
    tried(step=None)
    tried(data=None)
    tried(step=lambda *given: given)
    tried(params={"w": jnp.zeros(3, int)})
    tried(data=lambda worker: iter([np.zeros(2)] * 40))
    tried(evaluate=lambda params: {"a": None})
    tried(placement="moon")
    try:
        ssp.Server({"w": jnp.zeros(2)}).merge([{"w": jnp.zeros(3)}])
    except Exception as error:
        print(type(error).__name__, error)
    """
)


@pytest.mark.slow
def test_without_assertions_all_is_the_same():
    said = [
        subprocess.run(
            [sys.executable, *option, "-c", PROGRAM], capture_output=True, text=True, timeout=300
        )
        for option in ([], ["-O"], ["-OO"])
    ]
    assert [each.returncode for each in said] == [0, 0, 0], said[-1].stderr
    assert "accepted" not in said[0].stdout
    assert said[0].stdout == said[1].stdout == said[2].stdout
