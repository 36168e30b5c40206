"""Parameters in fragments: shares of them that travel one after the other.

Which fragment a clock pushes, and which its worker adopts, the controller says; see
`jax_ssp.controller.fragments`. Here it is said which numbers belong to which fragment: of each leaf
all, none, or a range along one axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax

from jax_ssp import checks
from jax_ssp.checks import shown
from jax_ssp.compression import nbytes

By: TypeAlias = Literal["bytes", "strided", "sequential"]
MOST_FRAGMENTS = 1024


class Range(NamedTuple):
    """What a piece holds of a leaf: of one axis, every `step`-th row from `start` up to `stop`."""

    axis: int
    start: int
    stop: int
    step: int = 1

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(range(self.start, self.stop, self.step))


NOTHING = Range(0, 0, 0)


@dataclass(frozen=True)
class Fragments:
    """Parameters in fragments: each clock pushes one of them, in turn, and adopts that one.

    With P fragments and `local_steps=h` each fragment is exchanged every P clocks, after P h steps
    on it: where the source's period is H steps, `local_steps` is H // P. What a push costs is a
    P-th; what is not pushed yet stays the worker's.

    Args:
        number: P; by default as many as there are `paths`.
        by: "bytes" makes them of about the same size, in the order of the tree; "strided" gives
            layer l to fragment l mod P; "sequential" gives each P-th of the layers to one.
        layers: the path of what holds the layers, such as "blocks": its children are numbered
            ("blocks/0", "blocks/1"), or their arrays are stacked along their first axis. By default
            it is the one path that has numbered children, of a `make_nnx_step` too, whose paths
            have dots for slashes. What is in no layer goes to the smallest fragment by then.
        paths: for each fragment the paths of what is in it, in place of all that.

    Raises:
        ValueError: if a number is less than 1, or `paths` is not as long as it says. When the run
            is made: if there are fewer layers than fragments, or a path names nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"blocks": [jnp.zeros(4)] * 3, "head": jnp.zeros(2)}
        >>> for name, ranges in Fragments(2, by="strided").of(params).items():
        ...     print(name, [each.rows for each in ranges])
        blocks/0 [4, 0]
        blocks/1 [0, 4]
        blocks/2 [4, 0]
        head [0, 2]

    Reference:
        Douillard et al. 2025, "Streaming DiLoCo with overlapping communication", arXiv:2501.18512.
    """

    number: int | None = None
    by: By = "bytes"
    layers: str | None = None
    paths: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        checks.put(self, "paths", _check_paths)
        number = len(self.paths) or 4 if self.number is None else self.number
        object.__setattr__(self, "number", number)
        checks.put(self, "number", checks.integer, least=1, most=MOST_FRAGMENTS)
        checks.put(self, "by", checks.choice, ("bytes", "strided", "sequential"))
        checks.put(self, "layers", checks.optional, checks.text)
        if self.paths and len(self.paths) != number:
            raise ValueError(
                f"`Fragments(number={number})` must be the number of `paths`, {len(self.paths)}; "
                "leave it out."
            )

    @property
    def count(self) -> int:
        """P."""
        assert self.number is not None
        return self.number

    def of(self, params: Any) -> dict[str, list[Range]]:
        """What each fragment holds of each leaf, by the leaf's path.

        Args:
            params: a tree of arrays, or of shapes and dtypes.

        Raises:
            ValueError: if a fragment would hold nothing, or a path names nothing.
        """
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        if self.paths:
            given = self._by_paths(leaves)
        elif self.by == "bytes":
            shares = by_bytes(list(leaves.values()), self.count)
            given = dict(zip(leaves, map(list, zip(*shares, strict=True)), strict=True))
        else:
            given = self._by_layers(leaves)
        for number, ranges in enumerate(zip(*given.values(), strict=True)):
            if not any(each.rows for each in ranges):
                raise ValueError(
                    f"`fragments` are {self}: there is nothing left for number {number}; ask for "
                    "fewer."
                )
        return given

    def _by_paths(self, leaves: dict[str, Any]) -> dict[str, list[Range]]:
        given: dict[str, list[Range]] = {}
        used: set[str] = set()
        for name, leaf in leaves.items():
            found = [
                (number, path)
                for number, paths in enumerate(self.paths)
                for path in paths
                if _is_in(name, path)
            ]
            if len({number for number, _ in found}) != 1:
                what = "no fragment" if not found else f"several: {[path for _, path in found]}"
                raise ValueError(f"`Fragments(paths=...)`: the leaf {name!r} is in {what}.")
            used |= {path for _, path in found}
            given[name] = self._whole(leaf, found[0][0])
        unused = [path for path in itertools.chain(*self.paths) if path not in used]
        if unused:
            raise ValueError(
                f"`Fragments(paths=...)`: {unused[0]!r} names nothing; there are {_few(leaves)}."
            )
        return given

    def _by_layers(self, leaves: dict[str, Any]) -> dict[str, list[Range]]:
        holder = self._holder(leaves)
        own = {name: _layer_of(name, holder) for name in leaves}
        stacked = {n: leaf for n, leaf in leaves.items() if _is_in(n, holder) and own[n] is None}
        counts = {leaf.shape[0] if leaf.shape else 0 for leaf in stacked.values()}
        numbered = [layer for layer in own.values() if layer is not None]
        counts |= {max(numbered) + 1} if numbered else set()
        if len(counts) != 1:
            raise ValueError(
                f"`Fragments(layers={holder!r})` must name layers: children with numbers, or "
                f"arrays with a first axis of one length; of {_few(leaves)} they are {counts}."
            )
        (count,) = counts
        if count < self.count:
            raise ValueError(
                f"`Fragments(number={self.count})` must be at most {count}, the layers in "
                f'{holder!r}; ask for fewer, or for shares `by="bytes"`.'
            )
        homes = [self._home(layer, count) for layer in range(count)]
        rows = [[layer for layer in range(count) if homes[layer] == p] for p in range(self.count)]
        step = self.count if self.by == "strided" else 1
        shares = [Range(0, mine[0], mine[-1] + 1, step) for mine in rows]
        given: dict[str, list[Range]] = {}
        sizes = [0.0] * self.count
        for name, leaf in leaves.items():
            layer = own[name]
            if name in stacked:
                given[name] = list(shares)
            elif layer is not None:
                given[name] = self._whole(leaf, homes[layer])
            _count(sizes, leaf, given.get(name, ()))
        for name in [name for name in leaves if name not in given]:
            given[name] = self._whole(leaves[name], min(range(self.count), key=sizes.__getitem__))
            _count(sizes, leaves[name], given[name])
        return {name: given[name] for name in leaves}

    def _home(self, layer: int, count: int) -> int:
        """The fragment of a layer."""
        return layer % self.count if self.by == "strided" else layer * self.count // count

    def _holder(self, leaves: dict[str, Any]) -> str:
        """The path of what holds the layers."""
        if self.layers is not None:
            if not any(_is_in(name, self.layers) for name in leaves):
                raise ValueError(
                    f"`Fragments(layers={self.layers!r})` names nothing; there are {_few(leaves)}."
                )
            return self.layers
        parts = [name.replace(".", "/").split("/") for name in leaves]
        firsts = [next((n for n, p in enumerate(each) if p.isdigit()), 0) for each in parts]
        holders = {"/".join(each[:n]) for each, n in zip(parts, firsts, strict=True) if n}
        if len(holders) != 1:
            raise ValueError(
                f"`Fragments(by={self.by!r})` needs `layers`, the path of what holds the layers, "
                f"where {'several have' if holders else 'none has'} numbered children: "
                f"{_few(sorted(holders) or leaves)}."
            )
        return holders.pop()

    def _whole(self, leaf: Any, home: int) -> list[Range]:
        """All of a leaf in one fragment."""
        rows = leaf.shape[0] if leaf.shape else 1
        return [Range(0, 0, rows) if p == home else NOTHING for p in range(self.count)]


def by_bytes(leaves: Sequence[Any], num_pieces: int) -> list[list[Range]]:
    """Pieces of about the same number of bytes, cut between rows, in the order of the leaves.

    Args:
        leaves: with shape and dtype.
        num_pieces: at least 1.

    Returns:
        For each piece what it holds of each leaf.
    """
    sizes = list(map(nbytes, leaves))
    share = sum(sizes) / num_pieces
    ranges: list[list[Range]] = [[] for _ in range(num_pieces)]
    before = 0
    for leaf, size in zip(leaves, sizes, strict=True):
        axis = _axis(leaf.shape, num_pieces)
        rows = leaf.shape[axis] if leaf.shape else 1
        ends = [
            min(max(round(rows * (share * number - before) / max(size, 1)), 0), rows)
            for number in range(num_pieces)
        ]
        for piece, start, stop in zip(ranges, ends, [*ends[1:], rows], strict=True):
            piece.append(Range(axis, start, stop))
        before += size
    return ranges


def check_fragments(fragments: Any, field: str = "fragments") -> Fragments | None:
    """What a plan may say of fragments: None, how many, or `Fragments`.

    Raises:
        TypeError, ValueError: if it is none of that.
    """
    if fragments is None or isinstance(fragments, Fragments):
        return fragments
    if isinstance(fragments, int) and not isinstance(fragments, bool):
        return Fragments(checks.integer(field, fragments, least=1, most=MOST_FRAGMENTS))
    raise TypeError(
        f"`{field}` must be None, a number of fragments, or `ssp.Fragments(...)`, got "
        f"{shown(fragments)}."
    )


def _check_paths(field: str, paths: Any) -> tuple[tuple[str, ...], ...]:
    must = 'a list for each fragment of paths, such as [["embed", "blocks/0"], ["head"]]'
    groups = checks.several(field, paths, must)
    return tuple(
        tuple(checks.text(f"{field}[{n}][{m}]", path) for m, path in enumerate(each))
        for n, each in enumerate(
            checks.several(f"{field}[{n}]", g, must) for n, g in enumerate(groups)
        )
    )


def _axis(shape: tuple[int, ...], num_pieces: int) -> int:
    """The axis to cut along: the first one, whose parts are contiguous, if it is long enough."""
    if not shape or shape[0] >= num_pieces:
        return 0
    return max(range(len(shape)), key=shape.__getitem__)


def _count(sizes: list[float], leaf: Any, ranges: Sequence[Range]) -> None:
    """Add to the sizes of fragments what each holds of a leaf (bytes)."""
    rows = max(leaf.shape[0] if leaf.shape else 1, 1)
    for number, each in enumerate(ranges):
        sizes[number] += nbytes(leaf) * each.rows / rows


def _is_in(name: str, path: str) -> bool:
    name, path = name.replace(".", "/"), path.replace(".", "/").strip("/")
    return path in ("", name) or name.startswith(f"{path}/")


def _layer_of(name: str, holder: str) -> int | None:
    """The number of the layer that a leaf is in, where layers are numbered children."""
    if not _is_in(name, holder) or name == holder:
        return None
    first = name[len(holder.strip("/")) + bool(holder.strip("/")) :].replace(".", "/").split("/")[0]
    return int(first) if first.isdigit() else None


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if names[6:] else "")
