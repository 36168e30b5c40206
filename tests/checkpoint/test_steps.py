"""A checkpoint comes back as it was saved, or is not used; and one before it is there still."""

import errno
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jax_ssp.checkpoint import arrays as arrays_on_disk
from jax_ssp.checkpoint import sealed, steps
from jax_ssp.checkpoint.steps import Steps

FACTS = {
    "version": 3,
    "cursors": [[0, 5], [1, 4]],
    "loss": float("inf"),
    "name": "a/b 'c' é",
    "n": None,
}
DTYPES = [
    *("bool", "int4", "uint4", "int8", "int64", "uint16", "uint32", "float16", "float32"),
    *("float64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e8m0fnu", "float4_e2m1fn"),
]


def some_arrays(scale=1):
    return {
        "w": jnp.full((3, 4), scale, jnp.float32),
        "large": np.arange(20_000, dtype=np.float32) * scale,
        "count": np.int32(scale),
        "empty": np.zeros((0, 3), np.float32),
    }


def make(path, keep=3, **options):
    return Steps(path / "checkpoints", keep, **options)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in found.items():
        other = np.asarray(expected[name])
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        assert array.tobytes() == other.tobytes(), name
        assert array.flags.writeable


def files_of(step):
    return sorted(path for path in step.path.rglob("*") if path.is_file())


def rows_of(made):
    return [step.rows for step in made.all()]


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(content)


# What is saved.


def test_facts_and_arrays_come_back(tmp_path):
    made = make(tmp_path, config="abc")
    made.save(7, FACTS, some_arrays(), metric=0.5)
    step = make(tmp_path).newest()
    assert (step.rows, step.metric, step.config) == (7, 0.5, "abc")
    facts, arrays = make(tmp_path).load(step)
    assert facts == FACTS
    assert_same(arrays, some_arrays())
    assert made.problems() == []
    assert [each.name for each in made.folder.iterdir()] == ["7"]


@pytest.mark.parametrize("size", [3, 40_000])  # packed, and in files of its own
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.every(5)
def test_every_dtype_comes_back(tmp_path, name, size):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    content = np.random.default_rng(0).integers(0, 2, (2, size))
    arrays = {"a": content.astype(dtype), "0d": np.ones((), dtype), "none": np.zeros((0,), dtype)}
    made = make(tmp_path)
    made.save(0, {}, arrays)
    assert_same(made.load(made.newest())[1], arrays)


def test_odd_names_layouts_and_keys_come_back(tmp_path):
    key = jax.random.key_data(jax.random.key(3))
    arrays = {
        **{name: np.ones(1) for name in ("", "a/b", "../up", "a.b['c']", "é\n\0", "x" * 500, "0")},
        "packed": np.arange(3),
        "key": key,
        "turned": np.arange(60_000.0).reshape(300, 200).T,
        "strided": np.arange(10)[::3],
    }
    made = make(tmp_path)
    made.save(1, {}, {**arrays, "big-endian": np.arange(3, dtype=">i4")})
    assert_same(made.load(made.newest())[1], {**arrays, "big-endian": np.arange(3, dtype=np.int32)})


def test_nothing_at_all_comes_back(tmp_path):
    made = make(tmp_path)
    made.save(0, {}, {})
    assert made.load(made.newest()) == ({}, {})


def test_thousands_of_small_arrays_are_a_few_files(tmp_path):
    arrays = {f"worker/{i}": np.full(i % 7, i, np.float32) for i in range(3000)}
    made = make(tmp_path)
    made.save(1, {}, arrays)
    assert len(files_of(made.newest())) < 10
    assert_same(made.load(made.newest())[1], arrays)


