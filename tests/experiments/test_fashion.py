"""Fashion-MNIST: its files are read as they are, or what is wrong with them is said."""

import gzip
import importlib
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from tests.helpers.data_sets import small_idx_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fashion(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("experiments.workloads.fashion")


@pytest.fixture
def folder(tmp_path):
    """A folder with four small files of that form, two of them packed."""
    return small_idx_files(tmp_path)


def test_images_and_labels_are_read_packed_or_not(fashion, folder):
    (images, labels), (test_images, test_labels) = fashion.load_fashion(folder)
    assert (images.shape, images.dtype) == ((256, 28, 28, 1), np.float32)
    assert (labels.shape, labels.dtype) == ((256,), np.int32)
    assert (len(test_images), len(test_labels)) == (40, 40)
    assert images.min() == 0
    assert images.max() == 1
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    np.testing.assert_array_equal((images * 255).round().astype(np.uint8).tobytes(), raw)


def test_where_there_are_no_data_it_is_said_where_they_come_from(fashion, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset-fashion-mnist.*--workload\.folder DIR"):
        fashion.load_fashion(tmp_path)


@pytest.mark.parametrize("damage", ["short", "long", "magic", "empty"])
def test_a_damaged_file_is_named(fashion, folder, damage):
    file = folder / "train-labels-idx1-ubyte"
    content = file.read_bytes()
    damaged = {"short": content[:-1], "long": content + b"0", "magic": b"1234" + content[4:]}
    file.write_bytes(damaged.get(damage, b""))
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte is no idx file"):
        fashion.load_fashion(folder)


def test_a_damaged_packed_file_is_named(fashion, folder):
    file = folder / "train-images-idx3-ubyte.gz"
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes(255 - each for each in content[middle:-8]) + content[-8:]
    for wrong in (content[:middle], flipped, content[:-8] + bytes(8), b"no gzip"):
        file.write_bytes(wrong)
        with pytest.raises(
            ValueError, match=r"images-idx3-ubyte\.gz is damaged \(.*fetch it again"
        ):
            fashion.load_fashion(folder)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_network_trains_on_them(fashion, folder, dtype, standard_promotion):
    workload = fashion.Fashion(width=2, dtype=dtype, folder=folder)
    result = ssp.Experiment(
        workload=workload, runtime=ssp.Virtual(num_workers=2), num_clocks=3
    ).run()
    assert result.status == "done"
    assert {str(leaf.dtype) for leaf in result.params.values()} <= {dtype, "float32"}
    assert np.isfinite(result.metrics["test_loss"])


@pytest.mark.slow
def test_the_plain_loop_is_bsp_of_one_worker(fashion, folder, standard_promotion):
    workload = fashion.Fashion(width=2, folder=folder)
    plain = fashion.plain_loop(workload, batch_size=16, samples=64, seed=0)
    result = ssp.Experiment(
        workload=workload, policy=ssp.BSP(), runtime=ssp.Virtual(num_workers=1), num_clocks=4
    ).run()
    assert plain == pytest.approx(result.metrics, rel=1e-3)
