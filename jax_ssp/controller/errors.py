"""What can be wrong with what the controller is given."""

from __future__ import annotations


class ProtocolError(ValueError):
    """An event that cannot have happened; the controller is as it was before it."""


class PolicyError(RuntimeError):
    """A policy decided something illegal: settled a delta that is not there, or let nobody run."""


class TapeMismatch(ValueError):
    """The tape was recorded by another experiment, or by other code.

    Example:
        >>> import jax_ssp as ssp
        >>> clockwork = ssp.Virtual(num_workers=2, compute=False)
        >>> tape = ssp.train(runtime=clockwork, num_clocks=3).tape
        >>> try:
        ...     ssp.train(policy=ssp.BSP(), runtime=ssp.Replay(tape), num_clocks=3)
        ... except ssp.TapeMismatch as error:
        ...     print("policy" in str(error))
        True
    """


class ContractViolation(AssertionError):
    """A tape shows a read, a merge or a standstill that the contract forbids.

    Example:
        >>> import jax_ssp as ssp
        >>> clockwork = ssp.Virtual(2, ssp.delays.Straggler(factor=3.0), compute=False)
        >>> tape = ssp.train(policy=ssp.SSP(bound=3), runtime=clockwork, num_clocks=9).tape
        >>> tape.header.clear()
        >>> tape.header["bound"] = 1  # as if less had been promised
        >>> try:
        ...     ssp.check_contract(tape)
        ... except ssp.ContractViolation as error:
        ...     print(str(error).partition(":")[0])
        clause 1 broken at 2.0 s
    """
