"""A store in another process: it is told everything as JSON, and gets every array as bytes.

The other process makes a server and a `LocalStore` of its own from names: transforms and wires are
made by functions, `module:function` with arguments of JSON. One process serves many stores, one
after the other.
"""

import contextlib
import importlib
import json
import multiprocessing
import threading
from dataclasses import asdict

import jax
import numpy as np

import jax_ssp as ssp
from jax_ssp.controller.codec import as_json, from_json
from jax_ssp.placement import Placement
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.packing import pack, unpack
from jax_ssp.server.server import Server
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.store import Store
from jax_ssp.server.wire import Wire


def made(recipe):
    """What a recipe `[module:function, arguments]` makes; None of None."""
    if recipe is None:
        return None
    name, arguments = recipe
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(**arguments)


def recipe_of(config):
    """The recipe of a frozen dataclass, such as a compressor; None of None."""
    if config is None:
        return None
    kind = type(config)
    return [f"{kind.__module__}:{kind.__qualname__}", asdict(config)]


def zeros_of(shapes):
    """A tree of dicts of zeros; `shapes` has [dtype, shape] for each leaf."""
    if isinstance(shapes, dict):
        return {name: zeros_of(each) for name, each in shapes.items()}
    dtype, shape = shapes
    return np.zeros(shape, dtype)


def shapes_of_all(arrays):
    """Dtype and shape of each array, for JSON."""
    return {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}


# Here.


class StoreProcess:
    """The other process."""

    def __init__(self, cpu_devices):
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=serve, args=(end, cpu_devices), daemon=True)
        self._process.start()
        self._lock = threading.Lock()

    def ask(self, what, *arguments, data=b""):
        """Have something done there; gives what comes back as JSON, and as bytes."""
        with self._lock:
            self._pipe.send_bytes(json.dumps([what, *arguments]).encode())
            self._pipe.send_bytes(data)
            answer = json.loads(self._pipe.recv_bytes())
            got = self._pipe.recv_bytes()
        if "error" in answer:
            raise RuntimeError(f"in the other process: {answer['error']}")
        return answer["value"], got

    def close(self):
        with contextlib.suppress(OSError):
            self.ask("close")
        self._process.join(10)
        assert self._process.exitcode == 0


class StoreElsewhere(Store):
    """Stands for a store in the other process."""

    def __init__(self, process, plan, server, transforms):
        self._process = process
        self.version = 0
        self.layout, self.shapes, self.devices = server.layout, server.shapes, server.devices
        self.wants_base = server.wants_base
        wires = plan.delta_wire, plan.snapshot_wire
        self.wire = Wire(self.shapes, self.layout, server.parts, *wires)
        # A server and a store that do nothing here, for the structure of what travels.
        here = LocalStore(server, *wires)
        self._payload = list(map(self.wire.example, server.versions.newest.pieces))
        self._parts = server.parts
        self._published = jax.eval_shape(lambda: here.snapshot(0).pieces)
        self._params, self._states = server.params, server.states
        homes = [Placement.of(device).name for device in self.devices]
        shapes = jax.tree.map(lambda leaf: [leaf.dtype.name, list(leaf.shape)], self._params)
        spec = {
            "shapes": shapes,
            "transforms": transforms,
            "weight": server.weight,
            "devices": homes,
            "fragments": server.parts.num_fragments,
            "wires": list(map(recipe_of, wires)),
        }
        self._process.ask("open", spec, data=pack(self._params))

    def lease(self, start):
        self._process.ask("lease", as_json(start))

    def push(self, event, payload, metrics):
        here = self._parts.of(event.clock % self._parts.num_fragments)
        assert jax.tree.structure(payload) == jax.tree.structure(self._payload[here])
        self._process.ask("push", as_json(event), dict(metrics), data=pack(payload))

    def merge(self, merge):
        self._process.ask("merge", as_json(merge))
        self.version += 1
        assert self.version == merge.version

    def drop(self, token):
        self._process.ask("drop", token)

    def leave(self, worker):
        self._process.ask("leave", worker)

    def snapshot(self, version):
        there, data = self._process.ask("snapshot", version)
        if not there:
            raise LookupError(f"version {version}")
        pieces = unpack(data, like=self._published)
        devices = self.devices * self._parts.num_fragments
        return Snapshot(version, list(map(jax.device_put, pieces, devices)))

    def save(self, running):
        (facts, shapes), data = self._process.ask("save", [list(token) for token in running])
        return facts, unpack(data, like=zeros_of(shapes))

    def load(self, facts, arrays):
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._process.ask("load", facts, shapes_of_all(arrays), data=pack(arrays))
        self.version = facts["version"]

    def compile(self, num_deltas):
        self._process.ask("compile", num_deltas)

    def program(self):
        return self._process.ask("program")[0]

    @property
    def params(self):
        return self._whole("params", self._params)

    @property
    def masters(self):
        return self._whole("masters", self.shapes)

    @property
    def states(self):
        return self._whole("states", self._states)

    def _whole(self, what, like):
        return jax.tree.map(jax.numpy.asarray, unpack(self._process.ask(what)[1], like=like))


