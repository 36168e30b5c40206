"""Where an iterator stands, so that a run can go on from there, and which iterators can.

There are two ways. An iterator with `get_state` and `set_state`, as those of grain and `Shards`, is
put where it stood. Any other is made anew by `data(worker)`, and passes over what was taken: that
needs a `data` that gives a worker the same batches whenever it is called.
"""

from __future__ import annotations

import base64
import binascii
import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax

from jax_ssp.checks import shown
from jax_ssp.trees import Tree, digest

State: TypeAlias = Any
Again: TypeAlias = Callable[[], Iterable[Tree]]

_PLAIN = {str, int, float, bool, bytes, type(None)}  # what nobody can change


def keeps_state(iterator: Any) -> bool:
    """Whether an iterator says where it stands, in a form that can be written down.

    Example:
        >>> keeps_state(iter([1, 2]))
        False
    """
    if not all(callable(getattr(iterator, name, None)) for name in ("get_state", "set_state")):
        return False
    try:
        as_facts(iterator.get_state())
    except Exception:  # of one that has the names alone, or a state that is no JSON
        return False
    return True


def state_of(iterator: Any) -> State:
    """Where it stands now, whatever it makes of its own state later."""
    state = iterator.get_state()
    if type(state) in _PLAIN:
        return state
    if type(state) is dict and _PLAIN.issuperset(map(type, state.values())):
        return dict(state)  # nearly always, and so at a tenth of the cost
    return copy.deepcopy(state)


def as_facts(state: State) -> dict[str, Any]:
    """A state as facts for JSON.

    Raises:
        TypeError, ValueError: if JSON would give back another.

    Example:
        >>> as_facts({"next": 3}), as_facts(b"abc")
        ({'state': {'next': 3}}, {'base64': 'YWJj'})
    """
    if isinstance(state, bytes):
        return {"base64": base64.b64encode(state).decode()}
    if json.loads(json.dumps(state, allow_nan=False)) != state:  # of tuples, or keys not strings
        raise ValueError(f"JSON cannot hold {shown(state)}")
    return {"state": state}


def of_facts(facts: Mapping[str, Any]) -> State:
    """The state that `as_facts` has written; None if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    if "base64" not in facts:
        return facts.get("state")
    try:
        return base64.b64decode(facts["base64"], validate=True)
    except (TypeError, binascii.Error) as error:
        raise ValueError(f"{shown(facts['base64'])} holds no bytes in base64.") from error


def made_anew(iterator: Any, again: Again | None, which: str) -> Iterator[Tree]:
    """Another iterator than this one, which begins anew.

    Args:
        iterator: keeps no state.
        again: makes it, if anything does.
        which: it is, begins the message.

    Raises:
        ValueError: if there is none.
    """
    found = None if again is None else iter(again())
    if found is None or found is iterator:
        raise ValueError(
            f"{which} gives the same iterator each time, and it cannot go back, as it has no "
            "`get_state` and `set_state`. So nothing could go on from where it stands: make a new "
            "iterator in each call, or give one that has both, such as grain's."
        )
    return found


def check_same(first: Tree, again: Tree, which: str) -> None:
    """Raise ValueError if the first batch of an iterator is another one when it is made anew."""
    if digest(*jax.tree.leaves(first)) != digest(*jax.tree.leaves(again)):
        raise ValueError(
            f"{which} gives other batches when it is called again, and its iterator has no "
            "`get_state` and `set_state`. So nothing could go on from where it stands: have it "
            "give a worker the same batches in each call (its order by a seed, say), or give an "
            "iterator that has both, such as grain's."
        )
