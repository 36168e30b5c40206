"""The tape: what is written is read back, whatever happens to the file."""

import gzip
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jax_ssp.controller import (
    Cancel,
    DeltaReady,
    Drop,
    Fence,
    Merge,
    Merged,
    SetTimer,
    StartAhead,
    StartClock,
    StopRequested,
    StopWorker,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import FORMAT, TapeWriter, read_tape, write_tape
from jax_ssp.runtimes.schedule import schedule

COUNT = st.integers(0, 2**40)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
TOKEN = st.builds(Token, COUNT, COUNT)
SPAN = st.floats(min_value=0, allow_infinity=False)
TIMES = st.just(()) | st.tuples(SPAN, SPAN, SPAN)
# Steps, samples, finite, norm, exchange, tokens.
REPORT = (COUNT, COUNT, st.booleans(), st.floats(), TIMES, COUNT)
EVENTS = st.one_of(
    st.builds(WorkerJoined, COUNT, st.none() | COUNT),
    st.builds(DeltaReady, COUNT, COUNT, COUNT, TOKEN, *REPORT),
    st.builds(WorkerLost, COUNT, st.text(), st.booleans()),
    st.builds(WorkerDone, COUNT, COUNT, TOKEN),
    st.builds(TimerFired, SECONDS),
    st.builds(StopRequested, st.text()),
)
MERGED = st.builds(Merged, COUNT, COUNT, COUNT, COUNT, COUNT, SECONDS, TOKEN)
COMMANDS = st.one_of(
    st.builds(
        StartClock,
        *(COUNT, COUNT, COUNT, COUNT, st.lists(COUNT).map(tuple), COUNT, SECONDS, TOKEN, COUNT),
    ),
    st.builds(Merge, COUNT, st.lists(MERGED, max_size=3).map(tuple), COUNT, COUNT),
    st.builds(Drop, COUNT, COUNT, st.text(), TOKEN),
    st.builds(Cancel, COUNT, COUNT, st.text(), TOKEN),
    st.builds(Fence, COUNT, COUNT, TOKEN),
    st.builds(SetTimer, st.none() | SECONDS),
    st.builds(StopWorker, COUNT),
    st.builds(StartAhead, COUNT, COUNT, COUNT),
)
ROWS = st.lists(st.tuples(SECONDS, EVENTS, st.lists(COMMANDS, max_size=3)), max_size=6)
FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tape_of(rows, header=None, complete=False):
    tape = Tape({"bound": 3} if header is None else header)
    for row in rows:
        tape.append(*row)
    tape.complete = complete
    return tape


def exact(tape):
    """The rows with the types of all messages, which are equal to plain tuples otherwise.

    Events as text, since a norm that is not a number is not equal to itself.
    """
    return [
        (now, type(event), repr(event), [(type(command), command) for command in commands])
        for now, event, commands in tape
    ]


@FILES
@given(ROWS, st.booleans())
def test_a_file_gives_back_the_tape(tmp_path, rows, complete):
    tape = tape_of(rows, {"bound": None, "experiment": {"seed": 7, "rate": 0.1}}, complete)
    write_tape(tmp_path / "tape.jsonl.gz", tape)
    again = read_tape(tmp_path / "tape.jsonl.gz")
    assert exact(again) == exact(tape) == exact(tape_of(rows))
    assert [repr(tuple(row)) for row in again] == list(map(repr, rows))
    assert again.header == tape.header
    assert again.complete == complete
    assert len(again) == len(rows)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128, 150])
def test_it_can_be_read_from_any_row_on_however_many_are_packed(count):
    events = [DeltaReady(n, 2 * n, 3, Token(0, n)) for n in range(count)]
    rows = [(float(n), event, [StopWorker(n)] * (n % 3)) for n, event in enumerate(events)]
    tape = tape_of(rows)
    assert len(tape) == count
    for first in range(count + 130):  # none, from behind its end
        assert list(tape.entries(first)) == rows[first:]
        assert len(list(tape.lines(first))) == max(count - first, 0)


