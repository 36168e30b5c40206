"""Parameters on disk: loading gives exactly what was saved, or raises. On disk:

    <run>/params_manifest.json    what was saved last, and in which folder (see `manifest.py`)
    <run>/params/<number>/        an Orbax checkpoint of the leaves, {"0": array, "1": array, ...}

A save goes into a new folder, then the manifest is replaced in one step, then older folders go.
Wherever that is interrupted, the manifest describes a complete save. Files are checked before Orbax
sees them (a damaged one makes it fail in many ways), the leaves after.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp import checks
from jax_ssp.checkpoint.arrays import on_host, read_arrays, write_arrays
from jax_ssp.checkpoint.claim import MANIFEST
from jax_ssp.checkpoint.manifest import (
    Manifest,
    decoded,
    encoded,
    read_manifest,
    write_manifest,
)
from jax_ssp.checkpoint.sealed import check_hashes, hashes
from jax_ssp.trees import check_tree

PyTree: TypeAlias = Any


def save_params(folder: str | os.PathLike[str], params: PyTree) -> None:
    """Saves parameters in a run's folder, in place of those saved there before.

    Returns when they are on disk. If it is interrupted, those saved before can still be loaded.

    Args:
        folder: the run's folder; it is made if there is none.
        params: pytree of JAX or NumPy arrays, on any device.

    Raises:
        TypeError: if a leaf is not an array of numbers.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     save_params(run, {"layers": [{"w": jnp.ones((2, 3), jnp.bfloat16)}]})
        ...     params = load_params(run)
        >>> params["layers"][0]["w"].dtype
        dtype(bfloat16)
    """
    run = checks.path("save_params(folder=...)", folder).absolute()
    check_tree("save_params(params=...)", params)
    paths_and_leaves, structure = jax.tree.flatten_with_path(params)
    field = "save_params(params=...)"
    arrays = {
        path: on_host(field, _called(path), leaf)
        for path, leaf in ((jax.tree_util.keystr(path), leaf) for path, leaf in paths_and_leaves)
    }
    if len(arrays) < len(paths_and_leaves):
        raise ValueError("`save_params(params=...)` must give each leaf a path of its own.")

    (run / "params").mkdir(parents=True, exist_ok=True)
    older = [path for path in (run / "params").iterdir() if path.name.isdecimal()]
    number = 1 + max((int(path.name) for path in older), default=-1)
    saved = run / "params" / str(number)
    tree = encoded(structure, iter(arrays))
    try:
        leaves = write_arrays(saved, arrays, pack=False)  # so that Orbax alone can read them too
        write_manifest(run, Manifest(number, tree, leaves, hashes(saved)))
    except BaseException:
        shutil.rmtree(saved, ignore_errors=True)  # half a save takes room, and is good for nothing
        raise
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def load_params(run: str | os.PathLike[str], like: PyTree | None = None) -> PyTree:
    """Loads the parameters saved in a run's folder, exactly as they were saved.

    Args:
        run: the run's folder.
        like: pytree of arrays or `jax.ShapeDtypeStruct` of the structure, shapes and dtypes to
            expect. Without it come dicts with string keys, lists, tuples and None, as saved; any
            other structure needs it.

    Returns:
        The parameters, as JAX arrays on the default device.

    Raises:
        FileNotFoundError: if nothing was saved there.
        ValueError: if what is on disk is not what was saved (naming the leaf or the file), is not
            what `like` expects, or cannot be represented (64 bits without `jax_enable_x64`).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     save_params(run, (jnp.arange(3), {}))
        ...     load_params(run, like=(jax.ShapeDtypeStruct((3,), jnp.int32), {}))
        (Array([0, 1, 2], dtype=int32), {})
    """
    folder = checks.path("load_params(run=...)", run).absolute()
    manifest = read_manifest(folder)
    if like is None:
        paths, structure = _structure(folder, manifest)
    else:
        paths, structure = _match(folder, manifest, like)
    arrays = _read(folder / "params" / str(manifest.number), manifest)
    return jax.tree.unflatten(structure, [_to_device(path, arrays[path]) for path in paths])


def _read(saved: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """The arrays in the folder `saved`, by path, each of them what the manifest says."""
    if not saved.is_dir():
        raise FileNotFoundError(f"`{saved}` does not exist, but it is what {MANIFEST} names.")
    owners = {str(index): f" of {_called(path)}" for index, path in enumerate(manifest.leaves)}
    try:
        check_hashes(saved, manifest.files, lambda name: owners.get(name.partition("/")[0], ""))
    except ValueError as error:
        raise ValueError(f"`{saved}` is damaged: {error}.") from error
    return read_arrays(saved, manifest.leaves, _called)


def _called(path: str) -> str:
    return f"params{path}"


def _structure(run: Path, manifest: Manifest) -> tuple[list[str], Any]:
    """The paths and the structure that were saved."""
    paths_and_leaves, structure = jax.tree.flatten_with_path(decoded(manifest.tree))
    names = [name for _, name in paths_and_leaves]
    paths = [jax.tree_util.keystr(path) for path, _ in paths_and_leaves]
    if names != paths or set(names) != set(manifest.leaves):
        raise ValueError(f"`{run / MANIFEST}` is damaged: its tree and its leaves do not agree.")
    return paths, structure


def _match(run: Path, manifest: Manifest, like: PyTree) -> tuple[list[str], Any]:
    """The paths and the structure of `like`, once it is seen to expect what was saved."""
    check_tree("load_params(like=...)", like)
    paths_and_leaves, structure = jax.tree.flatten_with_path(like)
    expected = {jax.tree_util.keystr(path): leaf for path, leaf in paths_and_leaves}
    wrong = []
    for path in {**expected, **manifest.leaves}:
        here = _kind(expected[path]) if path in expected else "missing"
        saved = _kind(manifest.leaves[path]) if path in manifest.leaves else "missing"
        if here != saved:
            wrong.append(f"params{path} is {saved} as saved and {here} in `like`")
    if wrong:
        raise ValueError(f"`{run}` does not hold what `like` expects: {'; '.join(wrong)}.")
    return list(expected), structure


def _kind(leaf: Any) -> str:
    try:
        return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
    except Exception as error:
        raise TypeError(
            "`load_params(like=...)` must hold arrays or jax.ShapeDtypeStruct, got "
            f"{type(leaf).__name__}."
        ) from error


def _to_device(path: str, array: np.ndarray) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype != array.dtype:
        raise ValueError(
            f"params{path} is {array.dtype}, which JAX would cast to {dtype}; set jax_enable_x64."
        )
    return jnp.asarray(array)
