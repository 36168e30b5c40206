"""What is loaded is what was saved, or an error: never something else."""

import json
import logging
import os
import random
import shutil
import threading
import zlib
from collections import OrderedDict, namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jax_ssp.checkpoint import load_params, save_params
from jax_ssp.checkpoint.sealed import hashes, read_sealed, sealed
from jax_ssp.files import digest_of

Pair = namedtuple("Pair", ["a", "b"])


def make_params(scale: float = 1.0):
    rng = np.random.default_rng(0)
    return {
        "layers": [
            {"w": jnp.asarray(scale * rng.standard_normal((8, 4)), jnp.float32), "b": jnp.zeros(4)},
            (jnp.full(3, scale, jnp.bfloat16), None, jnp.arange(3, dtype=jnp.int8)),
        ],
        "scale": jnp.asarray(scale, jnp.float16),
        "steps": np.array(7, np.int32),
        "mask": np.array([True, False]),
        "empty": {},
        "nothing": jnp.zeros((0, 3), jnp.bfloat16),
        "a/b.c 'd'": jnp.ones((1, 1), jnp.uint32),
        "x" * 300: jnp.ones(2, jnp.complex64),
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, jax.Array)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def data_files(run: Path) -> list[Path]:
    return sorted(path for path in (run / "params").rglob("*") if path.is_file())


def test_every_dtype_shape_and_container_comes_back(tmp_path):
    params = make_params()
    save_params(tmp_path, params)
    assert_same(load_params(tmp_path), params)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert_same(load_params(tmp_path, like=shapes), params)
    assert_same(load_params(tmp_path, like=params), params)


@pytest.mark.parametrize("params", [{}, [], None, {"a": []}, {"a": jnp.zeros((0,))}, jnp.arange(3)])
def test_small_trees_come_back(tmp_path, params):
    save_params(tmp_path / "new" / "run", params)
    assert_same(load_params(str(tmp_path / "new" / "run")), params)


def test_float64_comes_back_where_it_is_enabled(tmp_path):
    params = {"w": np.array([1 / 3, 1e300])}
    save_params(tmp_path, params)
    with pytest.raises(ValueError, match=r"params\['w'\] is float64, .*; set jax_enable_x64"):
        load_params(tmp_path)
    with jax.enable_x64(True):
        assert_same(load_params(tmp_path), params)
        assert_same(load_params(tmp_path, like=params), params)


def test_unusual_layouts_come_back(tmp_path):
    params = {"f": np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3))}
    save_params(tmp_path, {**params, "big": np.arange(3, dtype=">i4")})
    assert_same(load_params(tmp_path), {**params, "big": np.arange(3, dtype=np.int32)})


def test_other_containers_need_like(tmp_path):
    params = {"p": Pair(jnp.ones(1), jnp.zeros(2)), "o": OrderedDict(z=jnp.ones(1), a=jnp.ones(3))}
    save_params(tmp_path, params)
    assert_same(load_params(tmp_path, like=params), params)
    with pytest.raises(ValueError, match=r"`load_params\(like=...\)` must be given .* OrderedDict"):
        load_params(tmp_path)
    save_params(tmp_path, {1: jnp.ones(1)})
    with pytest.raises(ValueError, match="hold a dict: without it only dicts with string keys"):
        load_params(tmp_path)


