"""Runs whose store is another one, by the hook of runtimes: to watch it, or to have it go wrong."""

from dataclasses import fields

from jax_ssp.server.local_store import LocalStore


def storing(runtime, kind):
    """A runtime like this one, whose store is of that kind, a subclass of `LocalStore`."""

    class Storing(type(runtime)):
        def store(self, plan, server):
            return kind(server, plan.delta_wire, plan.snapshot_wire)

    return Storing(**{each.name: getattr(runtime, each.name) for each in fields(runtime)})


def pushes_of(runtime):
    """A runtime like this one, and the (event, payload) of each push, as they come."""
    pushes = []

    class Watched(LocalStore):
        def push(self, event, payload, metrics):
            pushes.append((event, payload))
            super().push(event, payload, metrics)

    return storing(runtime, Watched), pushes
