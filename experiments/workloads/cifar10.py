"""CIFAR-10: 60,000 real images of 32 x 32 pixels in colour, and the residual network made for them.

The images are not part of this project: give the folder with the python version of the data set, as
it is (`cifar-10-python.tar.gz`) or unpacked (`cifar-10-batches-py`). Nothing is unpickled.
"""

from __future__ import annotations

import functools
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_ssp as ssp
from experiments.workloads.dealt import dealt
from experiments.workloads.fashion import Block, Residual
from experiments.workloads.python_batch import LARGEST, read_batch

ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of red, green, blue; in 0..1
PADDED = 4  # pixels on each side, from which a crop is taken
AT_ONCE = 100  # images that are evaluated
Split = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=2)
def load_cifar10(folder: Path) -> tuple[Split, Split]:
    """The train and test splits: images as uint8, (n, 32, 32, 3); labels as int32, (n,).

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".

    Args:
        folder: with the archive or its unpacked folder in it, or one of the two itself.

    Raises:
        FileNotFoundError: if they are not there, saying where they come from.
        ValueError: if one of the files is not what its name says.
    """
    content = _contents(folder.expanduser())
    train, test = ([_split(content[name], name) for name in names] for names in (TRAIN, TEST))
    return tuple(
        (np.concatenate([images for images, _ in parts]), np.concatenate([own for _, own in parts]))
        for parts in (train, test)
    )


def _contents(folder: Path) -> dict[str, bytes]:
    """The six files of the data set, by name."""
    for place in (folder / FOLDER, folder):
        if all((place / name).is_file() for name in (*TRAIN, *TEST)):
            return {name: (place / name).read_bytes() for name in (*TRAIN, *TEST)}
    archive = folder if folder.is_file() else folder / ARCHIVE
    if not archive.is_file():
        raise FileNotFoundError(
            f"there is neither {ARCHIVE} nor {FOLDER} with its six batches in {folder}. The python "
            "version of CIFAR-10 is at https://www.cs.toronto.edu/~kriz/cifar.html; name the "
            "folder that it is in: --workload.folder DIR."
        )
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as files:
            for member in files:
                name = member.name.rpartition("/")[2]
                if name in (*TRAIN, *TEST) and member.isfile() and member.size <= LARGEST:
                    file = files.extractfile(member)
                    found[name] = b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{archive} is no archive of CIFAR-10, or is damaged "
            f"({str(error).partition(chr(10))[0].rstrip(':')}); fetch it again from "
            "https://www.cs.toronto.edu/~kriz/cifar.html."
        ) from error
    missing = [name for name in (*TRAIN, *TEST) if name not in found]
    if missing:
        raise ValueError(f"{archive} is no archive of CIFAR-10: it has no {', '.join(missing)}.")
    return found


def _split(content: bytes, name: str) -> Split:
    batch = read_batch(content, name)
    pixels, labels = batch.get("data"), batch.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (3072,):
        raise ValueError(f"{name} is no batch of CIFAR-10: its data are no images of 3,072 bytes.")
    known = isinstance(labels, list) and all(
        type(each) is int and 0 <= each < 10 for each in labels
    )
    if not known or len(labels) != len(pixels):
        raise ValueError(
            f"{name} is no batch of CIFAR-10: it has no label from 0 to 9 for each of its "
            f"{len(pixels)} images."
        )
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.int32)


def normalized(images: jax.Array) -> jax.Array:
    """Of mean 0 and deviation 1 in each colour, over the data set; from bytes to float32."""
    mean, deviation = (
        jnp.asarray(each, jnp.float32)[None, None, None] for each in (MEAN, DEVIATION)
    )
    return (images.astype(jnp.float32) / 255.0 - mean) / deviation


