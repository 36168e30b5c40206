"""Reading what may be damaged or made to do harm: one clear line, and no more memory than that."""

import gzip
import json
import math
import subprocess
import sys

import pytest

from jax_ssp import records
from jax_ssp.records import (
    NUMBER,
    TEXT,
    TEXTS,
    TRUTH,
    PackedLines,
    check_record,
    either,
    one_of,
    parsed_json,
    read_record,
    short,
    whole,
)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (whole(1), [1, 2**62], [0, -1, True, 1.0, 2**63, "1", None, [1]]),
        (NUMBER, [0, -1.5, 3], [math.nan, math.inf, 10**400, True, "1", None]),
        (TEXT, ["", "a"], [None, 1, ["a"]]),
        (TEXTS, [[], ["a"]], [None, "a", [1], ["a", None], {"a": 1}]),
        (TRUTH, [True, False], [0, 1, None, "true"]),
        (one_of("virtual", None), ["virtual", None], ["wall", 0, False, ["virtual"]]),
        (one_of(1), [1], [True, 1.0]),
        (either(whole(0), one_of(None)), [0, None], [-1, False, ""]),
    ],
)
def test_a_kind_is_that_and_nothing_like_it(kind, good, bad):
    assert [value for value in good if not kind.holds(value)] == []
    assert [value for value in bad if kind.holds(value)] == []


def test_a_record_names_the_key_that_is_wrong():
    kinds = {"rows": whole(0), "name": TEXT}
    check_record("it", {"rows": 3, "name": "a", "more": []}, kinds)
    with pytest.raises(ValueError, match=r"^it lacks 'name', which must be a text\.$"):
        check_record("it", {"rows": 3}, kinds)
    with pytest.raises(ValueError, match=r"^it says 'rows' is -3, which must be an integer of at"):
        check_record("it", {"rows": -3, "name": "a"}, kinds)
    check_record("it", {"rows": 3}, kinds, needed=False)


def test_what_is_shown_of_a_value_is_short_whatever_it_is():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "x" * 10**6, list(range(10**5)), 10**5000, {"a": {"b": {"c": {"d": 1}}}}):
        assert len(short(value)) < 200
        assert "\n" not in short(value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"\xff\xfe{}", "no UTF-8"),
        (b"[1, 2]", "must hold an object"),
        (b'"a"', "must hold an object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b" " * (records.LARGEST_FILE + 1), "more than 16 MiB"),
        (b"{}", "lacks 'a'"),
        (b'{"a": 1}', "says 'a' is 1"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_damaged_record_is_a_value_error_of_one_line_with_the_file(content, why, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=why) as raised:
        read_record(file, {"a": TEXT})
    assert str(file) in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_only_a_file_is_read(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_record(tmp_path, {})
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "nowhere", {})


def test_parsed_json_is_json():
    assert parsed_json('{"a": [1, null]}') == {"a": [1, None]}


# Lines of a gzip file.


def lines_of(path, content, **limits):
    path.write_bytes(gzip.compress(content, mtime=0))
    return list(PackedLines(path))


def test_whole_lines_are_given_and_what_follows_the_last_is_not(tmp_path):
    assert lines_of(tmp_path / "tape", b"a\n\nb\nc") == ["a\n", "\n", "b\n"]
    assert lines_of(tmp_path / "tape", b"") == []


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_file_that_breaks_off_gives_its_whole_lines(cut, tmp_path):
    path = tmp_path / "tape"
    content = b"".join(b"%d\n" % (number * number) for number in range(2000))
    with gzip.open(path, "wb") as file:
        for start in range(0, len(content), 500):
            file.write(content[start : start + 500])
            file.flush()
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[: len(whole_file) * cut // 12])
    given = list(PackedLines(path))
    expected = content.decode().splitlines(keepends=True)
    assert given == expected[: len(given)]
    assert len(given) > len(expected) * (cut - 1) // 12


def test_bytes_that_are_no_text_are_named(tmp_path):
    with pytest.raises(ValueError, match="tape, line 3 is no UTF-8, at byte 1"):
        lines_of(tmp_path / "tape", b"a\nb\nc\xff\n")


def test_a_line_and_a_file_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST_LINE", 1000)
    assert len(lines_of(tmp_path / "tape", b"x" * 998 + b"\n")) == 1
    with pytest.raises(ValueError, match="line 2 is longer than"):
        lines_of(tmp_path / "tape", b"\n" + b"x" * 1001 + b"\n")
    monkeypatch.setattr(records, "SMALL", 10_000)
    assert len(lines_of(tmp_path / "tape", b"x\n" * 5000)) == 5000
    with pytest.raises(ValueError, match="unpacks to more than 200 times its size"):
        lines_of(tmp_path / "tape", b"x\n" * 50_000)


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_what_unpacks_to_a_thousand_times_its_size_costs_little_memory(end, tmp_path):
    path = tmp_path / "tape.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(json.dumps({"format": 3}).encode() + b"\n")
        for _ in range(1500):
            file.write(b"0" * ((1 << 20) - len(end)) + end)
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); "
        "from jax_ssp.cli import main; main(['verify', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
