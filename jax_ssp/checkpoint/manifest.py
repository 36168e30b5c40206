"""The manifest of saved parameters: what every leaf and every file of a save must be.

It holds path, shape, dtype and crc32 of each leaf, the structure of the tree, and the crc32 of each
file. See `params.py` for what lies where.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_ssp.checkpoint.claim import MANIFEST
from jax_ssp.files import replace_file
from jax_ssp.records import parsed_json, read_bytes


class Leaf(NamedTuple):
    """What the manifest says of one array."""

    shape: tuple[int, ...]
    dtype: str
    crc32: int

    @classmethod
    def of(cls, array: np.ndarray) -> Leaf:
        crc32 = zlib.crc32(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
        return cls(array.shape, array.dtype.name, crc32)


class Manifest(NamedTuple):
    number: int  # of the save, which names its folder
    tree: Any  # the structure: see `encoded`
    leaves: dict[str, Leaf]  # by path
    files: dict[str, int]  # the crc32 of each file of the folder


def check_files(saved: Path, manifest: Manifest) -> None:
    """Raises unless each file is as it was written."""
    owners = {str(index): f" of params{path}" for index, path in enumerate(manifest.leaves)}
    found = checksums(saved, manifest.files)
    for name, expected in manifest.files.items():
        if found.get(name) != expected:
            owner = owners.get(name.partition("/")[0], "")
            state = f"has crc32 {found[name]}, not {expected}" if name in found else "is missing"
            raise ValueError(f"`{saved}` is damaged: the file `{name}`{owner} {state}.")


def write_manifest(run: Path, manifest: Manifest) -> None:
    leaves = {path: leaf._asdict() for path, leaf in manifest.leaves.items()}
    content = {**manifest._asdict(), "leaves": leaves}
    replace_file(run / MANIFEST, json.dumps(content, indent=1))


def read_manifest(run: Path) -> Manifest:
    file = run / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"No parameters are saved in `{run}`: there is no `{file}`.")
    try:
        content = parsed_json(read_bytes(file))
        leaves = {
            path: Leaf(tuple(leaf["shape"]), np.dtype(leaf["dtype"]).name, int(leaf["crc32"]))
            for path, leaf in content["leaves"].items()
        }
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


def checksums(folder: Path, names: Container[str] | None = None) -> dict[str, int]:
    """The crc32 of each file of a folder, or of those of these names."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: _crc32(path)
        for name, path in files.items()
        if path.is_file() and (names is None or name in names)
    }


def _crc32(path: Path) -> int:
    crc32 = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):  # whatever its size, it costs no more memory
            crc32 = zlib.crc32(piece, crc32)
    return crc32