def test_rows_that_come_while_it_is_read_are_not_among_those_read():
    rows = [(float(n), WorkerJoined(n), []) for n in range(100)]
    tape = tape_of(rows)
    for number, entry in enumerate(tape):
        assert entry == rows[number]
        tape.append(*rows[number])
    assert len(tape) == 200


def test_seconds_are_exact_to_the_last_bit(tmp_path):
    times = [0.1 + 0.2, math.pi, 5e-324, 1e300, 1 / 3, math.nextafter(1.0, 2.0)]
    write_tape(tmp_path / "tape", tape_of([(t, TimerFired(t), [SetTimer(t)]) for t in times]))
    assert [now.hex() for now, _, _ in read_tape(tmp_path / "tape")] == [t.hex() for t in times]


def test_the_header_is_what_json_makes_of_it():
    given_header = {"bound": 3, "sizes": (1, 2)}
    tape = Tape(given_header)
    given_header["bound"] = 4
    assert tape.header == {"bound": 3, "sizes": [1, 2]}


# A writer that was killed.


def growing(path, rows, flush_every):
    """A file written like a run writes it; gives the tape, and (bytes, rows) after each flush."""
    tape = tape_of([])
    writer = TapeWriter(path, tape)
    flushed = []
    for number, row in enumerate(rows):
        tape.append(*row)
        if number % flush_every == 0:
            writer.flush()
            flushed.append((path.stat().st_size, len(tape)))
    tape.complete = True
    writer.close()
    return tape, flushed


@FILES
@given(data=st.data(), flush_every=st.integers(1, 80))
def test_a_file_that_breaks_off_is_read_up_to_its_last_whole_row(tmp_path, data, flush_every):
    path = tmp_path / "tape"
    rows = [(n / 3, DeltaReady(n, n * 7, 1, Token(0, n)), []) for n in range(150)]
    tape, flushed = growing(path, rows, flush_every)
    whole = path.read_bytes()
    cut = data.draw(st.integers(flushed[0][0], len(whole) - 1))
    path.write_bytes(whole[:cut])
    again = read_tape(path)
    assert again.header == tape.header
    assert list(again) == list(tape)[: len(again)]
    assert len(again) >= max(rows for size, rows in flushed if size <= cut)
    assert not again.complete


@pytest.mark.parametrize("missing", range(1, 9))
def test_an_end_of_which_a_byte_is_missing_is_none(tmp_path, missing):
    path = tmp_path / "tape"
    tape, _ = growing(path, [(0.0, WorkerJoined(0), [])], flush_every=1)
    assert read_tape(path).complete
    path.write_bytes(path.read_bytes()[:-missing])
    again = read_tape(path)
    assert (list(again), again.complete, again.params) == (list(tape), False, None)


def test_a_last_line_without_its_end_is_left_out(tmp_path):
    text = f'{json.dumps({"format": FORMAT})}\n[0.0,["WorkerJoined",0],[]]\n[1.0,["Worke'
    (tmp_path / "tape").write_bytes(gzip.compress(text.encode()))
    again = read_tape(tmp_path / "tape")
    assert list(again) == [(0.0, WorkerJoined(0), [])]
    assert not again.complete


def test_what_is_flushed_can_be_read_while_the_writer_goes_on(tmp_path):
    tape = tape_of([(0.0, WorkerJoined(0), [])])
    writer = TapeWriter(tmp_path / "tape", tape)
    writer.flush()
    tape.append(1.0, WorkerLost(0), [])
    again = read_tape(tmp_path / "tape")
    assert (len(again), again.complete) == (1, False)
    writer.close()
    assert len(read_tape(tmp_path / "tape")) == 2


def test_a_run_that_did_not_end_leaves_an_incomplete_tape(tmp_path):
    write_tape(tmp_path / "tape", tape_of([(0.0, WorkerJoined(0), [])], complete=False))
    assert not read_tape(tmp_path / "tape").complete


# What is not a tape.


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"", mtime=0)[:5]], ids=repr)
def test_what_is_not_gzip_is_refused(tmp_path, content):
    (tmp_path / "tape").write_bytes(content)
    with pytest.raises(ValueError, match="tape is not a tape"):
        read_tape(tmp_path / "tape")


