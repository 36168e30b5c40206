"""Parameters on disk: written by Orbax, and checked against a manifest when they are read back.

Orbax alone restores flipped bits silently and casts dtypes silently. So a manifest lies beside what
it writes: path, shape, dtype and crc32 of every leaf, and the crc32 of every file. Loading gives
exactly what was saved, or raises. On disk:

    <run>/params_manifest.json    what was saved last, and in which folder
    <run>/params/<number>/        an Orbax checkpoint of the leaves, {"0": array, "1": array, ...}

A save goes into a new folder, then the manifest is replaced in one step, then older folders go.
Wherever that is interrupted, the manifest describes a complete save. Files are checked before Orbax
sees them (a damaged one makes it fail in many ways), the leaves after.
"""

import json
import os
import shutil
import zlib
from collections.abc import Container, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jax_ssp import checks
from jax_ssp.files import replace_file
from jax_ssp.records import parsed_json, read_bytes
from jax_ssp.trees import check_tree

__all__ = ["load_params", "save_params"]

PyTree: TypeAlias = Any
MANIFEST = "params_manifest.json"


class _Leaf(NamedTuple):
    """What the manifest says of one array."""

    shape: tuple[int, ...]
    dtype: str
    crc32: int

    @classmethod
    def of(cls, array: np.ndarray) -> "_Leaf":
        crc32 = zlib.crc32(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
        return cls(array.shape, array.dtype.name, crc32)


class _Manifest(NamedTuple):
    number: int  # of the save, which names its folder
    tree: Any  # the structure: see `_encode`
    leaves: dict[str, _Leaf]  # by path
    files: dict[str, int]  # the crc32 of each file of the folder


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
    arrays = {jax.tree_util.keystr(path): _to_host(path, leaf) for path, leaf in paths_and_leaves}
    if len(arrays) < len(paths_and_leaves):
        raise ValueError("`save_params(params=...)` must give each leaf a path of its own.")

    (run / "params").mkdir(parents=True, exist_ok=True)
    older = [path for path in (run / "params").iterdir() if path.name.isdecimal()]
    number = 1 + max((int(path.name) for path in older), default=-1)
    saved = run / "params" / str(number)
    leaves = {path: _Leaf.of(array) for path, array in arrays.items()}
    tree = _encode(structure, iter(arrays))
    try:
        _write_arrays(saved, arrays)
        _write_manifest(run, _Manifest(number, tree, leaves, _checksums(saved)))
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
    manifest = _read_manifest(folder)
    if like is None:
        paths, structure = _structure(folder, manifest)
    else:
        paths, structure = _match(folder, manifest, like)
    arrays = _read_arrays(folder / "params" / str(manifest.number), manifest)
    return jax.tree.unflatten(structure, [_to_device(path, arrays[path]) for path in paths])


def _write_arrays(saved: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays with Orbax, except those without elements, which it does not take.

    Without OCDBT every leaf has files of its own, so a damaged file tells the leaf; without
    compression, since parameters hardly compress. The handler is used bare, as what Orbax's
    Checkpointer adds is a commit of its own.
    """
    saved.mkdir()
    stored = {str(i): array for i, array in enumerate(arrays.values()) if array.size}
    if stored:
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)
        with closing(handler):
            handler.save(epath.Path(saved), args=ocp.args.PyTreeSave(stored))


def _read_arrays(saved: Path, manifest: _Manifest) -> dict[str, np.ndarray]:
    """The arrays in the folder `saved`, by path, each of them what the manifest says."""
    if not saved.is_dir():
        raise FileNotFoundError(f"`{saved}` does not exist, but it is what {MANIFEST} names.")
    _check_files(saved, manifest)
    stored: dict[str, np.ndarray] = {}
    if any(0 not in leaf.shape for leaf in manifest.leaves.values()):
        with closing(ocp.PyTreeCheckpointHandler()) as handler:
            stored = handler.restore(epath.Path(saved), args=ocp.args.PyTreeRestore())
    arrays = {}
    for index, (path, leaf) in enumerate(manifest.leaves.items()):
        array = np.zeros(leaf.shape, leaf.dtype) if 0 in leaf.shape else stored.get(str(index))
        if array is None:
            raise ValueError(f"`{saved}` is damaged: params{path} is missing.")
        for what, found, expected in zip(leaf._fields, _Leaf.of(array), leaf, strict=True):
            if found != expected:
                raise ValueError(
                    f"`{saved}` is damaged: params{path} has {what} {found}, but {expected} in "
                    f"{MANIFEST}."
                )
        arrays[path] = array
    return arrays


def _check_files(saved: Path, manifest: _Manifest) -> None:
    """Raises unless each file is as it was written."""
    owners = {str(index): f" of params{path}" for index, path in enumerate(manifest.leaves)}
    found = _checksums(saved, manifest.files)
    for name, expected in manifest.files.items():
        if found.get(name) != expected:
            owner = owners.get(name.partition("/")[0], "")
            state = f"has crc32 {found[name]}, not {expected}" if name in found else "is missing"
            raise ValueError(f"`{saved}` is damaged: the file `{name}`{owner} {state}.")


def _write_manifest(run: Path, manifest: _Manifest) -> None:
    leaves = {path: leaf._asdict() for path, leaf in manifest.leaves.items()}
    content = {**manifest._asdict(), "leaves": leaves}
    replace_file(run / MANIFEST, json.dumps(content, indent=1))


def _read_manifest(run: Path) -> _Manifest:
    file = run / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"No parameters are saved in `{run}`: there is no `{file}`.")
    try:
        content = parsed_json(read_bytes(file))
        leaves = {
            path: _Leaf(tuple(leaf["shape"]), np.dtype(leaf["dtype"]).name, int(leaf["crc32"]))
            for path, leaf in content["leaves"].items()
        }
        return _Manifest(int(content["number"]), content["tree"], leaves, dict(content["files"]))
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise ValueError(f"`{file}` is damaged: {error!r}.") from error


def _encode(structure: Any, paths: Iterator[str]) -> Any:
    """A tree structure for JSON: a leaf is its path, a container {kind: children}."""
    if structure.node_data() is None:
        return next(paths)
    kind, keys = structure.node_data()
    children = [_encode(child, paths) for child in structure.children()]
    if kind is type(None):
        return None
    if kind is dict and all(isinstance(key, str) for key in keys):
        return {"dict": dict(zip(keys, children, strict=True))}
    if kind in (list, tuple):
        return {kind.__name__: children}
    return {"other": kind.__name__}


def _decode(node: Any) -> PyTree:
    """What `_encode` encoded, with the paths as leaves."""
    match node:
        case None | str():
            return node
        case {"dict": dict(children)}:
            return {key: _decode(child) for key, child in children.items()}
        case {"list": list(children)}:
            return [_decode(child) for child in children]
        case {"tuple": list(children)}:
            return tuple(_decode(child) for child in children)
        case {"other": kind}:
            raise ValueError(
                f"`load_params(like=...)` must be given for parameters that hold a {kind}: without "
                "it only dicts with string keys, lists, tuples and None come back."
            )
    raise ValueError(f"`{MANIFEST}` is damaged: {node!r} is no structure.")


def _structure(run: Path, manifest: _Manifest) -> tuple[list[str], Any]:
    """The paths and the structure that were saved."""
    paths_and_leaves, structure = jax.tree.flatten_with_path(_decode(manifest.tree))
    names = [name for _, name in paths_and_leaves]
    paths = [jax.tree_util.keystr(path) for path, _ in paths_and_leaves]
    if names != paths or set(names) != set(manifest.leaves):
        raise ValueError(f"`{run / MANIFEST}` is damaged: its tree and its leaves do not agree.")
    return paths, structure


def _match(run: Path, manifest: _Manifest, like: PyTree) -> tuple[list[str], Any]:
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


def _checksums(folder: Path, names: Container[str] | None = None) -> dict[str, int]:
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


def _to_host(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
    held = isinstance(leaf, np.ndarray | np.generic | jax.Array)
    dtype = leaf.dtype if held and not isinstance(leaf, jax.core.Tracer) else None
    if dtype is None or not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_):
        raise TypeError(
            f"`save_params(params=...)` must hold arrays of numbers, got {type(leaf).__name__} at "
            f"params{jax.tree_util.keystr(path)}; use jnp.asarray or jax.random.key_data."
        )
    return np.asarray(leaf, dtype=dtype.newbyteorder("="))


def _to_device(path: str, array: np.ndarray) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype != array.dtype:
        raise ValueError(
            f"params{path} is {array.dtype}, which JAX would cast to {dtype}; set jax_enable_x64."
        )
    return jnp.asarray(array)
