"""How the command line ends: the exit codes, and what a signal or an error comes to.

0 done, 1 a bug or a proof that failed, 2 usage or config, 3 diverged, 130 interrupted, 141 nobody
reads the output any more.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from jax_ssp.config_file import UsageError

DONE, BUG, USAGE, DIVERGED, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141
EXIT_CODES = {"diverged": DIVERGED, "interrupted": INTERRUPTED}


def ended(command: Callable[[], int], own_process: bool) -> NoReturn:
    """Run a command and end the process with its exit code, whatever happens in it."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    abrupt = False
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:  # as in `jax-ssp verify RUN | head`
        if not own_process:
            raise
        code, abrupt = UNREAD, True
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code, abrupt = INTERRUPTED, True
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USAGE
    except Exception:
        if not own_process:
            raise
        traceback.print_exc()
        code, abrupt = BUG, True
    if own_process and abrupt:
        # Threads may be compiling still; the interpreter's way out would crash in them, and the
        # exit code be lost. Whatever is to be written has been.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _as_interrupt(number: int, frame: Any) -> None:
    """What an interrupt does, even where those are ignored, as in the background of a script."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)
