"""An actor, and how it is called: what is said to Ray while a run goes on is said here."""

from __future__ import annotations

from typing import Any

from jax_ssp.failures import AGAIN, note
from jax_ssp.runtimes.recovery import NotOfWorker

BESIDE = "beside"
"""The group of calls that an actor takes beside what it does."""

THERE, PID = "there", "pid"
"""The same of this call alone, which says that its process is there, whatever else it does."""

ANSWER_SECONDS = 5.0  # for a process that is there
HANG_SECONDS = 30.0  # for one that does something for long


class Actor:
    """An actor, and how it is called.

    Calls of one thread come one after the other, in their order.

    Args:
        handle: of Ray's.
        what: it is, for messages.

    Attributes:
        handle, what: as given.
        killed: whether its process was ended from here.
        key: the same for those that could stand in for each other.
        reserves: whether Ray has reserved anything for it.
    """

    def __init__(self, handle: Any, what: str) -> None:
        self.handle = handle
        self.what = what
        self.killed = False
        self.key: Any = None
        self.reserves = False

    def call(self, method: str, *arguments: Any, beside: bool = False, returns: int = 1) -> Any:
        """Have it do something; gives the reference to what comes of it, or a list of several.

        Args:
            method: its name.
            arguments: references among them are there when it begins.
            beside: whether it is done beside what the actor does.
            returns: how many values come of it.

        Raises:
            LostActor: if it was ended, or is not this run's any more.
        """
        if self.killed:
            raise LostActor(f"the process of {self.what} was ended.")
        options: dict[str, Any] = {"num_returns": returns}
        if beside:
            options["concurrency_group"] = THERE if method == PID else BESIDE
        return getattr(self.handle, method).options(**options).remote(*arguments)

    def several(self, method: str, returns: int, *arguments: Any) -> list[Any]:
        """Have it do something; gives references to what comes of it, however many they are."""
        made = self.call(method, *arguments, returns=returns)
        return [made] if returns == 1 else made

    def calls(self, method: str, *arguments: Any, **how: Any) -> list[Any]:
        """Have it do something; gives references to what comes of it in each of its processes."""
        return [self.call(method, *arguments, **how)]

    def tell(self, method: str, *arguments: Any) -> None:
        """Have it do something, of which nothing is to be heard."""
        self.call(method, *arguments)

    def get(
        self, method: str, *arguments: Any, beside: bool = False, seconds: float | None = None
    ) -> Any:
        """Have it do something, and wait for what comes of it, but not for longer than this."""
        return self.together(self.calls(method, *arguments, beside=beside), seconds)

    def together(self, references: list[Any], seconds: float | None = None) -> Any:
        """What comes of `calls`, waited for, but not for longer than this."""
        return got(references[0], self.what, seconds)

    def answers(self, seconds: float = ANSWER_SECONDS) -> bool:
        """Whether its process is there, and not stopped."""
        try:
            self.get(PID, beside=True, seconds=seconds)
        except LostActor:
            return False
        return True

    def get_or_kill(self, method: str, *arguments: Any, beside: bool = False) -> Any:
        """The same as `get`; but a process that is stopped is ended, and not waited for.

        Raises:
            LostActor: if it was.
        """
        references = self.calls(method, *arguments, beside=beside)
        while not all(is_there(each, HANG_SECONDS) for each in references):
            if not self.answers(HANG_SECONDS):
                self.kill()
                raise LostActor(f"the process of {self.what} does not answer, and was ended.")
        return self.together(references)

    def results(self, method: str, returns: int, *arguments: Any) -> tuple[Any, list[Any]]:
        """Of several values the first, waited for, and references to the others."""
        first, *others = self.several(method, returns, *arguments)
        return got(first, self.what), others

    def kill(self) -> None:
        """End its process, whatever it does; nothing happens the second time."""
        import ray

        if not self.killed and ray.is_initialized():
            ray.kill(self.handle, no_restart=True)
        self.killed = True


def is_there(reference: Any, seconds: float = 0.0) -> bool:
    """Whether what a reference is to is known in time, or what went wrong."""
    import ray

    return bool(ray.wait([reference], timeout=seconds, fetch_local=False)[0])


def got(reference: Any, what: str, seconds: float | None = None) -> Any:
    """What a reference is to, waited for; errors are raised as they were there.

    Args:
        reference: to be waited for.
        what: it comes from, for messages.
        seconds: to wait at most; None for as long as it takes.

    Raises:
        Exception: what was raised in the actor; or a `LostActor`, if its process is no more, or
            does not answer in time.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise LostActor(f"the process of {what} does not answer.") from error
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, BaseException):
            raise
        note(cause, f"in the process of {what}")
        raise cause from None
    except RayActorError as error:
        raise LostActor(f"the process of {what} is no more: {first_line(error)}") from error


class LostActor(RuntimeError):
    """The process of an actor has ended, or cannot be reached any more."""


class LostShare(NotOfWorker):
    """A share of the server is no more, and with it what it held since the last checkpoint.

    Attributes:
        exit_code: of a process that ends with it: run it again, and it goes on from there.
    """

    exit_code = AGAIN


def lost_share(seen: str) -> LostShare:
    """The error that says what was seen of that, and what to do."""
    return LostShare(
        f"{seen.rstrip('.')}. What a share of the server held is in the run's checkpoints alone: "
        "go on from the newest, with `resume` or by the same command."
    )


def first_line(error: BaseException) -> str:
    """Of what an error says."""
    return str(error).strip().partition("\n")[0]
