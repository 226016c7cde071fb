"""What a test leaves behind: tasks, asynchronous generators, threads, and what it forgot to close.

How it works
------------
**Tasks and asynchronous generators** belong to an event loop. `leaving_nothing` runs one coroutine function in it and
looks at what has been there only since. It works on asyncio and on trio, under virtual time or real time.

**Threads and what was not closed** belong to the process. `nothing_outlasting` looks at them around a whole test, with
its fixtures: pytest's fixture `flowkit_leaks` is this. What isn't closed (a file, a connection, a stream, a handler)
says so by a `ResourceWarning` when it is dropped. Things in a reference cycle are only dropped when the garbage
collector runs, which would be in the middle of a later test: so it is run before the test ends. That walks through
what the test has made and nothing else, as all older objects are hidden from the collector meanwhile (``gc.freeze``):
a millisecond, where walking through all takes a hundred.
"""

import asyncio
import gc
import os
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ParamSpec, TextIO, TypeVar
from weakref import WeakSet

import anyio.lowlevel

__all__ = [
    "LASTING_TASKS",
    "LeftBehind",
    "leaving_nothing",
    "live_tasks",
    "nothing_outlasting",
    "place_of",
    "threads_left_behind",
]

T = TypeVar("T")
P = ParamSpec("P")

LASTING_TASKS = frozenset({"flowkit.supervisor"})
"""Names of tasks that last as long as their loop: they are not left behind, but what they start would be. On trio
flowkit keeps one system task per loop (backend.py), which trio ends after the main task."""
THREAD_PATIENCE = 2.0
"""Seconds of real time that a thread which is about to end gets to do so."""
_SETTLING_ROUNDS = 20
"""Rounds of the loop that a test's last tasks get to end in: several times what nested scopes need."""


class LeftBehind(AssertionError):
    """The test ended and something it started, or opened, did not."""


# In a loop


async def leaving_nothing(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, and see that no task and no asynchronous generator that it started is there afterwards.

    Its own error comes first: then nothing is looked for. Cancellation passes through.

    Raises:
        LeftBehind: it returned; a task that it started hasn't ended, or an asynchronous generator was neither used up
            nor closed.
    """
    __tracebackhide__ = True  # from pytest: what matters is where the test failed
    before = set(live_tasks())
    with _async_generators() as generators:
        result = await function(*args, **kwargs)
        for _ in range(_SETTLING_ROUNDS):
            if not _tasks_since(before):
                break
            await anyio.lowlevel.checkpoint()
        left = [f"task {name}: {place_of(coro)}" for name, coro in _tasks_since(before)]
        left += generators.left_behind()
    _see_that_there_is_no(left)
    return result


def live_tasks() -> dict[int, tuple[str, object]]:
    """Every task of the running loop that hasn't ended: its name and coroutine by its identity.

    Raises:
        RuntimeError: no loop runs in this thread.
    """
    # trio first: as a guest it runs inside an asyncio loop. Another thread may be just importing it.
    trio: Any = sys.modules.get("trio.lowlevel")
    if not getattr(trio, "in_trio_run", bool)():
        loop = asyncio.get_running_loop()
        return {id(task): (task.get_name(), task.get_coro()) for task in asyncio.all_tasks(loop)}
    found: dict[int, tuple[str, object]] = {}
    root = trio.current_root_task()
    unvisited = [root] if root is not None else []
    while unvisited:
        task = unvisited.pop()
        found[id(task)] = (task.name, task.coro)
        unvisited.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return found


def _tasks_since(before: set[int]) -> list[tuple[str, object]]:
    return [
        (name, coro) for key, (name, coro) in live_tasks().items() if key not in before and name not in LASTING_TASKS
    ]


class _AsyncGenerators:
    def __init__(self) -> None:
        self.started: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self.collected: list[str] = []

    def left_behind(self) -> list[str]:
        return [
            *(f"async generator {place_of(one)}" for one in self.started if _first(one, "ag_frame") is not None),
            *(f"async generator {name}, unfinished, to the garbage collector" for name in self.collected),
        ]


@contextmanager
def _async_generators() -> Generator[_AsyncGenerators, None, None]:
    """Notice every asynchronous generator that is started inside, on top of the event loop's own hooks."""
    seen = _AsyncGenerators()
    hooks = sys.get_asyncgen_hooks()

    def started(generator: AsyncGenerator[Any, Any]) -> None:
        seen.started.add(generator)
        if hooks.firstiter is not None:
            hooks.firstiter(generator)

    def collected(generator: AsyncGenerator[Any, Any]) -> None:
        seen.collected.append(place_of(generator))
        if hooks.finalizer is not None:
            hooks.finalizer(generator)

    sys.set_asyncgen_hooks(started, collected)
    try:
        yield seen
    finally:
        sys.set_asyncgen_hooks(*hooks)


_LIBRARIES = tuple(
    os.path.dirname(spec.origin) + os.sep
    for name in ("anyio", "asyncio", "trio")
    if (spec := find_spec(name)) is not None and spec.origin is not None
)


def place_of(coro: object) -> str:
    """Where a suspended coroutine waits: the innermost place outside the async libraries, else its start."""
    place = ""
    while coro is not None:
        frame = _first(coro, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None and not (place and frame.f_code.co_filename.startswith(_LIBRARIES)):
            place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        coro = _first(coro, "cr_await", "ag_await", "gi_yieldfrom")
    return place or "ended"


def _first(owner: object, *names: str) -> Any:
    """The first of these attributes that is set: coroutines and generators name the same differently."""
    return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)


# In the process


@contextmanager
def nothing_outlasting() -> Generator[None, None, None]:
    """See that no thread that is started inside outlasts the block, and that nothing opened there is left unclosed.

    A `ResourceWarning` that a warning filter of the program is about does what that filter says; all others count.

    Raises:
        LeftBehind: the block ended without an error, and left something behind.
    """
    before = set(threading.enumerate())
    gc.freeze()
    try:
        with _unclosed() as unclosed:
            yield
            gc.collect()
    finally:
        gc.unfreeze()
    _see_that_there_is_no([*(f"thread {name}" for name in threads_left_behind(before, THREAD_PATIENCE)), *unclosed])


def threads_left_behind(before: set[threading.Thread], patience: float = THREAD_PATIENCE) -> list[str]:
    """Names of the threads started since ``before`` that don't end within ``patience`` seconds of real time each.

    AnyIO's threads end with their loop; idle ones of trio stay in the process for the next loop.
    """
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("Trio thread ")]
    for thread in left:
        thread.join(patience)
    return sorted(thread.name for thread in left if thread.is_alive())


_DEFAULT_FILTER = ("ignore", None, ResourceWarning, None, 0)
"""How Python itself treats resource warnings, after all filters that a program sets."""


@contextmanager
def _unclosed() -> Generator[list[str], None, None]:
    """Collect the resource warnings that no filter of the program is about."""
    found: list[str] = []

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, ResourceWarning):
            found.append(str(message) if filename == __file__ else f"{message} (dropped at {filename}:{lineno})")
        else:
            show_others(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        show_others, warnings.showwarning = warnings.showwarning, show
        if warnings.filters[-1:] == [_DEFAULT_FILTER]:
            warnings.filters = warnings.filters[:-1]
        warnings.filterwarnings("always", category=ResourceWarning, append=True)
        yield found


def _see_that_there_is_no(left: list[str]) -> None:
    if left:
        raise LeftBehind("the test ended and left behind\n" + "\n".join(left))
