"""What can be wrong with what the controller is given."""

from __future__ import annotations


class ProtocolError(ValueError):
    """An event that cannot have happened; the controller is as it was before it."""


class PolicyError(RuntimeError):
    """A policy decided something illegal: settled a delta that is not there, or let nobody run."""


class TapeMismatch(ValueError):
    """The tape was recorded by another experiment, or by other code."""


class ContractViolation(AssertionError):
    """A tape shows a read, a merge or a standstill that the contract forbids."""