@pytest.mark.slow
def test_an_array_that_is_split_over_devices_is_written_in_pieces(tmp_path):
    code = """
        import sys, jax, numpy as np
        from pathlib import Path
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from jax_ssp.checkpoint.steps import Steps
        mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
        given = {
            "rows": jax.device_put(np.arange(80_000.0, dtype=np.float32).reshape(400, 200),
                                   NamedSharding(mesh, P("a"))),
            "both": jax.device_put(np.arange(80_000, dtype=np.int32).reshape(400, 200),
                                   NamedSharding(mesh, P("b", "a"))),
            "copied": jax.device_put(np.arange(80_000, dtype=np.int32),
                                     NamedSharding(mesh, P())),
            "small": jax.device_put(np.arange(4.0, dtype=np.float32), NamedSharding(mesh, P("a"))),
        }
        steps = Steps(Path(sys.argv[1]), 1)
        steps.save(1, {}, given)
        found = steps.load(steps.newest())[1]
        for name, array in given.items():
            assert found[name].tobytes() == np.asarray(array).tobytes(), name
        files = sorted(path.name for path in Path(sys.argv[1]).rglob("arrays/1/?.?"))
        assert files == ["0.0", "0.1", "1.0", "1.1"], files
    """
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    # Another process, with other devices, reads them too.
    loaded = Steps(tmp_path, 1)
    assert loaded.load(loaded.newest())[1]["both"].sum() == np.arange(80_000).sum()


@pytest.mark.parametrize(
    ("facts", "arrays", "message"),
    [
        ({1: 2}, {}, "`facts` must have strings as keys, got 1"),
        ({"a": [{"b": {3}}]}, {}, r"`facts\['a'\]\[0\]\['b'\]` must be a fact for JSON"),
        ({"a": np.float32(1)}, {}, r"`facts\['a'\]` must be a fact for JSON"),
        ({}, {"w": 1.0}, "must hold arrays of numbers, got float at 'w'"),
        ({}, {"w": np.array(["a"])}, "must hold arrays of numbers, got ndarray at 'w'"),
        ({}, {"w": np.array([{}])}, "must hold arrays of numbers, got ndarray at 'w'"),
        ({}, {"key": jax.random.key(0)}, "at 'key'; use jnp.asarray or jax.random.key_data"),
    ],
)
def test_what_would_not_come_back_is_refused(tmp_path, facts, arrays, message):
    made = make(tmp_path)
    with pytest.raises(TypeError, match=message):
        made.save(1, facts, arrays)
    assert made.newest() is None
    assert not made.folder.exists() or not list(made.folder.iterdir())


def test_what_is_saved_at_some_rows_already_stays(tmp_path):
    made = make(tmp_path)
    made.save(5, {"first": True}, some_arrays(1))
    made.save(5, {"first": False}, some_arrays(2))
    assert made.load(made.newest())[0] == {"first": True}
    flip(made.folder / "5" / "manifest.json", 999)
    made.save(5, {"first": False}, some_arrays(2))
    assert made.load(made.newest())[0] == {"first": False}
    assert (
        (made.folder / "5.damaged" / "why.txt").read_text().startswith("the file 'manifest.json'")
    )


# Which are kept.


def test_the_last_ones_are_kept(tmp_path):
    made = make(tmp_path, keep=2)
    for rows in (1, 20, 3, 100):
        made.save(rows, {}, some_arrays())
    assert rows_of(made) == [20, 100]
    assert rows_of(make(tmp_path)) == [20, 100]


@pytest.mark.parametrize(("mode", "kept"), [("max", [2, 4, 6, 7]), ("min", [1, 3, 6, 7])])
def test_the_best_ones_are_kept_too(tmp_path, mode, kept):
    metrics = [-1.0, 5.0, -1.0, 5.0, float("nan"), None, 0.0]
    for rows, metric in enumerate(metrics, 1):  # each by another process
        make(tmp_path, keep=2, keep_best=2, mode=mode).save(rows, {}, {}, metric)
    assert rows_of(make(tmp_path)) == kept


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_the_best(tmp_path, metric):
    made = make(tmp_path, keep=1, keep_best=1)
    for rows, value in enumerate((0.0, metric, metric), 1):
        made.save(rows, {}, {}, value)
    assert rows_of(make(tmp_path)) == [1, 3]
    assert made.problems() == []
    assert made.newest().metric is None


def test_of_equally_good_ones_the_first_is_the_best(tmp_path):
    made = make(tmp_path, keep=1, keep_best=1)
    for rows in (1, 2, 3):
        made.save(rows, {}, {}, 1.0)
    assert rows_of(made) == [1, 3]


