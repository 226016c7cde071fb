"""When to try a failed step again.

A policy is any object with ``next(elapsed_time, attempts, error) -> float | None``: the seconds to wait before the next
attempt, or ``None`` to give up. ``attempts`` counts the retries already made (0 at the first failure),
``elapsed_time`` the seconds since the first failure on the run's own clock (0.0 at the first failure).

Three kinds of small parts compose into a policy, as in tenacity and stamina: *conditions* on the error (`retry_if`),
*stops* (`stop_after`, `stop_after_delay`), both joined by ``&`` and ``|``, and *waits* (`wait_fixed`,
`wait_exponential`, `wait_random`), added with ``+``::

    retry(retry_if(ConnectionError) | retry_if(lambda e: "busy" in str(e)),
          stop=stop_after(5) | stop_after_delay(60),
          wait=wait_exponential(first=0.5, maximum=30) + wait_random(0, 1))
"""

import random
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import attrs

__all__ = [
    "Condition",
    "ConstantDelayRetryPolicy",
    "ExponentialBackoffRetryPolicy",
    "RetryPolicy",
    "Stop",
    "Wait",
    "retry",
    "retry_always",
    "retry_if",
    "stop_after",
    "stop_after_delay",
    "stop_never",
    "wait_exponential",
    "wait_fixed",
    "wait_random",
]


@runtime_checkable
class RetryPolicy(Protocol):
    """Anything with this method; it need not derive from this class."""

    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        """Seconds to wait before the next attempt (0 or more), or ``None`` to give up."""
        ...


def _not_negative(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"{attribute.name} must be a number, 0 or more, but got {value!r}")


def _count(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} must be a whole number, 0 or more, but got {value!r}")


@attrs.frozen
class ConstantDelayRetryPolicy:
    """Retry at most ``maximum_attempts`` times (so the step runs at most once more than that), ``delay`` seconds apart.

    The defaults are those of the LlamaIndex policy of this name.

    Raises:
        ValueError: an argument is negative or no number.
    """

    maximum_attempts: int = attrs.field(default=3, validator=_count)
    delay: float = attrs.field(default=5, validator=_not_negative)

    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        return self.delay if attempts < self.maximum_attempts else None


@attrs.frozen
class ExponentialBackoffRetryPolicy:
    """Retry at most ``maximum_attempts`` times; the wait starts at ``initial_delay`` seconds and grows by
    ``multiplier``.

    It is capped at ``maximum_delay`` seconds. With ``jitter`` each wait is drawn evenly between 0 and that value ("full
    jitter": Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog 2015: the least total work under
    contention).

    Raises:
        ValueError: an argument is negative or no number.
    """

    maximum_attempts: int = attrs.field(default=5, validator=_count)
    initial_delay: float = attrs.field(default=1, validator=_not_negative)
    multiplier: float = attrs.field(default=2, validator=_not_negative)
    maximum_delay: float = attrs.field(default=60, validator=_not_negative)
    jitter: bool = True

    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        if attempts >= self.maximum_attempts:
            return None
        delay = _grown(self.initial_delay, self.multiplier, attempts, self.maximum_delay)
        return random.uniform(0, delay) if self.jitter else delay


def _grown(first: float, factor: float, attempts: int, maximum: float) -> float:
    try:
        return min(maximum, first * factor**attempts)
    except OverflowError:
        return maximum


# -------------------------------------------------------------------------------------------------------- parts


Question = Callable[[float, int, Exception], bool]
"""Of the arguments of `RetryPolicy.next`."""


class _Test:
    """A question about a failure; ``&`` and ``|`` join questions of the same kind."""

    __slots__ = ("_ask", "_text")

    def __init__(self, ask: Question, text: str) -> None:
        self._ask = ask
        self._text = text

    def __call__(self, elapsed_time: float, attempts: int, error: Exception) -> bool:
        return self._ask(elapsed_time, attempts, error)

    def __repr__(self) -> str:
        return self._text


def _both(first: _Test, second: _Test) -> Question:
    return lambda seconds, retries, error: first(seconds, retries, error) and second(seconds, retries, error)


def _either(first: _Test, second: _Test) -> Question:
    return lambda seconds, retries, error: first(seconds, retries, error) or second(seconds, retries, error)


class Condition(_Test):
    """Whether an error is worth another attempt."""

    __slots__ = ()

    def __and__(self, other: "Condition") -> "Condition":
        if not isinstance(other, Condition):
            return NotImplemented
        return Condition(_both(self, other), f"({self!r} & {other!r})")

    def __or__(self, other: "Condition") -> "Condition":
        if not isinstance(other, Condition):
            return NotImplemented
        return Condition(_either(self, other), f"({self!r} | {other!r})")


