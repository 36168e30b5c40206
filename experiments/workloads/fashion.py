"""Fashion-MNIST: 70,000 real images of 28 x 28 pixels, and a small residual network with BatchNorm.

The images are not part of this project. Debian's package `dataset-fashion-mnist` installs them;
elsewhere a folder with the four files of the data set does, as they are or unpacked.
"""

from __future__ import annotations

import functools
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_ssp as ssp

FOLDER = Path("/usr/share/datasets/fashion-mnist")
PARTS = 20  # in which the test images are evaluated
Split = tuple[np.ndarray, np.ndarray]


@functools.cache
def load_fashion(folder: Path = FOLDER) -> tuple[Split, Split]:
    """The train and test splits: images as float32 in 0..1, (n, 28, 28, 1); labels as int32, (n,).

    Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms", arXiv:1708.07747 (MIT license).

    Raises:
        FileNotFoundError: if the files are not there, saying where they come from.
        ValueError: if one of them is not what its name says.
    """
    train, test = (
        (
            (read_idx(folder, f"{name}-images-idx3-ubyte", 3) / np.float32(255))[..., None],
            read_idx(folder, f"{name}-labels-idx1-ubyte", 1).astype(np.int32),
        )
        for name in ("train", "t10k")
    )
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise ValueError(f"{folder} holds {len(images)} images and {len(labels)} labels.")
    return train, test


def read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An array of bytes from a file in the idx format, packed (`.gz`) or not."""
    packed, plain = folder / f"{name}.gz", folder / name
    if packed.is_file():
        content = _unpacked(packed)
    elif plain.is_file():
        content = plain.read_bytes()
    else:
        raise FileNotFoundError(
            f"there is no {name}(.gz) in {folder}. Debian has the data as `apt install "
            "dataset-fashion-mnist`; elsewhere give a folder that holds the four idx files: "
            "--workload.folder DIR."
        )
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    # Two zeros, 8 for unsigned bytes, the number of dimensions; then their sizes; then the bytes.
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) - start != math.prod(shape):
        raise ValueError(f"{folder / name} is no idx file of {dimensions} dimensions of bytes.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}); fetch it again.") from error


class Block(nnx.Module):
    """Two convolutions with BatchNorm around a shortcut; the first one may halve the image.

    Args:
        inputs, outputs: channels.
        strides: 2 halves the image.
        rngs: of the first parameters.
        identity: whether the shortcut is nothing but a path where sizes allow that, as in the
            paper; else it is a convolution always.
    """

    def __init__(
        self, inputs: int, outputs: int, strides: int, rngs: nnx.Rngs, identity: bool = False
    ) -> None:
        size: dict[str, Any] = {"kernel_size": (3, 3), "use_bias": False, "rngs": rngs}
        self.conv1 = nnx.Conv(inputs, outputs, strides=strides, **size)
        self.norm1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, **size)
        self.norm2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        size |= {"kernel_size": (1, 1), "strides": strides}
        alike = identity and strides == 1 and inputs == outputs
        self.shortcut = None if alike else nnx.Conv(inputs, outputs, **size)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Residual(nnx.Module):
    """Blocks between a first convolution and the classes: `conv`, `norm`, `blocks` and `out`."""

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(images)))
        for block in self.blocks:
            x = block(x)
        return self.out(jnp.mean(x, axis=(1, 2)))


class ResNet(Residual):
    """A residual network of three blocks: 21,000 parameters at width 8.

    Reference:
        He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", arXiv:1512.03385.
    """

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, width, kernel_size=(3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(width, width, 1, rngs),
                Block(width, 2 * width, 2, rngs),
                Block(2 * width, 4 * width, 2, rngs),
            ]
        )
        self.out = nnx.Linear(4 * width, 10, rngs=rngs)


@dataclass(frozen=True)
class Fashion(ssp.Workload):
    """Fashion-MNIST with a small residual network under SGD with momentum."""

    width: int = 8
    """Channels of the first block."""
    batch_size: int = 16
    """Images a local step and worker."""
    learning_rate: float = 0.1
    """Of SGD."""
    momentum: float = 0.9
    """Of SGD, kept by each worker, in float32."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the parameters; statistics stay float32."""
    folder: Path = FOLDER
    """Where the four files are."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        train, _ = load_fashion(self.folder)
        step = self.step(seed)
        evaluate = self.evaluation(step)
        data = ssp.data.Shards(train, self.batch_size, num_workers, seed)
        return ssp.Task(step=step, params=step.params, data=data, evaluate=evaluate)

    def model(self, seed: int) -> ResNet:
        """The network, with parameters of the dtype asked for."""
        model = ResNet(self.width, rngs=nnx.Rngs(seed))
        cast = jax.tree.map(lambda leaf: leaf.astype(self.dtype), nnx.state(model, nnx.Param))
        nnx.update(model, cast)
        return model

    def optimizer(self) -> optax.GradientTransformation:
        """SGD whose momentum is float32 whatever the parameters are."""
        return optax.sgd(self.learning_rate, self.momentum, accumulator_dtype=jnp.float32)

    def step(self, seed: int) -> Any:
        """The training step of a worker."""
        return ssp.make_nnx_step(self.model(seed), loss, self.optimizer())

    def evaluation(self, step: Any) -> Any:
        """A function `params -> metrics` on the test images, in parts that fit the caches."""
        _, (images, labels) = load_fashion(self.folder)
        parts = [jnp.asarray(each.reshape(PARTS, -1, *each.shape[1:])) for each in (images, labels)]

        @jax.jit
        def evaluate(params: Any) -> dict[str, jax.Array]:
            def part(batch: Any) -> tuple[jax.Array, jax.Array]:
                value, metrics = loss(step.model(params), batch)
                return value, metrics["accuracy"]

            losses, accuracies = jax.lax.map(part, parts)
            return {"test_loss": jnp.mean(losses), "test_accuracy": jnp.mean(accuracies)}

        return evaluate


def plain_loop(workload: Fashion, batch_size: int, samples: int, seed: int) -> dict[str, float]:
    """What the same network comes to in a loop of flax and optax alone, on one device.

    Args:
        workload: its model, optimizer and data.
        batch_size: images a step.
        samples: images it trains on, rounded down to whole steps.
        seed: of the model and the order of the images.

    Returns:
        The metrics of the test images at the end.
    """
    model = workload.model(seed)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = workload.optimizer()

    @jax.jit
    def step(params: Any, rest: Any, state: Any, batch: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            model = nnx.merge(graph, params, rest, copy=True)
            value, _ = loss(model, batch)
            return value, nnx.split(model, nnx.Param, ...)[2]

        grads, rest = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    state = optimizer.init(params)
    train, _ = load_fashion(workload.folder)
    batches = ssp.data.Shards(train, batch_size, num_workers=1, seed=seed)(0)
    for _ in range(samples // batch_size):
        params, rest, state = step(params, rest, state, next(batches))
    ours = workload.step(seed)
    flat = {
        ".".join(map(str, path)): leaf[...]
        for part in (params, rest)
        for path, leaf in nnx.to_flat_state(part)
    }
    metrics = workload.evaluation(ours)({name: flat[name] for name in ours.params})
    return {name: float(value) for name, value in metrics.items()}


def loss(model: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy in float32, and the accuracy."""
    images, labels = batch
    logits = model(images).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    accuracy = jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))
    return jnp.mean(losses), {"accuracy": accuracy}