def test_the_one_just_saved_is_kept_whatever_lies_beside_it(tmp_path):
    made = make(tmp_path, keep=1)
    made.save(100, {}, {})
    made.save(5, {}, {})
    assert made.newest(most=50).rows == 5


def test_older_ones_go_only_once_the_new_one_is_there(tmp_path, monkeypatch):
    made = make(tmp_path, keep=1)
    made.save(1, {}, some_arrays())
    monkeypatch.setattr(steps, "to_disk", failing)
    with pytest.raises(OSError, match="No space"):
        made.save(2, {}, some_arrays())
    assert rows_of(made) == [1]


def test_one_that_cannot_be_deleted_fails_no_save(tmp_path, monkeypatch, capsys):
    made = make(tmp_path, keep=1)
    made.save(1, {}, {})
    with monkeypatch.context() as patch:
        rename = Path.rename
        patch.setattr(
            Path, "rename", lambda path, to: failing() if path.name == "1" else rename(path, to)
        )
        made.save(2, {}, {})
    assert "checkpoints/1 cannot be deleted: " in capsys.readouterr().err
    assert rows_of(made) == [1, 2]
    made.save(3, {}, {})
    assert rows_of(made) == [3]


# What is damaged.


def flips(made, count):
    """How many of so many flipped bits, anywhere in a step, were noticed; it is whole again."""
    step = made.newest()
    rng = random.Random(0)
    files = files_of(step)
    each = {file: file.read_bytes() for file in files}
    noticed = 0
    for number in range(count):
        file = files[number % len(files)] if number % 2 else rng.choice(files)
        flip(file, rng.randrange(8 * len(each[file])))
        told = made.problems()
        with pytest.raises(ValueError, match=f"the file '{file.relative_to(step.path)}'"):
            made.load(step)
        noticed += told != []
        file.write_bytes(each[file])
    assert made.problems() == []
    return noticed


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed(tmp_path, count):
    made = make(tmp_path)
    made.save(3, FACTS, some_arrays())
    assert flips(made, count) == count


def test_a_damaged_step_is_set_aside_and_the_one_before_is_used(tmp_path, capsys):
    made = make(tmp_path)
    for rows in (1, 2, 3):
        made.save(rows, {"rows": rows}, some_arrays(rows))
    (file,) = (made.folder / "3" / "arrays").rglob("1/0")
    flip(file, 777)
    flip(made.folder / "2" / "manifest.json", 77)
    assert [each.partition("checkpoints/")[2] for each in made.problems()] == [
        "2 is damaged: the file 'manifest.json' is damaged: its content is not what its hash says",
        "3 is damaged: the file 'arrays/1/0' of 'large' is damaged: its content is not what "
        "was written",
    ]
    step = make(tmp_path).newest()
    assert step.rows == 1
    assert_same(made.load(step)[1], some_arrays(1))
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "checkpoints/3 is not used: the file 'arrays/1/0' of 'large' is damaged" in said
    assert "it is now 3.damaged" in said
    assert "arrays/1/0" in (made.folder / "3.damaged" / "why.txt").read_text()
    assert make(tmp_path).newest().rows == 1
    assert capsys.readouterr().err == ""
    assert made.problems() == []


def test_one_may_be_set_aside_by_others(tmp_path, capsys):
    made = make(tmp_path)
    for why in ("first", "second"):
        made.save(2, {}, {})
        made.quarantine(2, why)
    assert made.newest() is None
    assert (made.folder / "2.damaged" / "why.txt").read_text() == "first\n"
    assert (made.folder / "2.damaged-2" / "why.txt").read_text() == "second\n"


def test_a_step_beyond_the_tape_is_not_used(tmp_path, capsys):
    made = make(tmp_path)
    for rows in (1, 5):
        made.save(rows, {}, {})
    assert made.newest(most=5).rows == 5
    assert made.newest(most=4).rows == 1
    assert "the tape has only 4 rows" in capsys.readouterr().err


def test_what_cannot_be_renamed_is_not_used_all_the_same(tmp_path, monkeypatch, capsys):
    made = make(tmp_path)
    for rows in (1, 2):
        made.save(rows, {}, {})
    flip(made.folder / "2" / "manifest.json", 77)
    monkeypatch.setattr(Path, "rename", failing)
    assert made.newest().rows == made.newest().rows == 1
    assert capsys.readouterr().err.count("nor can it be renamed") == 1


