"""The DiLoCo family: methods of many local steps between exchanges, each as the fields of a run.

What a function here gives is for `ssp.train` as for `ssp.Experiment`; whatever else a run has (its
workload, its world, where it ends) is beside it:

    ssp.Experiment(workload=..., num_clocks=100, **ssp.methods.diloco(h=20))

A field that is to be otherwise is replaced: `{**ssp.methods.diloco(h=20), "overlap": 2}`. The
optimizers of the workers are those of their step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import optax

from jax_ssp.checks import integer, share
from jax_ssp.fragments import Fragments, check_fragments
from jax_ssp.mitigations import delayed_nesterov, outer
from jax_ssp.policies import BSP, Decoupled, DyLU, PostLocal, Quorum
from jax_ssp.training.configured import Configured, configured
from jax_ssp.worker.adopt import Mix

__all__ = [
    "async_local_sgd",
    "decoupled_diloco",
    "diloco",
    "local_sgd",
    "post_local_sgd",
    "streaming_diloco",
]

Fields: TypeAlias = dict[str, Any]
"""Fields of a run, by name."""


def _nesterov(learning_rate: float, momentum: float) -> Configured:
    """Nesterov's momentum on the server, and without a momentum plain SGD."""
    momentum = share("momentum", momentum, one=False)
    if not momentum:
        return configured(outer, optimizer=configured(optax.sgd, learning_rate=learning_rate))
    about = {"learning_rate": learning_rate, "momentum": momentum, "nesterov": True}
    return configured(outer, optimizer=configured(optax.sgd, **about))


def local_sgd(h: int = 8) -> Fields:
    """Local SGD: the parameters of all workers are averaged every H steps.

    Args:
        h: H (steps).

    Example:
        >>> local_sgd(h=4)
        {'policy': BSP(), 'local_steps': 4}

    Reference:
        Stich 2019, "Local SGD converges fast and communicates little", arXiv:1805.09767.
    """
    return {"policy": BSP(), "local_steps": h}


def post_local_sgd(h: int = 8, switch: int = 100) -> Fields:
    """Post-local SGD: averaged after every step at first, and every H steps later.

    Args:
        h: H of the later clocks (steps).
        switch: clocks with one step before that.

    Example:
        >>> post_local_sgd(h=4, switch=50)
        {'policy': BSP(), 'local_steps': PostLocal(h=4, switch=50)}

    Reference:
        Lin, Stich, Patel, Jaggi 2020, "Don't use large mini-batches, use local SGD",
        arXiv:1808.07217.
    """
    return {"policy": BSP(), "local_steps": PostLocal(h, switch)}


def diloco(h: int = 500, learning_rate: float = 0.7, momentum: float = 0.9) -> Fields:
    """DiLoCo: local steps of AdamW, then a step of Nesterov on the server with their mean.

    At H = 1, learning rate 1 and no momentum it is synchronous training.

    Args:
        h: H (steps).
        learning_rate, momentum: of the server's optimizer.

    Example:
        >>> diloco(h=1, learning_rate=1.0, momentum=0.0)["server_tx"].optimizer.learning_rate
        1.0

    Reference:
        Douillard et al. 2023, "DiLoCo: distributed low-communication training of language models",
        arXiv:2311.08105.
    """
    return {"policy": BSP(), "local_steps": h, "server_tx": _nesterov(learning_rate, momentum)}


def async_local_sgd(
    h: int = 50,
    workers: int = 4,
    grace: float = 0.0,
    learning_rate: float = 0.7,
    momentum: float = 0.9,
) -> Fields:
    """Asynchronous local SGD: each delta is a server step, with delayed Nesterov and DyLU.

    Who comes within the grace window adopts what all in it have led to.

    Args:
        h: H of the fastest worker; slower ones make fewer steps in the same time.
        workers: that there are: the momentum turns once in so many deltas.
        grace: how long a delta waits for others (seconds).
        learning_rate, momentum: of the server's optimizer.

    Example:
        >>> async_local_sgd(h=8, workers=2)["policy"]
        Quorum(k=1, grace=0.0, apart=True)

    Reference:
        Liu, Chhaparia, Douillard et al. 2024, "Asynchronous local-SGD training for language
        modeling", arXiv:2401.09135.
    """
    about = {"learning_rate": learning_rate, "momentum": momentum, "buffer": workers}
    return {
        "policy": Quorum(k=1, grace=grace, apart=True),
        "local_steps": DyLU(h=h),
        "weight": "sum",  # the transform divides by the workers
        "server_tx": configured(delayed_nesterov, **about),
    }