def test_like_must_expect_what_was_saved(tmp_path):
    save_params(tmp_path, {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    like = {"w": jnp.ones((3, 2)), "b": jnp.ones(3, jnp.bfloat16)}
    with pytest.raises(ValueError, match="does not hold what `like` expects") as error:
        load_params(tmp_path, like=like)
    assert "params['w'] is float32[2, 3] as saved and float32[3, 2] in `like`" in str(error.value)
    assert "params['b'] is float32[3] as saved and bfloat16[3] in `like`" in str(error.value)
    with pytest.raises(ValueError, match=r"params\['c'\] is missing as saved") as error:
        load_params(tmp_path, like={"w": jnp.ones((2, 3)), "c": jnp.ones(3)})
    assert "params['b'] is float32[3] as saved and missing in `like`" in str(error.value)
    with pytest.raises(TypeError, match=r"must hold arrays or jax.ShapeDtypeStruct, got float"):
        load_params(tmp_path, like={"w": 1.0, "b": 2.0})


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [(1.0, "float"), ("w", "str"), (np.array(["w"]), "ndarray"), (np.array([{}]), "ndarray")],
)
def test_only_arrays_of_numbers_are_saved(tmp_path, leaf, kind):
    with pytest.raises(TypeError, match=rf"arrays of numbers, got {kind} at params\['w'\]\[0\]"):
        save_params(tmp_path, {"w": [leaf]})
    with pytest.raises(TypeError, match=r"use jnp.asarray or jax.random.key_data"):
        save_params(tmp_path, jax.random.key(0))
    assert not list(tmp_path.iterdir())


def test_nothing_saved_is_said(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No parameters are saved in `.*params_manifest.js"
    ):
        load_params(tmp_path / "nowhere")
    save_params(tmp_path, {"w": jnp.ones(3)})
    (tmp_path / "params").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"params/0` does not exist"):
        load_params(tmp_path)


def test_orbax_alone_reads_what_was_saved(tmp_path):
    save_params(tmp_path, {"w": jnp.ones((2, 3), jnp.bfloat16)})
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "params" / "0")
    assert list(restored) == ["0"]
    assert restored["0"].dtype == jnp.bfloat16


def test_no_warning_and_no_thread_is_left(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    save_params(tmp_path, make_params())
    load_params(tmp_path)
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert not caplog.records


def change_manifest(run: Path, *keys_and_value) -> None:
    """Change a value of the manifest, and seal it again."""
    file = run / "params_manifest.json"
    manifest = read_sealed(file)
    *keys, last, value = keys_and_value
    part = manifest
    for key in keys:
        part = part[key]
    part[last] = value
    file.write_bytes(sealed(manifest))


def as_older_versions_wrote(run: Path) -> None:
    """Their manifest was not sealed, and had the crc32 of each file."""
    file = run / "params_manifest.json"
    manifest = read_sealed(file)
    saved = run / "params" / str(manifest["number"])
    manifest["files"] = {name: zlib.crc32((saved / name).read_bytes()) for name in hashes(saved)}
    file.write_text(json.dumps(manifest, indent=1))


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(content)


def test_a_flipped_bit_of_an_array_names_its_leaf(tmp_path):
    params = {"b": jnp.full(16, 2.0), "w": jnp.full(16, 3.0)}
    save_params(tmp_path, params)
    needle = np.asarray(params["w"]).tobytes()
    (file,) = [file for file in data_files(tmp_path) if needle in file.read_bytes()]
    flip(file, 77)
    with ocp.PyTreeCheckpointer() as checkpointer:  # Orbax alone does not see it
        restored = checkpointer.restore(tmp_path / "params" / "0")
    assert np.sum(restored["1"] != params["w"]) == 1
    with pytest.raises(ValueError, match=r"damaged: the file '1/0' of params\['w'\] is damaged"):
        load_params(tmp_path)
    change_manifest(tmp_path, "files", "1/0", digest_of(file.read_bytes()))
    with pytest.raises(ValueError, match=r"is damaged: params\['w'\] has crc32 \d+, but \d+ in"):
        load_params(tmp_path)


def test_any_flipped_bit_in_any_file_is_an_error(tmp_path):
    save_params(tmp_path, {"w": jnp.arange(30.0), "b": jnp.ones(3, jnp.bfloat16)})
    rng = random.Random(0)
    for file in data_files(tmp_path):
        good = file.read_bytes()
        for bit in rng.sample(range(8 * len(good)), min(40, 8 * len(good))):
            flip(file, bit)
            with pytest.raises(ValueError, match=r"params/0` is damaged: the file .* is damaged"):
                load_params(tmp_path)
            file.write_bytes(good)
    load_params(tmp_path)


def test_a_deleted_file_is_an_error(tmp_path):
    save_params(tmp_path, {"w": jnp.arange(30.0), "b": jnp.ones(3, jnp.bfloat16)})
    for file in data_files(tmp_path):
        good = file.read_bytes()
        file.unlink()
        with pytest.raises(ValueError, match=rf"params/0` is damaged: .*{file.name}'.* is missing"):
            load_params(tmp_path)
        file.write_bytes(good)
    load_params(tmp_path)


def test_a_flipped_bit_in_the_manifest_is_an_error(tmp_path):
    params = {"w": [jnp.arange(3.0)], "b": jnp.ones(2, jnp.bfloat16)}
    save_params(tmp_path, params)
    file = tmp_path / "params_manifest.json"
    good = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(good)), 300):
        flip(file, bit)
        with pytest.raises(ValueError, match=r"params_manifest.json` is damaged"):
            load_params(tmp_path)
        file.write_bytes(good)


