"""Small data sets in the forms of the real ones: CIFAR-10's archive, Fashion-MNIST's files."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

from experiments.workloads import cifar10

NAMES = {
    "train-images-idx3-ubyte": (256, 28, 28),
    "train-labels-idx1-ubyte": (256,),
    "t10k-images-idx3-ubyte": (40, 28, 28),
    "t10k-labels-idx1-ubyte": (40,),
}


def small_idx_files(folder: Path) -> Path:
    """Four small files of Fashion-MNIST's form, two of them packed."""
    rng = np.random.default_rng(0)
    for number, (name, shape) in enumerate(NAMES.items()):
        array = rng.integers(0, 256 if len(shape) > 1 else 10, shape).astype(np.uint8)
        sizes = np.array(shape, ">u4").tobytes()
        content = bytes((0, 0, 8, len(shape))) + sizes + array.tobytes()
        if number % 2:
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def python2(batch):
    """A batch as Python 2 wrote it: strings of bytes, arrays by NumPy's old names, memos."""
    count = 0

    def put():
        nonlocal count
        count += 1
        return b"q" + bytes([count]) if count < 256 else b"r" + struct.pack("<I", count)

    def string(text):
        short = (
            b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))
        )
        return short + text + put()

    def number(value):
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return (
            b"M" + struct.pack("<H", value)
            if 0 <= value < 65536
            else b"J" + struct.pack("<i", value)
        )

    def array(value):
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
        made += number(0) + b"\x85" + put() + string(b"b") + b"\x87" + put() + b"R" + put()
        shape = b"".join(map(number, value.shape)) + {1: b"\x85", 2: b"\x86"}[value.ndim] + put()
        kind = b"cnumpy\ndtype\n" + put() + string(b"u1") + number(0) + number(1) + b"\x87" + put()
        kind += b"R" + put() + b"(" + number(3) + string(b"|") + b"NNN" + number(-1) * 2
        kind += number(0) + b"t" + put() + b"b"
        return made + b"(" + number(1) + shape + kind + b"\x89" + string(value.tobytes()) + b"tb"

    def value(each):
        if isinstance(each, np.ndarray):
            return array(each)
        if isinstance(each, list):
            return b"]" + put() + b"(" + b"".join(map(value, each)) + b"e"
        return string(each) if isinstance(each, bytes) else number(each)

    pairs = b"".join(string(key) + value(each) for key, each in batch.items())
    return b"\x80\x02}" + put() + b"(" + pairs + b"u."


def batch(seed, images=12):
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": f"training batch {seed} of 5".encode(),
        b"labels": rng.integers(0, 10, images).tolist(),
        b"data": rng.integers(0, 256, (images, 3072)).astype(np.uint8),
        b"filenames": [f"image_{number}.png".encode() for number in range(images)],
    }


def written(number, of=python2, **changed):
    return of({**batch(number), **{key.encode(): each for key, each in changed.items()}})


def python3(batch):
    return pickle.dumps(batch, protocol=2)


def small_archive(folder: Path, damage=None) -> Path:
    """The six files of the data set, small ones, in the archive; `damage` replaces some of them."""
    names = [*cifar10.TRAIN, *cifar10.TEST]
    files = {name: written(number) for number, name in enumerate(names)} | (damage or {})
    with tarfile.open(folder / cifar10.ARCHIVE, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder
