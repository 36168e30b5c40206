"""What arrives by each wire format, in NumPy, and the bounds on its errors."""

import numpy as np


def wide(leaf):
    """In NumPy's float64, where sums and differences of what is sent are as good as exact."""
    return np.asarray(leaf).astype(np.float64)


def bfloat16_in_numpy(x):
    """Round to nearest even on the bits of a float32."""
    bits = x.view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def float16_in_numpy(x):
    """11 bits each, of the exponents from 28 below the largest up."""
    mantissas, exponents = np.frexp(wide(x))
    rounded = np.ldexp(np.rint(mantissas * 2048), exponents - 11)
    _, above = np.frexp(max(np.abs(wide(x)).max(initial=0), np.finfo(np.float32).tiny))
    least = 2.0 ** (max(above - 1, -126 + 15) - 28)
    top = 2.0**above
    rounded = np.where(np.abs(rounded) == top, np.sign(x) * top * (1 - 2.0**-11), rounded)
    return np.where(np.abs(rounded) < least, 0, rounded).astype(np.float32)


def int8_in_numpy(x, block):
    decoded = []
    for part in np.split(x.reshape(-1), range(block, x.size, block)):
        scale = np.abs(part).max(initial=0) / np.float32(127)
        scale = (scale.view(np.int32) & ~np.int32(127)).view(np.float32)
        scale = np.float32(0) if scale < np.finfo(np.float32).tiny else scale
        values = np.rint(part / scale if scale else part * 0)
        decoded.append(values.astype(np.int8).astype(np.float32) * scale)
    return np.concatenate(decoded).reshape(x.shape)


def block_error(x, block):
    """The bound of Int8 on each number: a 254th of the largest of its block."""
    flat = np.abs(x.reshape(-1))
    parts = [np.full_like(p, p.max(initial=0)) for p in np.split(flat, range(block, x.size, block))]
    return np.concatenate(parts).reshape(x.shape) / 254


def top_k_in_numpy(x, tenths):
    """Definition 2.2 of Stich et al.: the k numbers that come first when sorted by magnitude."""
    flat = x.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")[: count(x.size, tenths)]
    decoded = np.zeros_like(flat)
    decoded[order] = flat[order]
    return decoded.reshape(x.shape)


def count(size, tenths):
    """How many of so many numbers are that many tenths of them, rounded up."""
    return -(-size * tenths // 10)


def unsent(x, tenths):
    """The bound of TopK on each number: 0 if it is sent, itself if not; ties could be either."""
    magnitudes = np.abs(x)
    least = np.sort(magnitudes, axis=None)[::-1][count(x.size, tenths) - 1 :][:1]
    return np.where(magnitudes > least.sum() * (1 + 1e-6), 0, magnitudes)


def sign_in_numpy(x):
    """The compressor of Karimireddy et al.: sign(x) times the norm of order 1 over n."""
    scale = np.float32(np.linalg.norm(wide(x).reshape(-1), 1) / max(x.size, 1))
    return np.where(x < 0, -scale, scale)


def from_mean(x):
    """The bound of Sign on each number: how far its magnitude is from the mean one."""
    mean = np.abs(x).sum() / max(x.size, 1)
    return np.abs(np.abs(x) - mean) + 1e-6 * mean  # the mean travels as a float32