@pytest.mark.parametrize("header", [b"", b"hello", b"[1, 2]", b"5", b"{}", b'{"a": 1}', b"\xff"])
def test_what_does_not_begin_with_a_header_is_refused(tmp_path, header):
    (tmp_path / "tape").write_bytes(gzip.compress(header + b"\n", mtime=0))
    with pytest.raises(ValueError, match="tape is not a tape"):
        read_tape(tmp_path / "tape")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [*((old, "record the run again") for old in (1, 2, 3, 4, 5, 6)), (8, "the one that wrote")],
)
def test_another_format_is_refused_by_name(number, remedy, tmp_path):
    header = json.dumps({"format": number, "bound": 3})
    (tmp_path / "tape").write_bytes(gzip.compress(header.encode() + b"\n"))
    assert FORMAT == 7
    message = f"format {number}, and this version reads format {FORMAT} alone; .*{remedy}"
    with pytest.raises(ValueError, match=message):
        read_tape(tmp_path / "tape")


@pytest.mark.parametrize("row", ["nonsense", "5", "[1]", "[0.0, [], 7]"])
def test_a_row_that_is_none_is_named(tmp_path, row):
    lines = f'{json.dumps({"format": FORMAT})}\n[0.0,["WorkerJoined",0],[]]\n{row}\n'
    (tmp_path / "tape").write_bytes(gzip.compress(lines.encode()))
    with pytest.raises(ValueError, match="tape, line 3 is not a row of a tape"):
        read_tape(tmp_path / "tape")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tape(tmp_path / "nowhere")


# The schedule, on a run made by hand: worker 1 is slow, and its second delta is dropped.


def start(worker, clock, version, grant):
    return StartClock(worker, clock, 4, version, (), 2, 0.5, Token(0, grant))


def merge(version, *deltas):
    return Merge(version, tuple(Merged(*about, Token(0, grant)) for *about, grant in deltas), 2)


FIRST, SLOW, SECOND = start(0, 0, 0, 0), start(1, 0, 0, 1), start(0, 1, 1, 2)
LAST, LEAVES = start(1, 1, 2, 3), start(2, 1, 2, 4)

SPENT = {"exchange": (0.5, 0.25, 0.5)}
BY_HAND = [
    (0.0, WorkerJoined(0), [FIRST]),
    (0.5, WorkerJoined(1), [SLOW]),
    (1.0, FIRST.finished(samples=32, tokens=960), [merge(1, (0, 0, 0, 0, 1, 0.5, 0)), SECOND]),
    (2.0, FIRST.finished(samples=32), [Fence(0, 0, Token(0, 0))]),
    (2.5, SECOND.finished(steps=3, samples=20, **SPENT), []),
    (
        4.0,
        SLOW.finished(finite=False),
        [merge(2, (0, 1, 1, 0, 1, 0.25, 2), (1, 0, 0, 1, 0, 0.75, 1)), LAST],
    ),
    (5.0, WorkerJoined(2), [LEAVES]),
    (6.0, WorkerLost(2), []),
    (6.5, LEAVES.finished(), [Fence(2, 1, Token(0, 4))]),
    (7.0, LAST.finished(), [Drop(1, 1, "too late", Token(0, 3)), start(1, 2, 2, 5)]),
    (8.0, WorkerJoined(3), [Cancel(1, 2, "enough", Token(0, 5))]),
]


def test_the_schedule_has_a_row_a_settled_clock():
    table = schedule(tape_of(BY_HAND))
    columns = "worker, clock, steps, start, finish, base_version, merge_version, staleness, lag"
    more = "weight, samples, tokens, finite, computed, computing"
    assert ", ".join(table.dtype.names) == f"{columns}, {more}"
    assert table.tolist() == [
        (0, 0, 4, 0.0, 1.0, 0, 1, 0, 1, 0.5, 32, 960, True, 1.0, 1.0),
        (0, 1, 3, 1.0, 2.5, 1, 2, 0, 1, 0.25, 20, 0, True, 2.0, 1.25),
        (1, 0, 4, 0.5, 4.0, 0, 2, 1, 0, 0.75, 0, 0, False, 4.0, 3.5),
        (1, 1, 4, 4.0, 7.0, 2, -1, 0, 0, 0.0, 0, 0, True, 7.0, 3.0),
        (1, 2, 0, 7.0, 8.0, 2, -1, 0, 0, 0.0, 0, 0, True, 8.0, 1.0),
    ]