def elsewhere(runtime, process, **transforms):
    """A runtime like this one whose stores are in the other process.

    `transforms` are recipes, such as `delta_tx=["jax_ssp.mitigations:scale_by_staleness", {}]`.
    """

    class Elsewhere(type(runtime)):
        def store(self, plan, server):
            return StoreElsewhere(process, plan, server, transforms)

    return Elsewhere(**{name: getattr(runtime, name) for name in runtime.__dataclass_fields__})


# There.


def serve(pipe, cpu_devices):
    """Do what is asked, until that is to close."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", cpu_devices)
    there = There()
    while True:
        what, *arguments = json.loads(pipe.recv_bytes())
        data = pipe.recv_bytes()
        value, answer = None, b""
        if what != "close":
            try:
                value, answer = getattr(there, what)(*arguments, data)
            except Exception as error:
                pipe.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
                pipe.send_bytes(b"")
                continue
        pipe.send_bytes(json.dumps({"value": value}).encode())
        pipe.send_bytes(answer)
        if what == "close":
            return


class There:
    """The store that is open, and what is asked of it."""

    def open(self, spec, data):
        params = unpack(data, like=zeros_of(spec["shapes"]))
        server = Server(
            params,
            **{name: made(recipe) for name, recipe in spec["transforms"].items()},
            weight=spec["weight"],
            device=[jax.local_devices(backend=name)[index] for name, index in spec["devices"]],
            fragments=spec["fragments"],
        )
        self.store = LocalStore(server, *map(made, spec["wires"]))
        self.payload = list(map(self.store.wire.example, server.versions.newest.pieces))
        return None, b""

    def lease(self, start, data):
        self.store.lease(from_json(start))
        return None, b""

    def push(self, event, metrics, data):
        event, parts = from_json(event), self.store.server.parts
        pieces = unpack(data, like=self.payload[parts.of(event.clock % parts.num_fragments)])
        payload = list(map(jax.device_put, pieces, self.store.devices))
        self.store.push(event, payload, metrics)
        return None, b""

    def merge(self, merge, data):
        self.store.merge(from_json(merge))
        return None, b""

    def drop(self, token, data):
        self.store.drop(ssp.controller.events.Token(*token))
        return None, b""

    def leave(self, worker, data):
        self.store.leave(worker)
        return None, b""

    def snapshot(self, version, data):
        try:
            snapshot = self.store.snapshot(version)
        except LookupError:
            return False, b""
        packed = pack(snapshot.pieces)
        snapshot.release()
        return True, packed

    def save(self, running, data):
        facts, arrays = self.store.save({ssp.controller.events.Token(*each) for each in running})
        return [facts, shapes_of_all(arrays)], pack(arrays)

    def load(self, facts, shapes, data):
        self.store.load(facts, unpack(data, like=zeros_of(shapes)))
        return None, b""

    def compile(self, num_deltas, data):
        self.store.compile(num_deltas)
        return None, b""

    def program(self, data):
        return self.store.program(), b""

    def params(self, data):
        return None, pack(self.store.params)

    def masters(self, data):
        return None, pack(self.store.masters)

    def states(self, data):
        return None, pack(self.store.states)
