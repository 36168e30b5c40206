"""A decoder-only transformer over bytes, its sizes by name, what it costs, and how it is sharded.

Rotary positions, RMSNorm before each part, SwiGLU, grouped-query attention; parameters in float32,
computing in bfloat16 or float32. Layers are modules of their own, or all of them one stacked module
under `jax.lax.scan`, which compiles as long as one layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

BYTES = 256  # the vocabulary
FIRST = 0  # stands before a piece's first byte


@dataclass(frozen=True)
class Shape:
    """What decides the parameters of a transformer."""

    layers: int = 4
    """How many."""
    width: int = 128
    """Of the residual stream."""
    heads: int = 4
    """Of the queries; the width divided by it is a head's, which must be even."""
    groups: int = 2
    """Heads of keys and values, each shared by heads / groups of the queries; it divides heads."""
    hidden: int = 352
    """Width of the SwiGLU between its matrices."""
    tied: bool = True
    """Whether the embedding is the output's matrix too."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "groups", "hidden"):
            if (count := getattr(self, name)) < 1:
                raise ValueError(f"`Shape({name}=...)` must be at least 1, got {count}.")
        if self.width % self.heads or self.head % 2:
            raise ValueError(
                f"`Shape(heads={self.heads})` must divide `width`, {self.width}, into even parts; "
                "rotary positions turn pairs of numbers."
            )
        if self.heads % self.groups:
            raise ValueError(
                f"`Shape(groups={self.groups})` must divide `heads`, which is {self.heads}."
            )

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        """How many there are.

        Example:
            >>> Shape(layers=1, width=8, heads=2, groups=1, hidden=16).parameters
            2648
        """
        attention = 2 * self.width * self.head * (self.heads + self.groups)
        layer = attention + 3 * self.width * self.hidden + 2 * self.width
        tables = BYTES * self.width * (1 if self.tied else 2)
        return self.layers * layer + tables + self.width

    def flops_per_token(self, context: int) -> float:
        """Of a training step, forwards and backwards: 6 N and 12 L W T (arXiv:2204.02311).

        N counts the matrices that are multiplied with, so not an embedding that is only looked up,
        nor norms. What remat computes again is not counted, nor what a causal mask would spare.

        Args:
            context: T, tokens that attention spans.
        """
        norms = self.width * (2 * self.layers + 1)
        looked_up = 0 if self.tied else BYTES * self.width
        matrices = self.parameters - norms - looked_up
        return 6.0 * matrices + 12.0 * self.layers * self.width * context


SIZES: dict[str, Shape] = {
    "0.3M": Shape(layers=3, width=96, heads=6, groups=3, hidden=224),
    "1M": Shape(layers=6, width=128, heads=4, groups=2, hidden=288),
    "10M": Shape(layers=6, width=384, heads=6, groups=2, hidden=1024),
    "30M": Shape(layers=10, width=512, heads=8, groups=4, hidden=1536),
    "100M": Shape(layers=16, width=768, heads=12, groups=4, hidden=2048),
    "300M": Shape(layers=24, width=1024, heads=16, groups=4, hidden=3072),
    "1B": Shape(layers=22, width=2048, heads=16, groups=4, hidden=5632),
}
"""By about how many parameters there are; `parameters` says exactly how many."""


@dataclass(frozen=True)
class Computing:
    """How a transformer is computed; none of it changes what is computed but by rounding."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of what is computed; parameters, norms, the softmax and the loss are float32."""
    remat: bool = False
    """Whether a layer's inside is computed again in the backward pass rather than kept."""
    scan: bool = False
    """Whether layers are stacked and scanned over: one layer to compile, leaves of all layers."""
    attention: Literal["xla", "cudnn"] = "xla"
    """What computes it; cudnn is for NVIDIA GPUs and bfloat16."""


