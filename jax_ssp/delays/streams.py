"""The random streams of a run's workers: those of `np.random.default_rng([seed, worker])`.

NumPy takes as long to seed a stream as a simulated worker takes for several clocks: it mixes the
numbers of each seed in small arrays of its own. Here the same arithmetic is done for all workers at
once. A stream itself is made when it is first asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISpawnableSeedSequence

Words = np.ndarray
"""A number for each worker, uint32."""


class Streams:
    """A random generator for each worker of a run.

    Args:
        seed: of the run, an integer of any size, no less than 0.
        num_workers: so many streams.

    Example:
        >>> here, there = Streams(seed=7, num_workers=3).of(2), np.random.default_rng([7, 2])
        >>> here.random() == there.random()
        True
    """

    def __init__(self, seed: int, num_workers: int) -> None:
        self._seed = seed
        self._made: list[np.random.Generator | None] = [None] * num_workers

    def of(self, worker: int) -> np.random.Generator:
        """The stream of this worker, where it is by now."""
        return self._made[worker] or self._make(worker)

    def _make(self, worker: int) -> np.random.Generator:
        seeds = _Seeds([self._seed, worker], self._states[worker])
        made = self._made[worker] = np.random.Generator(np.random.PCG64(seeds))
        return made

    @functools.cached_property
    def _states(self) -> np.ndarray:
        return first_states(self._seed, len(self._made))


class _Seeds(ISpawnableSeedSequence):
    """A `np.random.SeedSequence` of which is known what `PCG64` asks it for.

    Args:
        entropy: that it is made of.
        state: what it gives as four words of 64 bits.
    """

    def __init__(self, entropy: list[int], state: np.ndarray) -> None:
        self.entropy = entropy
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        if n_words == len(self._state) and dtype is np.uint64:
            return self._state
        return self._whole.generate_state(n_words, dtype)

    def spawn(self, n_children: int) -> list[np.random.SeedSequence]:
        return self._whole.spawn(n_children)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._whole, name)

    @functools.cached_property
    def _whole(self) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.entropy)


def first_states(seed: int, num_workers: int) -> np.ndarray:
    """Of each worker `np.random.SeedSequence([seed, worker]).generate_state(4, np.uint64)`.

    Args:
        seed: an integer of any size, no less than 0.
        num_workers: they are numbered from 0.

    Returns:
        uint64, of shape (num_workers, 4).

    Reference:
        O'Neill 2015, "Developing a seed_seq Alternative"; the constants are those of NumPy.
    """
    hashed = _hashing(0x43B0D7E5, 0x931E8875)
    entropy = [np.full(num_workers, word, np.uint32) for word in _words_of(seed)]
    entropy.append(np.arange(num_workers, dtype=np.uint32))
    pool = [hashed(words) for words in entropy[:4]]
    pool += [hashed(np.zeros(num_workers, np.uint32)) for _ in range(4 - len(pool))]
    for source in range(4):
        for into in range(4):
            if into != source:
                pool[into] = _mixed(pool[into], hashed(pool[source]))
    for words in entropy[4:]:
        pool = [_mixed(each, hashed(words)) for each in pool]
    drawn = _hashing(0x8B51F9DD, 0x58F38DED)
    return np.stack([drawn(pool[word % 4]) for word in range(8)], axis=1).view(np.uint64)


def _words_of(number: int) -> list[int]:
    """A number in words of 32 bits, the lowest first; at least one."""
    words = [number & _WORD]
    while number := number >> 32:
        words.append(number & _WORD)
    return words


def _hashing(begin: int, factor: int) -> Callable[[Words], Words]:
    """A hash function that is another one at each call."""
    constant = begin

    def hashed(words: Words) -> Words:
        nonlocal constant
        words = words ^ np.uint32(constant)
        constant = constant * factor & _WORD
        words = words * np.uint32(constant)
        return words ^ (words >> np.uint32(16))

    return hashed


def _mixed(ours: Words, theirs: Words) -> Words:
    both = ours * np.uint32(0xCA01F9DD) - theirs * np.uint32(0x4973F715)
    return both ^ (both >> np.uint32(16))


_WORD = 0xFFFFFFFF  # 32 bits
