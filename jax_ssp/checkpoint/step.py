"""One checkpoint in a folder: written, checked and read; `steps.py` says which there are.

manifest.json   what it is, sealed with a hash of its own: every file's hash, every array's
                shape, dtype and crc32, the facts
arrays/         the arrays, as Orbax writes them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax_ssp
from jax_ssp.checkpoint.sealed import check_hashes, hashes, read_sealed, sealed
from jax_ssp.checks import shown
from jax_ssp.records import NUMBER, RECORD, TEXT, check_record, either, one_of, whole

FORMAT = 1
MANIFEST, ARRAYS = "manifest.json", "arrays"
_OF_A_STEP = ("rows", "metric", "config", "version")
_KINDS = {
    "rows": whole(0),
    "metric": either(one_of(None), NUMBER),
    "config": either(one_of(None), TEXT),
    "facts": RECORD,
    "leaves": RECORD,
    "files": RECORD,
}
_NEWER = {"version": either(one_of(None), whole(0))}  # not all manifests have it


class Damaged(ValueError):
    """A checkpoint is not as it was written; the message says what of it."""


@dataclass(frozen=True)
class Step:
    """A checkpoint on the disk.

    Attributes:
        rows: the rows of the tape that come before it; they name it.
        path: its folder.
        metric: what it is kept by as one of the best, if it was measured.
        config: the digest of the config of the run that wrote it, if it was given.
        version: of the parameters in it, if it was given.
    """

    rows: int
    path: Path
    metric: float | None = None
    config: str | None = None
    version: int | None = None

    @classmethod
    def told(cls, path: Path, manifest: Mapping[str, Any]) -> Step:
        """The one that a manifest tells of."""
        return cls(path=path, **{name: manifest.get(name) for name in _OF_A_STEP})


def write_step(
    folder: Path,
    step: Step,
    facts: Mapping[str, Any],
    arrays: Mapping[str, Any],
    half_way: Callable[[], object],
) -> None:
    """Write a step into a folder, which is empty.

    Args:
        folder: where it is written, before it is at `step.path`.
        step: what is known of it.
        facts, arrays: what is saved.
        half_way: called between the two.

    Raises:
        TypeError, ValueError: if something cannot be saved, naming it.
        OSError: if the disk does not take it.
    """
    from jax_ssp.checkpoint.arrays import on_host, write_arrays

    field = "Steps.save(arrays=...)"
    held = {name: on_host(field, repr(name), array) for name, array in arrays.items()}
    leaves = write_arrays(folder / ARRAYS, held, pack=True)
    half_way()
    content = {
        "format": FORMAT,
        "jax_ssp": jax_ssp.__version__,
        **{name: getattr(step, name) for name in _OF_A_STEP},
        "facts": facts,
        "leaves": {name: leaf.facts() for name, leaf in leaves.items()},
        "files": hashes(folder),
    }
    (folder / MANIFEST).write_bytes(sealed(content))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the step in a folder.

    Raises:
        Damaged: if it is not what was written.
        ValueError: if it is of another format.
    """
    try:
        manifest = read_sealed(path / MANIFEST)
        if manifest.get("format") == FORMAT:
            check_record(repr(MANIFEST), manifest, _KINDS)
            check_record(repr(MANIFEST), manifest, _NEWER, needed=False)
            if str(manifest["rows"]) != path.name:
                raise Damaged(f"it is the one of {manifest['rows']} rows")
            return manifest
    except (ValueError, OSError) as error:
        raise Damaged(str(error)) from error
    raise ValueError(
        f"{path} is a checkpoint of format {shown(manifest.get('format'))}, and this version reads "
        f"format {FORMAT}; go on with the version that wrote it ({manifest.get('jax_ssp')})."
    )


def read_step(path: Path) -> tuple[Step, dict[str, Any]]:
    """The step in a folder, each of whose files is as it was written; and its manifest.

    Raises:
        Damaged: if one is not.
        ValueError: if it is of another format.
    """
    manifest = read_manifest(path)
    names = [*manifest["leaves"]]

    def whose(file: str) -> str:
        parts = file.split("/")
        own = len(parts) == 3 and parts[0] == ARRAYS and parts[1].isdecimal()
        return f" of {shown(names[int(parts[1])])}" if own and int(parts[1]) < len(names) else ""

    try:
        check_hashes(path, {**manifest["files"], MANIFEST: None}, whose)
    except (ValueError, OSError) as error:
        raise Damaged(str(error)) from error
    return Step.told(path, manifest), manifest


def load_step(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts and the arrays of the step in a folder; raises as `read_step` does."""
    from jax_ssp.checkpoint.arrays import Leaf, read_arrays

    _, manifest = read_step(path)
    try:
        leaves = {name: Leaf.read(facts) for name, facts in manifest["leaves"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"the file {MANIFEST!r} is damaged: {error!r}") from error
    return manifest["facts"], read_arrays(path / ARRAYS, leaves)


def check_facts(facts: Any, called: str = "facts") -> None:
    """Raise TypeError, naming the place, where JSON would give back something else, or nothing."""
    if isinstance(facts, Mapping):
        for name, value in facts.items():
            if not isinstance(name, str):
                raise TypeError(f"`{called}` must have strings as keys, got {shown(name)}.")
            check_facts(value, f"{called}[{name!r}]")
    elif isinstance(facts, list | tuple):
        for index, value in enumerate(facts):
            check_facts(value, f"{called}[{index}]")
    elif not (facts is None or isinstance(facts, str | int | float)):
        raise TypeError(f"`{called}` must be a fact for JSON, got {shown(facts)}.")
