"""One share of a server: it has the pieces that one of several devices would have.

Where parameters are merged by several processes, each has a server with a share of them. Together
they do what one server on so many devices does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jax_ssp.fragments import Fragments
from jax_ssp.layout import Delta
from jax_ssp.server.partition import Cut, Partition, Parts
from jax_ssp.server.positions import SliceParts
from jax_ssp.server.shards import ShardCut
from jax_ssp.slices import Slice
from jax_ssp.trees import Params


class Share(NamedTuple):
    """Which share of a server this is.

    Attributes:
        number: of the share, counted from 0.
        of: how many there are.
        device: where it merges.
        like: a slice, as those of the workers are, if they are slices.
    """

    number: int
    of: int
    device: jax.Device
    like: Slice | None = None

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """The same for each piece of a fragment."""
        return (self.device,) * (1 if self.like is None else self.like.size)


class AllShares(NamedTuple):
    """All that several shares have, where a worker deals in it: its arrays lie as theirs do.

    Attributes:
        device: where it is.
    """

    device: jax.Device

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """The one."""
        return (self.device,)

    @property
    def like(self) -> None:
        """It is no worker on a slice."""
        return None


class ShareParts(Partition):
    """The pieces of a share: of each fragment one, of workers on slices one for each position.

    Args:
        params: the whole tree, for its structure, shapes and dtypes.
        share: which.
        fragments: None for one.

    Example:
        >>> import jax.numpy as jnp
        >>> share = Share(1, 2, jax.devices("cpu")[0])
        >>> parts = ShareParts({"a": jnp.zeros(4), "b": jnp.zeros(2)}, share, None)
        >>> {name: leaf.shape for name, leaf in parts.shapes[0].items()}
        {'a': (1,), 'b': (2,)}
    """

    remedy = "merge them in one: `Ray(server_shards=1)`"

    def __init__(self, params: Params, share: Share, fragments: Fragments | None = None) -> None:
        self._all: Parts | ShardCut
        if share.like is None:
            self._all = Parts(params, share.of, fragments)
        else:
            self._all = ShardCut(params, share.like, share.of, fragments)
        self.num_devices = self._all.num_devices // share.of
        self._share = share.number, share.of
        self.whole = self._all.whole
        self.shapes = self._mine(self._all.shapes)

    def _mine(self, pieces: Sequence[Any]) -> list[Any]:
        number, of = self._share
        return list(pieces[number::of])

    def __eq__(self, other: object) -> bool:
        mine = self._share, self._all
        return isinstance(other, ShareParts) and mine == (other._share, other._all)

    def __hash__(self) -> int:
        return hash((self._share, self._all))

    def pieces_of(self, tree: Delta, fragment: int) -> list[Delta]:
        return self._mine(self._all.pieces_of(tree, fragment))

    def apart(self, tree: Delta) -> list[Delta]:
        return self._mine(self._all.apart(tree))

    def together(self, pieces: Sequence[Delta], place: Any) -> Delta:
        """The pieces alone are here.

        Raises:
            NotImplementedError: whoever has all shares puts them together.
        """
        raise NotImplementedError("a share does not have the whole tree.")

    def trial(self) -> tuple[Params, Cut]:
        return self._all.trial()


def parts_of(
    params: Params, where: Any, num_devices: int, fragments: Fragments | None
) -> Partition:
    """How the parameters of a server are cut.

    Args:
        params: the whole tree, for its structure, shapes and dtypes.
        where: a `Share` or `SliceParts`; anything else says that all is in this process.
        num_devices: of the server, where workers are on a device each.
        fragments: None for one.
    """
    if isinstance(where, Share):
        return ShareParts(params, where, fragments)
    if isinstance(where, SliceParts):
        return ShardCut(params, where.like, where.shares, fragments)
    return Parts(params, num_devices, fragments)


def is_whole(where: Any) -> bool:
    """Whether a server there has the parameters whole, on one device, like its workers."""
    if isinstance(where, Share):
        return where.of == 1 and where.like is None
    return not isinstance(where, SliceParts | AllShares) and (
        not isinstance(where, Sequence) or len(where) == 1
    )