def break_one(step, how):
    file = step.path / "arrays" / "1" / "0"
    match how:
        case "deleted":
            file.unlink()
        case "one more":
            (step.path / "arrays" / "2").mkdir()
            (step.path / "arrays" / "2" / "0").write_bytes(b"")
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case "longer":
            file.write_bytes(file.read_bytes() + b"0")
        case "a folder":
            file.unlink()
            file.mkdir()
        case "a link":
            other = step.path.parent / "other"
            file.rename(other)
            file.symlink_to(other)
        case "no manifest":
            (step.path / "manifest.json").unlink()
        case "an empty manifest":
            (step.path / "manifest.json").write_bytes(b"")
        case "a manifest that is none":
            (step.path / "manifest.json").write_bytes(sealed.sealed({"format": 1, "rows": 4}))
        case "another's manifest":
            other = Steps(step.path.parent / "others", 1)
            other.save(5, {}, {})
            (step.path / "manifest.json").write_bytes(
                (other.folder / "5" / "manifest.json").read_bytes()
            )
        case "all deleted":
            shutil.rmtree(step.path)
            step.path.mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("deleted", "the file 'arrays/1/0' of 'large' is missing"),
        ("one more", "the file 'arrays/2/0' of 'count' is there, which was not written with it"),
        ("cut", "the file 'arrays/1/0' of 'large' is damaged"),
        ("longer", "the file 'arrays/1/0' of 'large' is damaged"),
        ("a folder", "the file 'arrays/1/0' of 'large' is missing"),
        ("a link", "'arrays/1/0' of 'large' is not a file"),
        ("no manifest", "the file 'manifest.json' is missing"),
        ("an empty manifest", "the file 'manifest.json' is damaged"),
        ("a manifest that is none", "'manifest.json' lacks 'metric'"),
        ("another's manifest", "it is the one of 5 rows"),
        ("all deleted", "the file 'manifest.json' is missing"),
    ],
)
def test_whatever_is_wrong_with_a_step_is_named(tmp_path, how, message, capsys):
    made = make(tmp_path)
    made.save(4, {}, some_arrays())
    step = made.newest()
    break_one(step, how)
    (problem,) = made.problems()
    assert message in problem
    with pytest.raises(ValueError, match=r"checkpoints/4 is damaged") as error:
        made.load(step)
    assert message in str(error.value)
    assert made.newest() is None


def test_what_orbax_gives_back_wrong_is_named(tmp_path, monkeypatch):
    """The files are as they were written, and yet it is not what was saved."""
    made = make(tmp_path)
    made.save(4, {}, some_arrays())
    step = made.newest()
    restore = ocp.PyTreeCheckpointHandler.restore
    for change, message in [
        (lambda array: array.astype(np.float64), "'large' has dtype float64, but float32"),
        (lambda array: array.reshape(2, -1), r"'large' has shape \(2, 10000\), but \(20000,\)"),
        (lambda array: array + 1, r"'large' has crc32 \d+, but \d+"),
    ]:

        def changed(*args, change=change, **kwargs):
            found = restore(*args, **kwargs)
            return {**found, "1": change(found["1"])}

        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", changed)
        with pytest.raises(ValueError, match=message):
            made.load(step)


def test_a_step_of_another_format_is_left_alone(tmp_path):
    made = make(tmp_path)
    made.save(4, {}, {})
    file = made.folder / "4" / "manifest.json"
    content = sealed.read_sealed(file)
    file.write_bytes(sealed.sealed({**content, "format": 2}))
    for ask in (made.newest, lambda: made.save(4, {}, {})):
        with pytest.raises(ValueError, match="of format 2, and this version reads format 1"):
            ask()
    assert "of format 2" in made.problems()[0]
    assert file.exists()


# What is interrupted.


