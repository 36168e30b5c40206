"""What a batch may hold, of whatever library; what it may not is told by worker, batch and path."""

import array
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.data.arrays import taken
from jax_ssp.data.feed import Feed

DEVICE = jax.devices()[0]
WHO = "`data(worker=1)`, batch 2"


class Tensor:
    """A tensor of another library, which offers itself as torch's do.

    Args:
        value: what it holds.
        device: DLPack's kind and number of its device.
        refuses: what its `__array__` raises.
    """

    def __init__(self, value, device=(1, 0), refuses=None):
        self.value = value
        self.refuses = refuses
        self._device = device

    def __array__(self, dtype=None):
        if self.refuses is not None:
            raise self.refuses
        return np.asarray(self.value, dtype)

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, **asked):
        return self.value.__dlpack__(**asked)


class Buffer:
    """What speaks of its memory by `__array_interface__` alone."""

    def __init__(self, value):
        self.value = value
        self.__array_interface__ = value.__array_interface__


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
HALF = jnp.asarray(VALUES, jnp.bfloat16)
OFFERED = {
    "tensor": (lambda: Tensor(VALUES), VALUES),
    "bfloat16": (lambda: Tensor(HALF, refuses=TypeError("unsupported BFloat16")), HALF),
    "pinned": (lambda: Tensor(VALUES, device=(3, 0)), VALUES),
    "interface": (lambda: Buffer(VALUES), VALUES),
    "memoryview": (lambda: memoryview(VALUES), VALUES),
    "array": (lambda: array.array("d", [1.0, 2.0]), np.array([1.0, 2.0])),
}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", OFFERED)
def test_what_offers_itself_is_an_array_of_numpy(name, fresh):
    make, value = OFFERED[name]
    batch = {"x": make(), "n": np.int32(3), "y": (jnp.ones(2), 0.5, None)}
    mine = taken(batch, WHO, fresh)
    assert isinstance(mine["x"], np.ndarray)
    assert mine["x"].dtype == value.dtype
    np.testing.assert_array_equal(mine["x"], value)
    assert mine["y"][0] is batch["y"][0]
    assert mine["y"][1:] == (0.5, None)
    if value is VALUES:
        assert np.shares_memory(mine["x"], VALUES) == fresh
    if name == "bfloat16":
        assert mine["x"].dtype == ml_dtypes.bfloat16


def test_what_needs_no_conversion_is_given_as_it_is():
    batch = {"x": VALUES, "y": [jnp.ones(2), np.float32(1)], "weight": 0.5, "none": None}
    assert taken(batch, WHO, fresh=True) is batch
    assert not np.shares_memory(taken(batch, WHO)["x"], VALUES)


class Strange:
    """Holds no numbers."""