class Stop(_Test):
    """Whether it is time to give up."""

    __slots__ = ()

    def __and__(self, other: "Stop") -> "Stop":
        if not isinstance(other, Stop):
            return NotImplemented
        return Stop(_both(self, other), f"({self!r} & {other!r})")

    def __or__(self, other: "Stop") -> "Stop":
        if not isinstance(other, Stop):
            return NotImplemented
        return Stop(_either(self, other), f"({self!r} | {other!r})")


class Wait:
    """How many seconds to wait; ``+`` adds waits."""

    __slots__ = ("_seconds", "_text")

    def __init__(self, seconds: Callable[[int], float], text: str) -> None:
        self._seconds = seconds
        self._text = text

    def __call__(self, attempts: int) -> float:
        return self._seconds(attempts)

    def __add__(self, other: "Wait") -> "Wait":
        if not isinstance(other, Wait):
            return NotImplemented
        return Wait(lambda attempts: self(attempts) + other(attempts), f"{self!r} + {other!r}")

    def __repr__(self) -> str:
        return self._text


def retry_if(what: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]) -> Condition:
    """Retry errors of these types, or those for which the function answers true."""
    if isinstance(what, type | tuple):
        kinds = cast(tuple[type[Exception], ...], what if isinstance(what, tuple) else (what,))
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise TypeError(f"retry_if takes exception classes or a function of the error, but got {what!r}")
        return Condition(lambda _, __, error: isinstance(error, kinds), f"retry_if({_listed(kinds)})")
    if not callable(what):
        raise TypeError(f"retry_if takes exception classes or a function of the error, but got {what!r}")
    return Condition(lambda _, __, error: bool(what(error)), f"retry_if({getattr(what, '__qualname__', what)!s})")


def _listed(kinds: tuple[type, ...]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


retry_always = Condition(lambda _, __, ___: True, "retry_always")
"""Every `Exception` is worth another attempt."""


def stop_after(retries: int) -> Stop:
    """Give up when ``retries`` retries have been made (0: never retry)."""
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise ValueError(f"stop_after takes a whole number of retries, 0 or more, but got {retries!r}")
    return Stop(lambda _, attempts, __: attempts >= retries, f"stop_after({retries})")


def stop_after_delay(seconds: float) -> Stop:
    """Give up when ``seconds`` or more have passed since the first failure."""
    _check_seconds("stop_after_delay", seconds)
    return Stop(lambda elapsed_time, _, __: elapsed_time >= seconds, f"stop_after_delay({seconds:g})")


stop_never = Stop(lambda _, __, ___: False, "stop_never")
"""Go on for ever; the run's timeout is the only end."""


def wait_fixed(seconds: float) -> Wait:
    """Always ``seconds``."""
    _check_seconds("wait_fixed", seconds)
    return Wait(lambda _: seconds, f"wait_fixed({seconds:g})")


def wait_exponential(first: float = 1, multiplier: float = 2, maximum: float = 60) -> Wait:
    """``first`` seconds, then ``multiplier`` times as long each time, at most ``maximum``."""
    for value in (first, multiplier, maximum):
        _check_seconds("wait_exponential", value)
    return Wait(
        lambda attempts: _grown(first, multiplier, attempts, maximum),
        f"wait_exponential({first:g}, {multiplier:g}, {maximum:g})",
    )


def wait_random(low: float = 0, high: float = 1) -> Wait:
    """Evenly drawn between ``low`` and ``high`` seconds: jitter, to add to another wait."""
    _check_seconds("wait_random", low)
    _check_seconds("wait_random", high)
    if low > high:
        raise ValueError(f"wait_random takes low <= high, but got {low!r} and {high!r}")
    return Wait(lambda _: random.uniform(low, high), f"wait_random({low:g}, {high:g})")


def _check_seconds(name: str, value: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"{name} takes numbers, 0 or more, but got {value!r}")


@attrs.frozen
class retry:
    """A policy put together from a condition, a stop and a wait.

    The default stop, 3 retries, and wait, 1 second doubling to at most 60, keep a forgotten argument from hammering a
    service.
    """

    when: Condition = retry_always
    stop: Stop = attrs.field(factory=lambda: stop_after(3), kw_only=True)
    wait: Wait = attrs.field(factory=wait_exponential, kw_only=True)

    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        if self.stop(elapsed_time, attempts, error) or not self.when(elapsed_time, attempts, error):
            return None
        return self.wait(attempts)
