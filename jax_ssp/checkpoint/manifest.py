"""The manifest of saved parameters: what every leaf and every file of a save must be.

It holds shape, dtype and crc32 of each leaf by its path, the structure of the tree, and the hash of
each file; and it is sealed with a hash of its own. See `params.py` for what lies where.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jax_ssp.checkpoint.arrays import Leaf
from jax_ssp.checkpoint.claim import MANIFEST
from jax_ssp.checkpoint.sealed import LARGEST, sealed, unsealed
from jax_ssp.files import replace_file
from jax_ssp.records import parsed_json, read_bytes


class Manifest(NamedTuple):
    number: int  # of the save, which names its folder
    tree: Any  # the structure: see `encoded`
    leaves: dict[str, Leaf]  # by path
    files: dict[str, Any]  # the hash of each file of the folder


def write_manifest(run: Path, manifest: Manifest) -> None:
    leaves = {path: leaf.facts() for path, leaf in manifest.leaves.items()}
    replace_file(run / MANIFEST, sealed({**manifest._asdict(), "leaves": leaves}))


def read_manifest(run: Path) -> Manifest:
    """The manifest in a run's folder; older versions did not seal theirs, and wrote crc32s."""
    file = run / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"No parameters are saved in `{run}`: there is no `{file}`.")
    try:
        written = read_bytes(file, LARGEST)
        content = parsed_json(written)
        if "sha256" in content:
            content = unsealed(written)
        leaves = {path: Leaf.read(leaf) for path, leaf in content["leaves"].items()}
        return Manifest(int(content["number"]), content["tree"], leaves, dict(content["files"]))
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise ValueError(f"`{file}` is damaged: {error!r}.") from error


def encoded(structure: Any, paths: Iterator[str]) -> Any:
    """A tree structure for JSON: a leaf is its path, a container {kind: children}."""
    if structure.node_data() is None:
        return next(paths)
    kind, keys = structure.node_data()
    children = [encoded(child, paths) for child in structure.children()]
    if kind is type(None):
        return None
    if kind is dict and all(isinstance(key, str) for key in keys):
        return {"dict": dict(zip(keys, children, strict=True))}
    if kind in (list, tuple):
        return {kind.__name__: children}
    return {"other": kind.__name__}


def decoded(node: Any) -> Any:
    """What `encoded` encoded, with the paths as leaves."""
    match node:
        case None | str():
            return node
        case {"dict": dict(children)}:
            return {key: decoded(child) for key, child in children.items()}
        case {"list": list(children)}:
            return [decoded(child) for child in children]
        case {"tuple": list(children)}:
            return tuple(decoded(child) for child in children)
        case {"other": kind}:
            raise ValueError(
                f"`load_params(like=...)` must be given for parameters that hold a {kind}: without "
                "it only dicts with string keys, lists, tuples and None come back."
            )
    raise ValueError(f"`{MANIFEST}` is damaged: {node!r} is no structure.")
