"""What may go wrong in a run, and the single faults that follow from it once one run has been seen."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

import attrs

from flowkit.errors import WrongCall, shown
from flowkit.plan import Plan
from flowkit.testing.scenario import STORE, Fault
from flowkit.testing.world import Errors, World

__all__ = ["Faults", "faults"]

LATE = (10.0, 3600.0)
"""Virtual seconds of a delay, where nothing says how long one has to be: past what people wait for, and past what
tokens, leases and caches live for."""


@attrs.frozen
class Faults:
    """What may go wrong. Made by `faults`."""

    errors: Errors
    delays: Sequence[float]
    timeouts: bool
    store: bool

    def sites(self, plan: Plan, world: World) -> list[Fault]:
        """Each single thing that may go wrong in a run like this one."""
        return [*self._of_steps(plan, world), *(self._of_store(world) if self.store else ())]

    def _of_steps(self, plan: Plan, world: World) -> Iterator[Fault]:
        for spec in plan.steps:
            for call in range(1, world.calls[spec.name] + 1):
                for error in range(len(self.errors.get(spec.name, ()))):
                    yield Fault(spec.name, call, "raise", error)
                    yield Fault(spec.name, call, "lose", error)
                for seconds in self.delays:
                    yield Fault(spec.name, call, "delay", seconds=seconds)
                limit = spec.options.timeout or world.timeout
                if self.timeouts and limit is not None:
                    yield Fault(spec.name, call, "stall", seconds=limit + 1)

    def _of_store(self, world: World) -> Iterator[Fault]:
        for call in range(1, world.commits + 1):
            yield Fault(STORE, call, "full")
            yield Fault(STORE, call, "slow", seconds=LATE[0])


def faults(
    *,
    raises: "Mapping[str, type[Exception] | Exception | Sequence[type[Exception] | Exception]] | None" = None,
    delays: bool | float | Sequence[float] = False,
    timeouts: bool = False,
    store: bool = False,
) -> Faults:
    """What may go wrong in the runs that are explored.

    Args:
        raises: which errors a step may raise, by its name: a class, an instance, or several. It raises them instead of
            doing its work, or after having done it.
        delays: any call of a step may begin late: by 10 virtual seconds or an hour, or by as many as are given here.
        timeouts: a step with a timeout may do its work and then take too long; where the run has a timeout, any step.
        store: the run is kept in a store, and each of its writes may fail, or be slow.

    Raises:
        WrongCall: an argument is of the wrong type.
    """
    errors: dict[str, Sequence[type[Exception] | Exception]] = {}
    if not isinstance(raises, Mapping | None):
        raise WrongCall(
            "faults()", f"takes a dict as raises, but got {shown(raises)}", 'write {"charge": PaymentError}'
        )
    for step, given in (raises or {}).items():
        several: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
        if not several:
            raise WrongCall("faults()", f"got no errors for step {step!r}", "name some, or leave the step out")
        for one in several:
            if not (isinstance(one, Exception) or (isinstance(one, type) and issubclass(one, Exception))):
                problem = f"takes exceptions for step {step!r}, but got {shown(one)}"
                raise WrongCall("faults()", problem, "give a subclass of Exception, or an instance")
        errors[step] = several
    return Faults(errors, _delays(delays), timeouts, store)


def _delays(given: Any) -> Sequence[float]:
    if isinstance(given, bool):
        return LATE if given else ()
    several: list[Any] = list(given) if isinstance(given, Sequence) else [given]  # pyright: ignore[reportUnknownArgumentType]
    for one in several:
        if isinstance(one, bool) or not isinstance(one, int | float) or not 0 < one < inf:
            raise WrongCall("faults()", f"got delays={shown(given)}", "give True, virtual seconds, or several of them")
    return several