def failing(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ocp.PyTreeCheckpointHandler, "save"),
        (Path, "mkdir"),
        (Path, "write_bytes"),
        (Path, "rename"),
        (os, "fsync"),
        (sealed, "hashes"),
        (arrays_on_disk, "write_arrays"),
    ],
)
def test_a_save_that_fails_leaves_the_steps_before(tmp_path, monkeypatch, owner, name):
    made = make(tmp_path, keep=1)
    made.save(1, {}, some_arrays(1))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        if owner is sealed:
            patch.setattr("jax_ssp.checkpoint.step.hashes", failing)
        with pytest.raises(OSError, match="No space left"):
            made.save(2, {}, some_arrays(2))
    assert [each.name for each in made.folder.iterdir()] == ["1"]
    assert_same(made.load(made.newest())[1], some_arrays(1))
    made.save(2, {}, some_arrays(2))
    assert rows_of(made) == [2]


def test_all_of_a_step_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    made = make(tmp_path)
    synced = []

    def fsync(path):
        synced.append((path.relative_to(made.folder).parts[1:], (made.folder / "1").exists()))

    monkeypatch.setattr(sealed, "fsync", fsync)
    monkeypatch.setattr(steps, "fsync", fsync)
    made.save(1, {}, some_arrays())
    names = {path.relative_to(made.folder).parts[1:] for path in (made.folder / "1").rglob("*")}
    assert {path for path, named in synced if not named} == {(), *names}
    assert synced[-1] == ((), True)  # and then the list of the steps


def test_what_a_failed_save_still_wrote_afterwards_goes_with_the_next(tmp_path):
    made = make(tmp_path)
    made.save(1, {}, {})
    late = made.folder / ".2.77.tmp" / "arrays"
    late.mkdir(parents=True)
    made.save(3, {}, {})
    assert sorted(each.name for each in made.folder.iterdir()) == ["1", "3"]


def test_a_fault_half_way_leaves_the_steps_before(tmp_path):
    made = make(tmp_path)
    made.save(1, {}, some_arrays(1))
    seen = []

    def half_way():
        (temporary,) = made.folder.glob(".*")
        seen.extend(each.name for each in temporary.iterdir())
        failing()

    made.half_way = half_way
    with pytest.raises(OSError, match="No space left"):
        made.save(2, {}, some_arrays(2))
    assert seen == ["arrays"]  # and no manifest yet
    assert [each.name for each in made.folder.iterdir()] == ["1"]


def test_a_disk_that_is_really_full_leaves_the_steps_before(tmp_path, caplog, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        made = make(disk, keep=5)
        made.save(1, {}, some_arrays(1))
        big = {"big": np.zeros(2_000_000, np.float32)}
        for check in (arrays_on_disk._check_room, lambda *_: None):  # before, or half-way
            monkeypatch.setattr(arrays_on_disk, "_check_room", check)
            with pytest.raises(OSError, match="No space left") as error:
                made.save(2, {}, big)
            assert error.value.errno == errno.ENOSPC
        assert [each.name for each in made.folder.iterdir()] == ["1"]
        assert made.problems() == []
        assert_same(made.load(made.newest())[1], some_arrays(1))
        for rows in range(3, 9):  # what fits is saved still
            made.save(rows, {}, some_arrays(rows))
        assert made.newest().rows == 8
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert not caplog.records


def test_what_a_killed_process_has_left_is_removed_by_the_next(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from jax_ssp.checkpoint import steps
        made = steps.Steps(Path(sys.argv[1]), keep=1)
        made.save(1, {}, {})
        steps.to_disk = lambda folder: os._exit(9)
        made.save(2, {}, {})
    """
    folder = tmp_path / "checkpoints"
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    assert subprocess.run(command, check=False, timeout=300).returncode == 9
    assert len(list(folder.iterdir())) == 2
    made = make(tmp_path)
    assert made.problems() == []  # which only reads
    assert len(list(folder.iterdir())) == 2
    assert made.newest().rows == 1
    assert [each.name for each in folder.iterdir()] == ["1"]


def test_a_folder_is_checked_without_jax(tmp_path):
    make(tmp_path).save(1, {}, some_arrays())
    code = """
        import sys
        from pathlib import Path
        from jax_ssp.checkpoint.steps import Steps
        print(Steps(Path(sys.argv[1]), keep=1).problems())
        assert not {"jax", "numpy", "orbax"} & set(sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "checkpoints")]
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout == "[]\n"