def test_the_schedule_of_an_empty_tape_is_an_empty_table():
    table = schedule(tape_of([]))
    assert table.shape == (0,)
    assert table["start"].dtype == np.float64


def test_a_file_that_lacks_a_row_is_refused(tmp_path):
    path = tmp_path / "tape"
    tape = Tape({"bound": 0})
    for worker in range(3):
        tape.append(float(worker), WorkerJoined(worker), [])
    tape.complete = True
    write_tape(path, tape)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:2] + lines[3:])))
    with pytest.raises(ValueError, match="has 2 rows, its end says 3"):
        read_tape(path)


@pytest.mark.parametrize("row", ['[0.0, ["Nope", 1], []]', '[0.0, ["WorkerJoined"], []]', '"abc"'])
def test_a_row_of_nothing_known_is_named(row, tmp_path):
    path = tmp_path / "tape"
    path.write_bytes(gzip.compress(f'{{"format": {FORMAT}, "bound": 0}}\n{row}\n'.encode()))
    with pytest.raises(ValueError, match="line 2 is not a row of a tape"):
        read_tape(path)


def test_what_a_full_disk_did_not_take_comes_with_the_next_flush(tmp_path, monkeypatch):
    tape = tape_of([(0.0, WorkerJoined(0), [])])
    writer = TapeWriter(tmp_path / "tape", tape)
    assert len(read_tape(tmp_path / "tape")) == 0  # its header is there at once
    writer.flush()
    tape.append(1.0, WorkerLost(0), [])
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError("No space left")))
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    assert (writer.rows, list(read_tape(tmp_path / "tape"))) == (1, list(tape)[:1])
    tape.append(2.0, WorkerJoined(0), [])
    tape.complete = True
    writer.close()
    writer.close()
    assert list(read_tape(tmp_path / "tape")) == list(tape)
    assert read_tape(tmp_path / "tape").complete


# Fields that are not what they must be.


def written_rows(path, *rows, header=None):
    lines = [json.dumps({**(header or {}), "format": FORMAT}), *rows]
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
    return path


JOIN = '["WorkerJoined",0]'
WRONG_VALUES = [[0], {"a": 1}, "1", None, True, -1, 2**63, 10**400, 0.5, math.nan, math.inf]