def rotated(x: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Turn the pairs (i, i + D/2) of each head by an angle in proportion to the position.

    So that the product of a query and a key depends on how far apart they are, not on where.

    Args:
        x: (batch, time, heads, D).
        base: the slowest pair turns by about 1 / base a position.

    Reference:
        Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding",
        arXiv:2104.09864.
    """
    half = x.shape[-1] // 2
    speeds = base ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * speeds[None, :]
    sin, cos = jnp.sin(angles)[None, :, None, :], jnp.cos(angles)[None, :, None, :]
    one, two = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)
    return turned.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Divides by the root of the mean square, computed in float32 (arXiv:1910.07467)."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-5)
        return (wide * inverse * self.scale[...][None, None, :]).astype(x.dtype)


class Attention(nnx.Module):
    """Causal attention with fewer heads of keys and values than of queries (arXiv:2305.13245)."""

    def __init__(self, shape: Shape, how: Computing, rngs: nnx.Rngs) -> None:
        width, kept = shape.width, shape.groups * shape.head
        self.query = _matrix(width, width, how, rngs)
        self.key = _matrix(width, kept, how, rngs)
        self.value = _matrix(width, kept, how, rngs)
        self.out = _matrix(width, width, how, rngs, 1 / (2 * shape.layers))
        self.head, self.how = shape.head, how

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = (
            part(x).reshape(*x.shape[:2], -1, self.head)
            for part in (self.query, self.key, self.value)
        )
        mixed = jax.nn.dot_product_attention(
            rotated(query), rotated(key), value, is_causal=True, implementation=self.how.attention
        )
        return self.out(mixed.reshape(x.shape))


class SwiGLU(nnx.Module):
    """Two matrices, one of them a gate, and one back (arXiv:2002.05202)."""

    def __init__(self, shape: Shape, how: Computing, rngs: nnx.Rngs) -> None:
        self.gate = _matrix(shape.width, shape.hidden, how, rngs)
        self.up = _matrix(shape.width, shape.hidden, how, rngs)
        self.down = _matrix(shape.hidden, shape.width, how, rngs, 1 / (2 * shape.layers))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """Attention and SwiGLU, each on what is normalized, each added to what came in."""

    def __init__(self, shape: Shape, how: Computing, rngs: nnx.Rngs) -> None:
        self.norm1 = RMSNorm(shape.width)
        self.attention = Attention(shape, how, rngs)
        self.norm2 = RMSNorm(shape.width)
        self.swiglu = SwiGLU(shape, how, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.swiglu(self.norm2(x))


class Transformer(nnx.Module):
    """From bytes to the logits of the byte that follows each.

    Args:
        shape: of its parameters.
        how: it is computed.
        rngs: of the first parameters, which are the same whether layers are stacked or not.
    """

    def __init__(self, shape: Shape, how: Computing, rngs: nnx.Rngs) -> None:
        normal = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(normal(rngs.params(), (BYTES, shape.width), jnp.float32))
        layers = [Layer(shape, how, rngs) for _ in range(shape.layers)]
        self.layers = _stacked_module(layers) if how.scan else nnx.List(layers)
        self.norm = RMSNorm(shape.width)
        if not shape.tied:
            self.out = nnx.Param(normal(rngs.params(), (BYTES, shape.width), jnp.float32))
        self.how = how

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits, (batch, time, 256) in float32.

        Args:
            tokens: (batch, time), int32 in 0..255; position t sees those up to t.
        """
        dtype = jnp.dtype(self.how.dtype)
        x = _rows(whole(self.embedding[...]).astype(dtype), tokens)
        x = self.norm(self._through(x))
        table = self.out if hasattr(self, "out") else self.embedding
        return jnp.einsum(
            "btw,vw->btv", x, whole(table[...]).astype(dtype), preferred_element_type=jnp.float32
        )

    def _through(self, x: jax.Array) -> jax.Array:
        """All layers."""
        if self.how.scan:
            parts = [nnx.split(self.layers)]
        else:
            parts = [nnx.split(layer) for layer in self.layers]

        def one(x: jax.Array, graph: Any, state: Any) -> jax.Array:
            return nnx.merge(graph, jax.tree.map(whole, state))(x)

        if self.how.remat:
            # In a scan nothing can be merged that would undo it, so no barrier is needed there.
            one = jax.checkpoint(one, static_argnums=1, prevent_cse=not self.how.scan)
        if self.how.scan:
            ((graph, states),) = parts
            return jax.lax.scan(lambda x, state: (one(x, graph, state), None), x, states)[0]
        for graph, state in parts:
            x = one(x, graph, state)
        return x


def whole(leaf: jax.Array) -> jax.Array:
    """A parameter where it is computed with: along explicit axes of a mesh it is gathered there.

    Along others XLA decides that.

    Raises:
        ValueError: if it is split along an explicit axis `model`.
    """
    spec = jax.typeof(leaf).sharding.spec
    if not any(spec):
        return leaf
    if "model" in spec:
        raise ValueError(
            f"a parameter is split as {spec} along explicit axes, but this model says nowhere how "
            'it is computed along "model"; give meshes with that axis `AxisType.Auto`, such as '
            "those of `Devices(axes=...)`."
        )
    return jax.sharding.reshard(leaf, PartitionSpec(*[None] * leaf.ndim))


def stacked(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Parameters by dotted path, as a model that scans has them.

    Args:
        params: those of a model that does not scan.
    """
    found: dict[str, Any] = {}
    layers: dict[str, dict[int, jax.Array]] = {}
    for path, leaf in params.items():
        kind, _, rest = path.partition(".")
        if kind != "layers":
            found[path] = leaf
            continue
        number, _, name = rest.partition(".")
        layers.setdefault(f"layers.{name}", {})[int(number)] = leaf
    return found | {
        path: jnp.stack([leaves[number] for number in range(len(leaves))])
        for path, leaves in layers.items()
    }


def unstacked(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """What `stacked` was given."""
    found: dict[str, Any] = {}
    for path, leaf in params.items():
        kind, _, rest = path.partition(".")
        if kind == "layers":
            found |= {f"layers.{number}.{rest}": each for number, each in enumerate(leaf)}
        else:
            found[path] = leaf
    return found


def _rows(table: jax.Array, numbers: jax.Array) -> jax.Array:
    """The rows of these numbers, which lie as the numbers do."""
    spec = jax.typeof(numbers).sharding.spec
    if not any(spec):
        return table[numbers]
    return table.at[numbers].get(out_sharding=PartitionSpec(*spec, None))


_COLUMNS = ("query", "key", "value", "gate", "up")  # their outputs are split along `model`


def shardings(
    shape: Shape, how: Computing, axes: Sequence[str] = ("fsdp", "model")
) -> dict[str, PartitionSpec]:
    """How each parameter lies on a mesh: FSDP along `fsdp`, tensor parallel along `model`.

    Matrices are split along both, between the heads or hidden units along `model` (which must
    divide `groups` and `hidden`); the tables' bytes along `model`; norms are everywhere.

    Args:
        shape, how: of the transformer.
        axes: names of the mesh's axes, of these two; along one that is not there nothing is split.

    Returns:
        The spec of each parameter by its dotted path, as `make_nnx_step(...).params` has them.

    Example:
        >>> specs = shardings(Shape(layers=1), Computing(), axes=("fsdp",))
        >>> specs["layers.0.swiglu.down.kernel"], specs["norm.scale"]
        (P(None, 'fsdp'), P())
    """
    fsdp, model = (name if name in axes else None for name in ("fsdp", "model"))
    layer: dict[str, PartitionSpec] = {f"norm{number}.scale": PartitionSpec() for number in (1, 2)}
    for part, names in (
        ("attention", ("query", "key", "value", "out")),
        ("swiglu", ("gate", "up", "down")),
    ):
        for name in names:
            spec = (fsdp, model) if name in _COLUMNS else (model, fsdp)
            layer[f"{part}.{name}.kernel"] = PartitionSpec(*spec)
    found = {"embedding": PartitionSpec(model, fsdp), "norm.scale": PartitionSpec()}
    if not shape.tied:
        found["out"] = PartitionSpec(model, fsdp)
    for path, spec in layer.items():
        if how.scan:
            found[f"layers.{path}"] = PartitionSpec(None, *spec) if spec else PartitionSpec()
        else:
            found |= {f"layers.{number}.{path}": spec for number in range(shape.layers)}
    return found


def _matrix(
    inputs: int, outputs: int, how: Computing, rngs: nnx.Rngs, variance: float = 1.0
) -> nnx.Linear:
    """Without a bias; what it makes of independent inputs has `variance` times theirs at first."""
    kernel = nnx.initializers.variance_scaling(variance, "fan_in", "normal")
    dtype = jnp.dtype(how.dtype)
    return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=kernel, dtype=dtype, rngs=rngs)


def _stacked_module(layers: Sequence[Layer]) -> Layer:
    """One module whose parameters have those of all layers along their first axis."""
    graph, _ = nnx.split(layers[0])
    states = [nnx.state(layer) for layer in layers]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
