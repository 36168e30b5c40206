"""Text as bytes: which files are taken and held out, and that each byte is given once an epoch."""

import itertools
import json
import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from experiments.workloads import lm
from experiments.workloads.text import AFTER, held_out, load_text, pieces
from experiments.workloads.transformer import Shape

pytestmark = pytest.mark.usefixtures("standard_promotion")


def filled(folder, count=40):
    """Files with contents that differ, in two folders; `a` is one that no pattern wants."""
    for number in range(count):
        file = folder / ("one" if number % 3 else "two") / f"{number:02}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(f"<{number:02}>".encode() * (number + 1))
    (folder / "image.bin").write_bytes(b"\x00\xff" * 50)
    (folder / ".hidden.txt").write_bytes(b"hidden")
    return folder


def files_in(content):
    """The numbers of the files whose content is there, in the order in which they stand."""
    return [int(each[1:3]) for each in content.tobytes().split(AFTER) if each]


def test_every_file_is_on_one_side(tmp_path):
    text = load_text(filled(tmp_path), "*.txt")
    train, held = files_in(text.train), files_in(text.held_out)
    assert sorted(train + held) == list(range(40))
    assert held
    names = [f"{'one' if number % 3 else 'two'}/{number:02}.txt" for number in range(40)]
    assert {names[number] for number in held} == held_out(names)
    whole = [(tmp_path / names[number]).read_bytes() for number in train]
    assert text.train.tobytes() == AFTER.join(whole) + AFTER
    assert text.train.dtype == text.held_out.dtype == np.uint8


def test_a_file_that_is_added_moves_no_other():
    """It may be held out itself."""
    names = [f"{number}.py" for number in range(400)]
    before, after = held_out(names[:399]), held_out(names)
    assert 10 <= len(before) <= 32  # a twentieth
    assert after - before <= {names[399]}
    assert before <= after


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_a_few_files_one_is_held_out_and_not_all(count):
    for first in range(0, 300, count):
        held = held_out(f"{first + number}.py" for number in range(count))
        assert 1 <= len(held) < count


def test_a_content_stands_there_once(tmp_path):
    """Under two names it might be trained on and held out."""
    filled(tmp_path)
    alone = load_text(tmp_path, "*.txt")
    for number in range(40):
        (tmp_path / f"again{number}.txt").write_bytes(f"<{number:02}>".encode() * (number + 1))
    twice = load_text(tmp_path, "*.tx[t]")
    numbers = files_in(twice.train) + files_in(twice.held_out)
    assert sorted(numbers) == sorted(files_in(alone.train) + files_in(alone.held_out))


@pytest.mark.parametrize("damage", [None, "short", "gone", "text"])
def test_what_is_large_is_one_flat_file_that_is_mapped(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    wanted = load_text(filled(folder), "*.txt")
    found = load_text(folder, "*.txt", 100)
    (flat,) = (tmp_path / "cache" / "jax_ssp" / "text").glob("*.bin")
    if damage:
        about = flat.with_suffix(".json")
        {
            "short": lambda: flat.write_bytes(flat.read_bytes()[:-1]),
            "gone": flat.unlink,
            "text": lambda: about.write_text(json.dumps({"train": "?"})),
        }[damage]()
        found = load_text(folder, "*.txt", 101)  # past what is remembered
    assert isinstance(found.train, np.memmap)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(each.suffix for each in flat.parent.iterdir()) == [".bin", ".json"]


def test_a_file_that_has_changed_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    load_text(filled(folder), "*.txt", 100)
    (folder / "one" / "01.txt").write_bytes(b"<77>" * 2)
    os.utime(folder / "one" / "01.txt", (1, 1))
    text = load_text(folder, "*.txt", 101)
    assert 77 in files_in(text.train) + files_in(text.held_out)


def test_of_a_single_file_the_end_is_held_out(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
    (tmp_path / "book").write_bytes(content.tobytes())
    text = load_text(tmp_path / "book")
    assert isinstance(text.train, np.memmap)
    np.testing.assert_array_equal(text.train, content[:950])
    np.testing.assert_array_equal(text.held_out, content[950:])


def test_the_standard_library_is_there():
    text = load_text()
    assert len(text.train) > 4e6
    assert 0.01 < len(text.held_out) / len(text.train) < 0.2  # by file, and files differ in size
    source = Path(sysconfig.get_paths()["stdlib"], "argparse.py").read_bytes()
    assert (source in text.train.tobytes()) != (source in text.held_out.tobytes())
    assert load_text() is text  # it is read once


@pytest.mark.parametrize(
    ("files", "error", "said"),
    [
        (None, FileNotFoundError, r"there is no file or folder .*--workload\.text PATH"),
        ({"a.txt": b"alone"}, ValueError, "holds 1 files of that pattern"),
        ({}, ValueError, "holds 0 files"),
    ],
)
def test_what_cannot_be_learned_is_named(tmp_path, files, error, said):
    place = tmp_path / "place"
    if files is not None:
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
    with pytest.raises(error, match=said):
        load_text(place)


def test_too_short_a_file_is_named(tmp_path):
    (tmp_path / "word").write_bytes(b"word")
    with pytest.raises(ValueError, match="word holds 4 bytes, too few"):
        load_text(tmp_path / "word")
    (tmp_path / "word").write_bytes(b"words" * 40)
    with pytest.raises(ValueError, match=r"LM\(context=64\).* more than the bytes"):
        lm.LM(text=tmp_path / "word", context=64).build(1, 0)


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    """On a file of which 20 pieces of 8 bytes are trained on, no byte twice."""
    file = tmp_path_factory.mktemp("text") / "numbers"
    content = np.arange(169, dtype=np.uint8)
    file.write_bytes(content.tobytes())
    shape = Shape(layers=1, width=8, heads=2, groups=1, hidden=8)
    return lm.LM(shape, context=8, batch_size=5, text=file)


@pytest.mark.parametrize("elastic", [False, True])
def test_each_byte_is_given_once_an_epoch(workload, elastic):
    if elastic:
        data = ssp.data.Epochs(pieces(load_text(workload.text).train, 8), 5, seed=3)
        batches = [data.batch(epoch=2, index=index) for index in range(4)]
    else:
        data = ssp.data.Shards(pieces(load_text(workload.text).train, 8), 5, 2, seed=3)
        batches = [batch for worker in (0, 1) for batch in itertools.islice(data(worker), 2)]
    assert sorted(np.concatenate(batches).ravel().tolist()) == list(range(160))


@pytest.mark.slow
def test_batches_are_a_function_of_seed_worker_and_place(workload):
    def batches(seed, worker, state=None):
        own = workload.build(num_workers=2, seed=seed).data(worker)
        if state is not None:
            own.set_state(state)
        return own

    one, same = batches(1, 0), batches(1, 0)
    first = [next(one) for _ in range(5)]
    np.testing.assert_array_equal(first, [next(same) for _ in range(5)])
    assert not np.array_equal(first[0], next(batches(2, 0)))
    assert not np.array_equal(first[0], next(batches(1, 1)))
    begun = batches(1, 0)
    for _ in range(3):
        next(begun)
    np.testing.assert_array_equal(first[3:], [next(batches(1, 0, begun.get_state())), first[4]])
    assert first[0].shape == (5, 8)
    assert first[0].dtype == np.uint8