REFUSED = {
    "str": ({"label": "cat"}, r"`batch\['label'\]` is a str; a batch is a tree .* of arrays of"),
    "bytes": ((VALUES, b"cat"), r"`batch\[1\]` is a bytes; a batch is"),
    "object": ([Strange()], r"`batch\[0\]` is a Strange; a batch is"),
    "strings": ((np.array(["a", "b"]),), r"`batch\[0\]` is a ndarray of <U1; a batch is"),
    "objects": (np.array([None, 1]), r"`batch` is a ndarray of object; a batch is"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), r"`batch` is a ndarray of datetime64\[D\]; a bat"),
    "list": ({"y": [1, 2, 3]}, r"`batch\['y'\]` is a list of 3 numbers; make it an array, `np.as"),
    "scalars": ((VALUES, [np.int64(1)]), r"`batch\[1\]` is a list of 1 numbers"),
    "lists": ([[0.5, True], [1j, 2]], r"`batch\[0\]` is a list of 2 numbers"),
    "GPU": (
        {"x": [VALUES, Tensor(VALUES, device=(2, 1))]},
        r"`batch\['x'\]\[1\]` is a Tensor on device 1; give it on the host \(`tensor.cpu\(\)` of",
    ),
    "refuses": (
        Tensor(Strange(), refuses=RuntimeError("Can't call numpy() on Tensor that requires grad")),
        r"`batch` is a Tensor that gives no array: Can't call numpy\(\) on Tensor that requires gr",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_number_is_told_by_worker_batch_and_path(name):
    batch, message = REFUSED[name]
    feed = Feed([VALUES, VALUES, batch], DEVICE, worker=1)
    feed.prefetch(3)
    feed.take(2)
    feed.prefetch(1)
    for call in (feed.peek, feed.take, feed.ready):
        with pytest.raises(TypeError, match=f"^`data\\(worker=1\\)`, batch 2: {message}"):
            call()


def test_a_run_says_it_before_it_begins():
    step = ssp.make_step(lambda params, batch, key: (params, {}), optax.sgd(0.1))
    for batch in ({"x": VALUES, "label": "cat"}, [1, 2]):
        with pytest.raises(TypeError, match=r"^`data\(worker=[01]\)`, batch 0: `batch"):
            ssp.train(
                step,
                params=jnp.float32(0),
                data=lambda worker, batch=batch: iter([batch]),
                runtime=ssp.Virtual(num_workers=2),
                num_clocks=1,
            )


class Examples:
    """A dataset as torch has them: examples by index, and no end."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return VALUES[0], index


def test_a_dataset_of_examples_is_no_iterator_of_batches():
    message = r"got a Examples, which gives examples one by one; wrap it in a `torch.utils.data.Dat"
    with pytest.raises(TypeError, match=message):
        Feed(Examples(), DEVICE, worker=0)


class Loader:
    """Batches of tensors anew each time it is iterated over, in memory that is used again."""

    def __init__(self, worker):
        self._worker = worker

    def __iter__(self):
        buffer = np.zeros((4, 1), np.float32)
        for number in range(3):
            buffer[:] = self._worker + number
            yield [Tensor(buffer), Tensor(2 * buffer)]


def arrays(worker):
    for number in range(3):
        x = np.full((4, 1), worker + number, np.float32)
        yield [x, 2 * x]


def loss_fn(params, batch, key):
    x, y = batch
    return jnp.mean((params * x - y) ** 2), {}


def trained(data, **more):
    spec = {
        "params": jnp.float32(0),
        "runtime": ssp.Virtual(num_workers=2),
        "policy": ssp.SSP(bound=1),
        "num_clocks": 3,
    }
    return ssp.train(ssp.make_step(loss_fn, optax.sgd(0.05)), data=data, **{**spec, **more})


def test_a_loader_trains_as_its_arrays_do():
    expected, result = trained(arrays), trained(Loader)
    assert result.params == expected.params
    assert result.tape.header["experiment"] == expected.tape.header["experiment"]
    assert trained(Loader, runtime=ssp.Replay(result.tape)).params == result.params
    several = trained(Loader, num_clocks=1, local_steps=3, runtime=ssp.Devices(num_workers=2))
    assert several.schedule["steps"].tolist() == [3, 3]


def test_a_loader_for_all_workers_is_told():
    message = r"`data` must be a function .* needs one of its own: .* `lambda worker: ...`"
    with pytest.raises(TypeError, match=message):
        trained(Loader(0))


def test_a_loader_is_one_pass_unless_it_is_chained():
    assert len(trained(Loader, num_clocks=7).schedule) == 6
    epochs = trained(
        lambda worker: itertools.chain.from_iterable(itertools.repeat(Loader(worker))),
        num_clocks=7,
    )
    assert len(epochs.schedule) == 14


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    labels = torch.arange(6)
    batch = taken({"x": x, "half": x.bfloat16(), "y": labels[::2]}, WHO, fresh=True)
    assert np.shares_memory(batch["x"], x.numpy())
    assert batch["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(batch["half"].astype(np.float32), x.numpy())
    assert batch["y"].tolist() == [0, 2, 4]
    for wrong, message in (
        (x.clone().requires_grad_(), "requires grad"),
        (torch.empty(2, device="meta"), "gives no array"),
    ):
        with pytest.raises(TypeError, match=rf"`batch\[0\]` is a Tensor .*{message}"):
            taken((wrong,), WHO)

    dataset = torch.utils.data.TensorDataset(x, labels)
    with pytest.raises(TypeError, match="a TensorDataset, which gives examples one by one"):
        Feed(dataset, DEVICE, worker=0)

    def loader(worker):
        seeded = torch.Generator().manual_seed(worker)
        return torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True, generator=seeded)

    def mean(params, batch, key):
        return jnp.mean(params * batch[0]), {"labels": jnp.mean(batch[1])}

    spec = {
        "params": jnp.float32(1),
        "data": loader,
        "runtime": ssp.Virtual(num_workers=2),
        "num_clocks": 3,
    }
    result = ssp.train(ssp.make_step(mean, optax.sgd(0.05)), **spec)
    of_one = [row["metrics"]["labels"] for row in result.history if row["worker"] == 0]
    assert sum(of_one) / 3 == pytest.approx(2.5)
    again = {**spec, "runtime": ssp.Replay(result.tape)}
    assert ssp.train(ssp.make_step(mean, optax.sgd(0.05)), **again).params == result.params
