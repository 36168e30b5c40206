"""CIFAR-10: its pickles are read without unpickling, hostile ones refused; images and network."""

import gzip
import os
import pickle
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_ssp as ssp
from experiments.workloads import cifar10
from experiments.workloads.python_batch import read_batch
from tests.helpers.data_sets import batch, python2, python3, small_archive, written

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize("writer", [python2, python3])
def test_a_batch_is_read_as_it_was_written(writer):
    wanted, found = batch(3), read_batch(written(3, writer), "a batch")
    assert set(found) == {"batch_label", "labels", "data", "filenames"}
    assert found["labels"] == wanted[b"labels"]
    assert found["filenames"] == [name.decode() for name in wanted[b"filenames"]]
    assert found["data"].dtype == np.uint8
    np.testing.assert_array_equal(found["data"], wanted[b"data"])


def test_what_python_2_wrote_here_is_what_python_reads():
    """The writer of these tests writes pickles, so that the reader is tested on such."""
    found = pickle.loads(written(3), encoding="bytes")
    np.testing.assert_array_equal(found[b"data"], batch(3)[b"data"])
    assert found[b"labels"] == batch(3)[b"labels"]


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_splits_are_read_from_the_archive_or_its_folder(tmp_path, unpacked):
    small_archive(tmp_path)
    if unpacked:
        with tarfile.open(tmp_path / cifar10.ARCHIVE) as archive:
            archive.extractall(tmp_path, filter="data")
        (tmp_path / cifar10.ARCHIVE).unlink()
    (images, labels), (test_images, test_labels) = cifar10.load_cifar10(tmp_path)
    assert (images.shape, images.dtype) == ((60, 32, 32, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((60,), np.int32)
    assert (len(test_images), len(test_labels)) == (12, 12)
    first = batch(0)[b"data"][0]  # all of red, then green, then blue; row by row
    assert images[0, 2, 5].tolist() == [first[color * 1024 + 2 * 32 + 5] for color in range(3)]
    assert labels[12] == batch(1)[b"labels"][0]  # in the order of the batches
    assert test_labels.tolist() == batch(5)[b"labels"]


class Runs:
    """Does something when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def deep():
    """Tuples in each other, deeper than anything may be hashed, printed or compared."""
    return b"\x80\x02}(" + b")" + b"\x85" * 100_000 + b"K\x01u."


def doubled():
    """Lists that hold the one before twice: 2 ** 60 ends, in a few bytes."""
    lists = b"".join(
        b"]q" + bytes([n]) + b"(h" + bytes([n - 1]) + b"h" + bytes([n - 1]) + b"e"
        for n in range(1, 61)
    )
    return b"\x80\x02}(U\x06labels](]q\x00" + lists + b"eu."


HOSTILE = {
    "a function of os": (b"\x80\x02cposix\nsystem\n(U\x04truetR.", "GLOBAL for 'posix system'"),
    "another of numpy": (b"\x80\x02cnumpy\nload\n.", "GLOBAL for 'numpy load'"),
    "a builtin": (b"\x80\x02c__builtin__\neval\n.", "GLOBAL for '__builtin__ eval'"),
    "an instance": (b"\x80\x02(iposix\nsystem\n.", r"it has the opcode INST \(byte 3\)"),
    "an object": (b"\x80\x02(U\x01ao.", "the opcode OBJ"),
    "a new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "the opcode NEWOBJ"),
    "an extension": (b"\x80\x02\x82\x01.", "the opcode EXT1"),
    "something persistent": (b"\x80\x02U\x01aQ.", "the opcode BINPERSID"),
    "a stack's global": (b"\x80\x02U\x02osU\x06system\x93.", "the opcode STACK_GLOBAL"),
    "a long number": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "the opcode LONG4"),
    "a text as a program": (b"\x80\x02S'a'\n.", "the opcode STRING"),
    "another protocol": (b"\x80\x04}.", "the opcode PROTO before PROTO 2"),
    "protocol 0": (b"(dp0\n.", "the opcode MARK before PROTO 2"),
    "a protocol within": (b"\x80\x02\x80\x02}.", "the opcode PROTO"),
    "a list": (b"\x80\x02].", "it is no dict"),
    "a list in a list": (b"\x80\x02}U\x01a](]es.", "its 'a' is no text"),
    "a name alone": (b"\x80\x02}U\x01acnumpy\nndarray\ns.", "its 'a' is no text"),
    "an empty array": (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87Rs.", "its 'a' is no text"),
    "a call of a text": (b"\x80\x02U\x01a)R.", "REDUCE, calling str as no"),
    "another array": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", "calling numpy"),
    "another codec": (b"\x80\x02c_codecs\nencode\nU\x01aU\x04zlib\x86R.", "calling _codecs"),
    "objects in an array": (b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", "calling numpy"),
    "a state for a list": (b"\x80\x02])b.", "the opcode BUILD"),
    "no key": (b"\x80\x02}K\x01K\x02s.", "a key that is no text"),
    "too little": (b"\x80\x02}s.", "takes more than there is"),
    "past a mark": (b"\x80\x02}(s.", "takes more than there is"),
    "a mark too few": (b"\x80\x02}u.", "takes more than there is"),
    "half a pair": (b"\x80\x02}(U\x01au.", "breaks after SETITEMS"),
    "nothing kept": (b"\x80\x02h\x05.", "breaks after BINGET"),
    "more after its end": (b"\x80\x02}.}", "more follows its end"),
    "no end": (b"\x80\x02}", "it does not end"),
    "nothing": (b"", "it does not end"),
    "text": (b"Hello, world.", "opcode 'H' before PROTO 2"),
    "a negative length": (b"\x80\x02T\xff\xff\xff\xff.", r"it breaks after PROTO \(byte 0\)"),
    "more than there is": (b"\x80\x02T\xff\xff\xff\x0fab.", r"it breaks after PROTO \(byte 0\)"),
    "what is deep": (deep(), "a key that is no text"),
    "what is doubled": (doubled(), "its 'labels' is no text"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_batch_is_refused_by_name(name):
    content, said = HOSTILE[name]
    with pytest.raises(ValueError, match=r"no batch of CIFAR-10: .*(" + said + ")"):
        read_batch(content, "data_batch_1")


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_of_a_pickle_is_run(tmp_path, protocol):
    content = pickle.dumps({b"data": Runs(tmp_path / "made")}, protocol=protocol)
    with pytest.raises(ValueError, match="data_batch_1 is no batch of CIFAR-10"):
        read_batch(content, "data_batch_1")
    assert not (tmp_path / "made").exists()
    pickle.loads(content)
    assert (tmp_path / "made").exists()  # it would have been


def test_no_change_of_a_byte_does_more_than_be_refused():
    """Each byte that is no pixel, changed: either a batch is read, or `ValueError` says what is."""
    content = written(0, data=np.zeros((1, 8), np.uint8), labels=[3, 4], filenames=[b"a"])
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        for byte in rng.integers(0, 256, 4).astype(np.uint8):
            changed = content[:place] + byte.tobytes() + content[place + 1 :]
            try:
                assert set(map(type, read_batch(changed, "it"))) <= {str}
            except ValueError as error:
                assert "it is no batch of CIFAR-10" in str(error)  # noqa: PT017


BAD = {
    "sizes": ({"data": np.zeros((12, 3071), np.uint8)}, "no images of 3,072 bytes"),
    "no array": ({"data": [1, 2]}, "no images of 3,072 bytes"),
    "labels": ({"labels": [3, 10] * 6}, "no label from 0 to 9 for each of its 12 images"),
    "too few labels": ({"labels": [3]}, "no label from 0 to 9 for each of its 12 images"),
    "texts": ({"labels": [b"3"] * 12}, "no label from 0 to 9"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_batch_that_is_none_is_named(tmp_path, name):
    changed, said = BAD[name]
    small_archive(tmp_path, {"data_batch_4": written(4, **changed)})
    with pytest.raises(ValueError, match=f"data_batch_4 is no batch of CIFAR-10: .*{said}"):
        cifar10.load_cifar10(tmp_path)


def test_where_there_are_no_data_it_is_said_where_they_come_from(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"kriz/cifar\.html.*--workload\.folder DIR"):
        cifar10.load_cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"--workload\.folder DIR.*kriz/cifar\.html"):
        cifar10.Cifar10().build(1, 0)


def test_a_damaged_archive_is_named(tmp_path):
    archive = small_archive(tmp_path) / cifar10.ARCHIVE
    content = archive.read_bytes()
    flipped = content[:2000] + bytes(255 - each for each in content[2000:2100]) + content[2100:]
    for wrong in (content[:-2000], flipped, b"no archive", gzip.compress(b"no tar"), b""):
        archive.write_bytes(wrong)
        with pytest.raises(
            ValueError, match=r"tar\.gz is no archive of CIFAR-10.*\); fetch it again"
        ):
            cifar10.load_cifar10(tmp_path)
    with tarfile.open(archive, "w:gz") as files:
        link = tarfile.TarInfo(f"{cifar10.FOLDER}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        files.addfile(link)
    with pytest.raises(ValueError, match="has no data_batch_1, data_batch_2"):
        cifar10.load_cifar10(tmp_path)


def test_colours_are_normalized():
    means = np.round(np.array(cifar10.MEAN) * 255)[None, None, None]
    found = cifar10.normalized(np.broadcast_to(means, (1, 2, 2, 3)).astype(np.uint8))
    np.testing.assert_allclose(found, 0, atol=0.02)
    white = np.asarray(cifar10.normalized(np.full((1, 1, 1, 3), 255, np.uint8)))[0, 0, 0]
    wanted = (1 - np.array(cifar10.MEAN)) / np.array(cifar10.DEVIATION)
    np.testing.assert_allclose(white, wanted, rtol=1e-5)


def test_images_are_moved_and_mirrored_by_their_key():
    """Each is one of the 9 x 9 crops of itself with a border, mirrored or not."""
    images = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    augmented = jax.jit(cifar10.augmented)
    found = np.asarray(augmented(images, jax.random.key(0)))
    np.testing.assert_array_equal(found, augmented(images, jax.random.key(0)))
    assert not np.array_equal(found, augmented(images, jax.random.key(1)))
    seen = set()
    for image, one in zip(images, found, strict=True):
        border = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        crops = {
            (row, column, mirror): border[row : row + 8, column : column + 8][
                :, :: -1 if mirror else 1
            ]
            for row in range(9)
            for column in range(9)
            for mirror in (False, True)
        }
        seen |= {what for what, crop in crops.items() if np.array_equal(crop, one)}
    rows, columns, mirrors = (set(each) for each in zip(*seen, strict=True))
    assert len(seen) > 40
    assert rows == columns == set(range(9))
    assert mirrors == {False, True}


def test_the_network_is_that_of_the_paper():
    """ResNet-20 has 0.27 million parameters; statistics are averaged, not trained."""
    model = nnx.eval_shape(lambda: cifar10.ResNet(3, 16, nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    sizes = {".".join(map(str, path)): leaf.size for path, leaf in flat}
    convolutions = sum(len(path.split(".")) > 1 and "conv" in path for path in sizes)
    assert convolutions == 19
    assert sum(sizes.values()) == 272_282
    assert sum("shortcut" in path for path in sizes) == 2


@pytest.mark.slow
def test_evaluation_does_not_depend_on_how_much_is_computed_at_once():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 7).astype(np.int32)
    params = jnp.asarray(rng.normal(size=(3072, 10)), jnp.float32) / 50

    def model(params):
        return lambda images: images.reshape(len(images), -1) @ params

    one, other = (
        cifar10.evaluation(model, (images, labels), at_once)(params) for at_once in (2, 7)
    )
    losses, right = cifar10.judged(model(params)(cifar10.normalized(images)), labels)
    for found in (one, other):
        assert float(found["test_loss"]) == pytest.approx(float(losses.mean()), rel=1e-5)
        assert float(found["test_accuracy"]) == pytest.approx(float(right.mean()))


@pytest.mark.slow
@pytest.mark.parametrize("elastic", [False, True])
def test_the_network_trains_on_them(tmp_path, elastic):
    workload = cifar10.Cifar10(
        small_archive(tmp_path), blocks=1, width=2, batch_size=4, rounds=3, elastic=elastic
    )
    experiment = ssp.Experiment(workload=workload, runtime=ssp.Virtual(2), num_clocks=3)
    result, again = experiment.run(progress=False), experiment.run(progress=False)
    assert result.status == "done"
    assert np.isfinite(result.metrics["test_loss"])
    assert result.metrics == again.metrics
    ssp.check_contract(result.tape)