def augmented(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image moved by up to 4 pixels in both directions, and mirrored or not.

    Args:
        images: (n, height, width, channels); what comes in at the edges is 0.
        key: decides all of it.
    """
    count, height, width, _ = images.shape
    moves, mirrors = jax.random.split(key)
    corners = jax.random.randint(moves, (count, 2), 0, 2 * PADDED + 1)
    mirrored = jax.random.bernoulli(mirrors, shape=(count,))
    sides = (PADDED, PADDED)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))

    def one(image: jax.Array, corner: jax.Array, mirror: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], 0)
        crop = jax.lax.dynamic_slice(image, start, (height, width, image.shape[-1]))
        return jnp.where(mirror, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, corners, mirrored)


class ResNet(Residual):
    """The paper's residual network for CIFAR-10: 0.27 M parameters as ResNet-20.

    Args:
        blocks: of each of the three stages; 3 make ResNet-20, 9 ResNet-56.
        width: channels of the first stage; 16 in the paper.
        rngs: of the first parameters.

    Reference:
        He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", arXiv:1512.03385.
    """

    def __init__(self, blocks: int, width: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, width, kernel_size=(3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        found: list[Block] = []
        inputs = width
        for stage in range(3):
            for number in range(blocks):
                outputs, first = width << stage, number == 0 and stage > 0
                found.append(Block(inputs, outputs, 1 + first, rngs, identity=True))
                inputs = outputs
        self.blocks = nnx.List(found)
        self.out = nnx.Linear(inputs, 10, rngs=rngs)


@dataclass(frozen=True)
class Cifar10(ssp.Workload):
    """CIFAR-10 with its residual network under SGD with momentum, a warm-up cosine and decay."""

    folder: Path | None = None
    """Where the archive, or its unpacked folder, is."""
    blocks: int = 3
    """Of each of the three stages: 3 make ResNet-20."""
    width: int = 16
    """Channels of the first stage."""
    batch_size: int = 32
    """Images a local step and worker."""
    learning_rate: float = 0.1
    """The highest of the schedule."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """Of kernels."""
    rounds: int = 1000
    """In which the schedule ends; the first tenth warms up."""
    augment: bool = True
    """Whether images are moved and mirrored at random in training."""
    test_images: int = 10_000
    """How many are evaluated, the first ones."""
    elastic: bool = False
    """Whether all workers share each epoch, so that they may come and go."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        if self.folder is None:
            raise FileNotFoundError(
                f"`Cifar10(folder=...)` says where {ARCHIVE} is: --workload.folder DIR; it comes "
                "from https://www.cs.toronto.edu/~kriz/cifar.html."
            )
        train, test = load_cifar10(self.folder)
        step = self.step(seed)
        data = dealt(train, self.batch_size, num_workers, seed, self.elastic)
        held = tuple(each[: self.test_images] for each in test)
        return ssp.Task(
            step=step, params=step.params, data=data, evaluate=evaluation(step.model, held)
        )

    def step(self, seed: int) -> Any:
        """The training step of a worker."""
        model = ResNet(self.blocks, self.width, nnx.Rngs(seed))

        def loss(model: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            images, labels = batch
            images = augmented(normalized(images), key) if self.augment else normalized(images)
            losses, right = judged(model(images), labels)
            return jnp.mean(losses), {"accuracy": jnp.mean(right)}

        return ssp.make_nnx_step(model, loss, self.optimizer())

    def optimizer(self) -> optax.GradientTransformation:
        """SGD with Nesterov's momentum; only kernels decay."""
        top, warm = self.learning_rate, max(1, self.rounds // 10)
        schedule = optax.warmup_cosine_decay_schedule(
            top / warm, top, warm, max(self.rounds, warm + 1)
        )

        def kernels(params: Any) -> Any:
            return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)

        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask=kernels),
            optax.sgd(schedule, momentum=self.momentum, nesterov=True),
        )


def judged(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each image the cross-entropy, and 1 where the label is guessed."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, (jnp.argmax(logits, -1) == labels).astype(jnp.float32)


def evaluation(model: Any, test: Split, at_once: int = AT_ONCE) -> Any:
    """A function `params -> metrics`: `test_loss` and `test_accuracy`.

    Args:
        model: params -> the model in evaluation mode.
        test: images and labels.
        at_once: images that are computed at a time; it changes nothing but the memory needed.
    """
    count = len(test[1])
    parts = -(-count // at_once)

    def cut(array: np.ndarray) -> np.ndarray:
        filled = np.zeros((parts * at_once, *array.shape[1:]), array.dtype)
        filled[:count] = array
        return filled.reshape(parts, at_once, *array.shape[1:])

    images, labels, counts = (cut(each) for each in (*test, np.ones(count, np.float32)))

    @jax.jit
    def evaluate(params: Any, images: Any, labels: Any, counts: Any) -> dict[str, jax.Array]:
        def part(one: Any) -> tuple[jax.Array, jax.Array]:
            images, labels, counts = one
            losses, right = judged(model(params)(normalized(images)), labels)
            return jnp.sum(losses * counts), jnp.sum(right * counts)

        losses, right = jax.lax.map(part, (images, labels, counts))
        return {"test_loss": jnp.sum(losses) / count, "test_accuracy": jnp.sum(right) / count}

    return lambda params: evaluate(params, images, labels, counts)
