"""Tapes of runs that went on, beside those of runs that were never broken off."""

from jax_ssp.controller.events import Resumed, Token


def without_terms(tape):
    """The rows of a tape but for what says that the run was taken up again."""
    return [
        (now, _plain(event), [_plain(command) for command in commands])
        for now, event, commands in tape
        if type(event) is not Resumed
    ]


def _plain(message):
    """A message with every token as if it were of the first term."""
    if isinstance(message, Token):
        return Token(0, message.grant)
    if type(message) is tuple:
        return tuple(map(_plain, message))
    if hasattr(message, "_fields"):
        return type(message)(*map(_plain, message))
    return message