@pytest.mark.parametrize(
    "row",
    [
        f"[{10**400},{JOIN},[]]",
        f"[NaN,{JOIN},[]]",
        f"[Infinity,{JOIN},[]]",
        f"[null,{JOIN},[]]",
        f'["0.0",{JOIN},[]]',
        f"[true,{JOIN},[]]",
        f"[0.0,{JOIN}]",
        f"[0.0,{JOIN},[],[]]",
        f"[0.0,{JOIN},{{}}]",
        f'[0.0,{JOIN},"ab"]',
        f"[0.0,{JOIN},[{JOIN}]]",  # an event where a command belongs
        '[0.0,["StopWorker",0],[]]',  # and the reverse
        '[0.0,["Merged",0,0,0,0,0],[]]',
        '[0.0,["Token",0,0],[]]',
        '[0.0,[["WorkerJoined"],0],[]]',
        '[0.0,{"WorkerJoined":0},[]]',
        "[0.0,[],[]]",
        '[0.0,["WorkerJoined",0,0,0],[]]',
        '{"end":0}',
        '{"end":true,"params":null}',
        '{"end":0,"params":5}',
        '{"end":[0],"params":null}',
        "[" * 100_000,
    ],
    ids=lambda row: row[:40],
)
def test_a_row_of_another_form_is_one_line_that_names_it(row, tmp_path):
    path = written_rows(tmp_path / "tape", row)
    with pytest.raises(ValueError, match="tape, line 2 is not a row of a tape") as raised:
        read_tape(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def wrong_fields():
    """Every field of every message with every value that it cannot have."""
    whole = tape_of(BY_HAND)
    whole.append(8.0, TimerFired(8.0), [SetTimer(9.0), SetTimer(None), StopWorker(0)])
    whole.append(9.0, StopRequested("enough"), [StartAhead(0, 1, 1)])
    for line in whole.lines():
        now, event, commands = json.loads(line)
        messages = [event, *commands]
        for message in messages:
            for field in range(1, len(message)):
                kept = message[field]
                for value in WRONG_VALUES:
                    if fits(message[0], field, kept, value):
                        continue
                    message[field] = value
                    yield json.dumps([now, event, commands])
                message[field] = kept


def fits(name, field, kept, value):
    """Whether this may stand there instead: where there are floats, so may a finite number."""
    if (name, value) == ("SetTimer", None):
        return True
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(kept, float) or (kept is None and name == "SetTimer"):
        if name == "DeltaReady" and DeltaReady._fields[field - 1] == "norm":
            return number and (isinstance(value, float) or abs(value) < 2**63)
        least = 0 if name == "DeltaReady" else -(2**63)
        return (number and least <= value < 2**63) or value == kept
    if isinstance(kept, list) and value == [0]:
        return name == "StartClock" and not kept
    return type(value) is type(kept) and (isinstance(value, str | bool) or value == kept)


def test_no_field_of_any_message_takes_what_it_cannot_be():
    tape, seen = Tape({}), 0
    for line in wrong_fields():
        with pytest.raises((ValueError, TypeError)):
            tape.read_line(line)
        seen += 1
    assert len(tape) == 0
    assert seen > 500


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("bound", value) for value in ("2", -1, True, 1.0, [1], math.nan, -(10**30))),
        *(("max_staleness", value) for value in ("x", -1, math.inf)),
        *(("reads_own", value) for value in (None, 1, "yes")),
        *(("num_workers", value) for value in (0, None, "2", True, 2**70)),
        *(("batch", value) for value in (0, None)),
        *(("time", value) for value in ("", None, "cpu")),
        *(("devices", value) for value in (None, "cpu", [None], [["cpu"]], [["cpu", -1]], {})),
        *(("experiment", value) for value in (None, [], "SSP")),
        ("policy", None),
        ("experiment", {"num_clocks": 0}),
        ("experiment", {"overlap": -1}),
        ("experiment", {"local_steps": {"h": 1}}),
        ("experiment", {"policy": "SSP"}),
        ("experiment", {"weight": "most"}),
    ],
)
def test_a_header_that_cannot_be_is_refused_and_the_key_named(key, value, tmp_path):
    path = written_rows(tmp_path / "tape", header={key: value})
    named = next(iter(value)) if isinstance(value, dict) and value else key
    with pytest.raises(ValueError, match=f"tape is a damaged tape: .*'{named}'"):
        read_tape(path)


@pytest.mark.slow
def test_damage_anywhere_in_a_file_is_found_or_leaves_the_tape_as_it_was(tmp_path):
    path = tmp_path / "tape"
    tape = tape_of([row for row in BY_HAND for _ in range(30)], {"bound": None}, complete=True)
    write_tape(path, tape)
    whole, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        at = rng.randrange(len(whole))
        cut = rng.random() < 0.1
        flipped = b"" if cut else bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
        path.write_bytes(whole[:at] + flipped)
        try:
            again = read_tape(path)
        except ValueError:
            refused += 1
        else:
            assert not again.complete or (exact(again), again.header) == (exact(tape), tape.header)
    assert refused > 200


def test_a_tape_that_is_gone_on_with_is_on_the_disk_before_it_takes_the_place_of_the_one_before(
    tmp_path, monkeypatch
):
    path = tmp_path / "tape"
    tape = tape_of([(0.0, WorkerJoined(0), [])])
    write_tape(path, tape)
    synced, placed = {}, []
    fsync, replace = os.fsync, Path.replace

    def syncing(fd):
        fsync(fd)
        synced[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    def replacing(self, target):
        placed.append(synced.get(self.stat().st_ino) == self.stat().st_size)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    TapeWriter.going_on(path, read_tape(path), tape)
    assert placed == [True]
