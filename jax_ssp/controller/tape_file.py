"""Tapes in files: written while a run goes, read again whole or up to where they break off.

In a file (`tape.jsonl.gz`) the first line is the header, each further line is one row
`[now, event, commands]`, and the last line, `{"end": ..., "params": ...}`, says that the tape is
complete, and what the run came to. A file that breaks off is readable up to there.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from jax_ssp import checks
from jax_ssp.controller.header import check_header
from jax_ssp.controller.tape import Tape
from jax_ssp.files import AppendedFile
from jax_ssp.records import PackedLines, parsed_json, short

FORMAT = 7  # since pushes say how long they travelled, and tokens; 6 since runs are resumed


class TapeWriter:
    """Writes a tape to a file while it grows, so that what is there survives a crash.

    The header is on the disk at once. A flush adds all rows that are missing, or none: where the
    disk is full, the file stays readable, and the next flush brings what this one could not.

    Attributes:
        whole: whether it was closed with all rows in the file.
    """

    def __init__(self, path: str | Path, tape: Tape) -> None:
        self.whole = False
        self._tape = tape
        self._file = AppendedFile(path)
        packer = zlib.compressobj(level=6, wbits=_GZIP)
        self._file.mark = (0, packer)  # rows that are in the file, and what packed them
        self._add([json.dumps({**tape.header, "format": FORMAT})], rows=0)

    @classmethod
    def going_on(cls, path: str | Path, past: Tape, tape: Tape) -> TapeWriter:
        """Go on with the tape in a file, in the same file.

        What breaks off at its end, or says that it is over, is left out. The file is replaced in
        one step, so it holds all of those rows at any moment.

        Args:
            path: of the file.
            past: what is in it, up to its last whole row.
            tape: begins with the same rows, or will when they have happened again; what comes
                behind them is added to the file.

        Raises:
            OSError: if it cannot be written; the file is as it was.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            writer = cls(temporary, past)
            writer.flush()
            writer.sync()
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        writer._file.path = path
        writer._tape = tape
        return writer

    @property
    def rows(self) -> int:
        """How many rows are in the file."""
        return self._file.mark[0]

    @property
    def gone(self) -> bool:
        """Whether the file was moved or deleted."""
        return self._file.gone

    def flush(self) -> None:
        """Bring the file up to the tape; what is written can be read even if nothing follows.

        Raises:
            OSError: if it cannot be written now.
        """
        lines = list(self._tape.lines(self.rows))
        if lines:
            self._add(lines, rows=len(lines))

    def sync(self) -> None:
        """Wait until all that was flushed is on the disk; any thread may call this.

        Raises:
            OSError: if it does not get there.
        """
        self._file.sync()

    def close(self) -> None:
        """Write the rest, and the end if the run came to it; nothing happens the second time.

        Raises:
            OSError: if not all could be written; what was before can be read.
        """
        if self._file.closed:
            return
        try:
            self.flush()
            end = {"end": len(self._tape), "params": self._tape.params}
            self._add([json.dumps(end)] if self._tape.complete else [], rows=0, last=True)
        finally:
            self._file.close()
        self.whole = True

    def _add(self, lines: Sequence[str], rows: int, last: bool = False) -> None:
        before, packer = self._file.mark
        packer = packer.copy()  # the one before goes on if this does not get into the file
        packed = packer.compress("".join(f"{line}\n" for line in lines).encode())
        packed += packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        self._file.append(packed, mark=(before + rows, packer))


_GZIP = 31  # zlib's for a gzip file


def write_tape(path: str | Path, tape: Tape) -> None:
    """Write a whole tape, in one step; a file that is there is replaced.

    Args:
        path: of the file, conventionally `tape.jsonl.gz`.
        tape: such as `result.tape`.

    Raises:
        FileNotFoundError: if its folder is not there.
        TypeError: if it is no tape.

    Example:
        >>> import tempfile, jax_ssp as ssp
        >>> clockwork = ssp.Virtual(num_workers=2, compute=False)
        >>> tape = ssp.train(runtime=clockwork, num_clocks=3).tape
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ssp.write_tape(folder + "/tape.jsonl.gz", tape)
        ...     again = ssp.read_tape(folder + "/tape.jsonl.gz")
        >>> again.complete, list(again) == list(tape)
        (True, True)
    """
    path = checks.path("write_tape(path=...)", path)
    checks.instance("write_tape(tape=...)", tape, Tape, "a tape such as `result.tape`")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"`write_tape(path=...)` must be in a folder that is there, got {path}."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        TapeWriter(temporary, tape).close()
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_tape(path: str | Path) -> Tape:
    """Read a tape; one that breaks off is read up to its last whole row, `complete` False.

    A file that breaks off within its last bytes has all rows, and is not complete either.

    A file may be damaged, or made to do harm: it costs no more memory than a tape of its size can.

    Args:
        path: of the file, such as `tape.jsonl.gz` in a run's folder.

    Returns:
        The tape, for `ssp.Replay` and `ssp.check_contract`; `write_tape` shows an example.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a tape, a damaged one, or of a format this version does not know.
    """
    path = checks.path("read_tape(path=...)", path)
    lines = PackedLines(path)
    try:
        header = parsed_json(next(lines, ""))
        tape_format = header.pop("format")
    except (TypeError, AttributeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a tape: it does not begin with a header.") from error
    except ValueError as error:
        named = str(path) in str(error)
        raise error if named else ValueError(f"{path} is not a tape: {error}.") from error
    if tape_format != FORMAT:
        older = tape_format in range(1, FORMAT)
        remedy = "record the run again with it" if older else "read it with the one that wrote it"
        raise ValueError(
            f"{path} is a tape of format {short(tape_format)}, and this version reads format "
            f"{FORMAT} alone; {remedy}."
        )
    try:
        check_header(header)
    except ValueError as error:
        raise ValueError(f"{path} is a damaged tape: {error}") from error
    tape = Tape(header)
    for number, line in enumerate(lines, start=2):
        try:
            tape.read_line(line)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path}, line {number} is not a row of a tape ({why}): {short(line)}."
            ) from error
    if not lines.whole:  # its end is there in part: nobody knows whether that is as it was
        tape.reopen()
    return tape
