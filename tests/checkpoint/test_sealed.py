"""A sealed file is read as it was written, to the last bit, or not at all."""

import json

import pytest

from jax_ssp.checkpoint.sealed import read_sealed, sealed, unsealed

CONTENT = {"a": [1, None, float("inf")], "é\n": {"b": "}"}}


def test_it_is_json_that_anybody_can_read():
    found = json.loads(sealed(CONTENT))
    assert found["content"] == CONTENT
    assert unsealed(sealed(CONTENT)) == CONTENT


def test_every_flipped_bit_is_noticed():
    file = sealed({"a": 1})
    for bit in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="not what its hash says"):
            unsealed(bytes(flipped))


def test_every_cut_and_every_addition_is_noticed():
    file = sealed({"a": 1})
    for end in range(len(file)):
        with pytest.raises(ValueError, match="not what its hash says"):
            unsealed(file[:end])
    for more in (file + b"\n", file + file, b" " + file):
        with pytest.raises(ValueError, match="not what its hash says"):
            unsealed(more)


def test_what_is_wrong_names_the_file(tmp_path):
    file = tmp_path / "a.json"
    for content, message in [
        (None, "'a.json' is missing"),
        (b"", "'a.json' is damaged"),
        (sealed([]), "'a.json' is damaged: it holds no object"),
    ]:
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_sealed(file)