def test_a_file_more_is_an_error(tmp_path):
    save_params(tmp_path, {"w": jnp.arange(30.0)})
    (tmp_path / "params" / "0" / "1").write_bytes(b"")
    with pytest.raises(ValueError, match="the file '1' is there, which was not written with it"):
        load_params(tmp_path)


def test_what_older_versions_wrote_is_read_and_checked(tmp_path):
    save_params(tmp_path, make_params())
    as_older_versions_wrote(tmp_path)
    assert_same(load_params(tmp_path), make_params())
    for file in data_files(tmp_path):
        good = file.read_bytes()
        flip(file, 8 * len(good) // 2)
        with pytest.raises(ValueError, match=r"params/0` is damaged: the file .* is damaged"):
            load_params(tmp_path)
        file.write_bytes(good)
    save_params(tmp_path, make_params(2.0))
    assert_same(load_params(tmp_path), make_params(2.0))


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("dtype", "float16", r"params\['w'\] has dtype float32, but float16 in its manifest"),
        ("dtype", "float33", r"params_manifest.json` is damaged: TypeError"),
        ("shape", [3, 2], r"params\['w'\] has shape \(2, 3\), but \(3, 2\) in its manifest"),
        ("crc32", 5, r"params\['w'\] has crc32 \d+, but 5 in its manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_the_arrays_is_an_error(tmp_path, what, value, message):
    save_params(tmp_path, {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    change_manifest(tmp_path, "leaves", "['w']", what, value)
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"leaves": {}}', '{"leaves": {"w": 1}}'])
def test_a_manifest_that_is_none_is_an_error(tmp_path, content):
    save_params(tmp_path, {"w": jnp.ones((2, 3))})
    (tmp_path / "params_manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"params_manifest.json` is damaged"):
        load_params(tmp_path)


def test_saving_again_replaces_what_was_saved(tmp_path):
    for scale in (1.0, 2.0, 3.0):
        save_params(tmp_path, make_params(scale))
        assert_same(load_params(tmp_path), make_params(scale))
    assert [path.name for path in (tmp_path / "params").iterdir()] == ["2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params", "params_manifest.json"]


@pytest.mark.parametrize(
    ("target", "name", "survivor"),
    [
        (ocp.PyTreeCheckpointHandler, "save", 1.0),  # while the arrays are written
        (os, "fsync", 1.0),  # while the manifest is written
        (os, "replace", 1.0),  # before it takes the place of the earlier one
        (shutil, "rmtree", 2.0),  # after
    ],
)
def test_an_interrupted_save_leaves_a_complete_one(tmp_path, monkeypatch, target, name, survivor):
    def interrupted(*args, **kwargs):
        raise OSError("power cut")

    save_params(tmp_path, make_params(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupted)
        with pytest.raises(OSError, match="power cut"):
            save_params(tmp_path, make_params(2.0))
    assert_same(load_params(tmp_path), make_params(survivor))
    save_params(tmp_path, make_params(3.0))
    assert_same(load_params(tmp_path), make_params(3.0))
    assert len(list((tmp_path / "params").iterdir())) == 1


def test_a_tree_that_does_not_fit_its_leaves_is_an_error(tmp_path):
    save_params(tmp_path, {"w": jnp.ones(2), "b": jnp.ones(2)})
    change_manifest(tmp_path, "tree", {"dict": {"b": "['w']", "w": "['b']"}})
    with pytest.raises(ValueError, match="its tree and its leaves do not agree"):
        load_params(tmp_path)
    change_manifest(tmp_path, "tree", {"dict": {"w": "['w']"}})
    with pytest.raises(ValueError, match="its tree and its leaves do not agree"):
        load_params(tmp_path)
    change_manifest(tmp_path, "tree", 3)
    with pytest.raises(ValueError, match="3 is no structure"):
        load_params(tmp_path)