def streaming_diloco(
    h: int = 100,
    fragments: int | Fragments = 4,
    overlap: int = 1,
    alpha: float = 0.5,
    learning_rate: float = 0.7,
    momentum: float = 0.9,
) -> Fields:
    """Streaming DiLoCo: fragments in turn, each exchanged behind the steps that follow.

    Each of P fragments is exchanged once in H steps, and one of them every H / P steps, which is a
    clock of the run. With one fragment, no overlap and alpha 0 it is DiLoCo.

    Args:
        h: H, steps after which the same fragment has its turn again; a multiple of P.
        fragments: P, of about the same size; or `ssp.Fragments(...)`, which has them by layers too.
        overlap: the apply delay, steps that workers go on for before they adopt what a fragment has
            become; at most H / P.
        alpha: share of its own that a worker keeps in what it adopts; 0 leaves nothing of it.
        learning_rate, momentum: of the server's optimizer, which has a state for each fragment.

    Raises:
        TypeError: if `h` or `fragments` is not what it must be.
        ValueError: if a number is out of its range, or P does not divide H.

    Example:
        >>> for h, fragments in [(36, 3), (37, 37)]:
        ...     fields = streaming_diloco(h, fragments)
        ...     print(fields["local_steps"], fields["fragments"].count, fields["adopt"])
        12 3 Mix(alpha=0.5)
        1 37 Mix(alpha=0.5)

    Reference:
        Douillard et al. 2025, "Streaming DiLoCo with overlapping communication", arXiv:2501.18512.
    """
    h = integer("streaming_diloco(h=...)", h, least=1)
    shares = check_fragments(fragments, "streaming_diloco(fragments=...)") or Fragments(1)
    steps, left = divmod(h, shares.count)
    if left:
        fewer, more = h - left, h - left + shares.count
        near = f"{fewer} or {more}" if fewer else str(more)
        raise ValueError(
            f"`streaming_diloco(h={h}, fragments={shares.count})`: so many fragments cannot be "
            f"pushed at equal distances in so many steps; make `h` a multiple of them, such as "
            f"{near}."
        )
    return {
        **diloco(steps, learning_rate, momentum),
        "fragments": shares,
        "overlap": integer("streaming_diloco(overlap=...)", overlap, least=0, most=steps),
        "adopt": Mix(alpha),
    }


def decoupled_diloco(
    h: int = 50,
    quorum: int = 1,
    tau: int = 2,
    learning_rate: float = 0.7,
    momentum: float = 0.9,
) -> Fields:
    """Decoupled DiLoCo: what is there once a quorum is; see `ssp.Decoupled`.

    Args:
        h: H (steps).
        quorum: deltas that make a quorum.
        tau: steps that workers go on for while their deltas are merged, at most `h`.
        learning_rate, momentum: of the server's optimizer.

    Example:
        >>> decoupled_diloco(h=20, quorum=3)["overlap"]
        2

    Reference:
        Douillard, Rush, Donchev et al. 2026, "Decoupled DiLoCo for resilient distributed
        pre-training", arXiv:2604.21428.
    """
    return {
        "policy": Decoupled(quorum=quorum, tau=tau),
        "local_steps": h,
        "overlap": tau,
        "server_tx": _nesterov(learning_rate, momentum),
    }


FAMILY: dict[str, Callable[..., Fields]] = {
    each.__name__: each
    for each in (
        local_sgd,
        post_local_sgd,
        diloco,
        async_local_sgd,
        streaming_diloco,
        decoupled_diloco,
    )
}
"""Every method here, by name; each can be made without arguments."""
