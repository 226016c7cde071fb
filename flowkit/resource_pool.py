"""Building, sharing and closing resources.

A `Pool` holds what one scope shares: one for a workflow instance, one for each run. What a factory makes is built at
its first use, once however many ask at the same time, and closed in reverse order, once, when the pool closes.

**Which task enters a context manager matters**: AnyIO (like trio) demands that a task group or cancel scope is left by
the task that entered it, innermost first. Workers come and go, so an async context manager that outlives one step is
entered and left by the pool's *host*: one task that serves requests in order, and unwinds when told to. A run's host is
a task around its task group, told to unwind when all workers have ended; a workflow's is a supervised task of the loop,
started when it is first needed. Everything else is built where it is asked for.

So whoever is cancelled while the host builds for it leaves that to the host, and the next to ask finds it built. One
who builds it itself leaves nothing: the next in line builds it. A pool that has been closed builds nothing more, also
for those who began to ask before.
"""

import contextlib
import functools
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, get_origin

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from flowkit import hints
from flowkit.errors import ResourceError, shown
from flowkit.resource import Factory, type_name

__all__ = ["Needs", "Pool", "resources_for"]


@attrs.define(eq=False)
class _Entry:
    """One resource: being built until ``ready`` is set."""

    factory: Factory
    ready: anyio.Event = attrs.field(factory=anyio.Event)
    value: Any = None
    error: BaseException | None = None
    abandoned: bool = False


@attrs.frozen
class Needs:
    """What factories may ask for: makers of the context and the start event of the run, the pools it can draw from."""

    ctx: Any
    start: Any
    pools: dict[str, "Pool"]


class _Stack(contextlib.AsyncExitStack):
    """What is to be closed; once it ``is_over`` nothing more."""

    is_over = False


Build = Callable[[contextlib.AsyncExitStack], Awaitable[Any]]


@attrs.define(eq=False)
class Pool:
    """The shared resources of one scope. ``start_host`` begins hosting (see `host`) in the background, where that's
    needed."""

    start_host: Callable[[], None] | None = None
    entries: dict[Callable[..., Any], _Entry] = attrs.field(factory=dict[Callable[..., Any], _Entry])
    stack: _Stack = attrs.field(factory=_Stack)
    _requests: MemoryObjectSendStream[tuple[_Entry, Build]] | None = None
    _inbox: MemoryObjectReceiveStream[tuple[_Entry, Build]] | None = None
    _shield: anyio.CancelScope | None = None
    _stopped: bool = False
    _users: dict[Any, Any] = attrs.field(factory=dict[Any, Any])
    _left: anyio.Event | None = None

    async def get(self, factory: Factory, needs: Needs) -> Any:
        """What the factory makes, built now if nobody has.

        Raises:
            ResourceError: the factory failed; the next to ask tries again.
        """
        key = factory.resource.factory
        while True:
            entry = self.entries.get(key)
            if entry is None:
                break
            if not entry.ready.is_set():  # it may have been built in another event loop
                await entry.ready.wait()
            if entry.error is not None:
                raise entry.error
            if not entry.abandoned:
                return entry.value
        entry = self.entries[key] = _Entry(factory)
        try:
            # What it needs is built first, and here: the host, busy with this one, could not build another for it.
            build = functools.partial(_make, factory, await _arguments(factory, needs, self.stack))
            if factory.manager == "async":
                self._ask_host(entry, build)
            else:
                entry.value = await build(self.stack)
        except Exception as error:  # noqa: BLE001 - raised below, and wherever else it is waited for
            self._failed(entry, error)
        except BaseException:
            # Whoever built it was cancelled: the next in line builds it.
            entry.abandoned = True
            self._forget(entry)
            entry.ready.set()
            raise
        if factory.manager == "async":
            await entry.ready.wait()
        else:
            entry.ready.set()
        if entry.error is not None:
            raise entry.error
        return entry.value

    def _failed(self, entry: _Entry, error: BaseException) -> None:
        """It could not be built; the next to ask tries again."""
        entry.error = _wrapped(entry.factory, error) if isinstance(error, Exception) else error
        if entry.error is not error:
            entry.error.__cause__ = error
        self._forget(entry)
        entry.ready.set()

    def _forget(self, entry: _Entry) -> None:
        key = entry.factory.resource.factory
        if self.entries.get(key) is entry:
            del self.entries[key]

    def _ask_host(self, entry: _Entry, build: Build) -> None:
        if self._stopped:
            raise _closed(entry.factory)
        if self._requests is None:
            self._open()
            if self.start_host is not None:
                self.start_host()
        assert self._requests is not None
        self._requests.send_nowait((entry, build))

    async def host(self, owner_cancelled: Callable[[], bool]) -> None:
        """Enter what is asked for, in this task, until `stop`; then leave it all, last built first.

        Shielded: cancelling the task from outside does nothing until `stop` is called. So the resources stay while
        those who use them clean up. asyncio's own ``Task.cancel()`` heeds no shield; it does nothing either where
        ``owner_cancelled`` says that it hit the task that will call `stop`, too.

        Raises:
            Exception: what a clean-up, or a background task of a resource, raised.
        """
        if self._stopped:
            return
        self._open()
        inbox = self._inbox
        assert inbox is not None
        try:
            with anyio.CancelScope(shield=True) as self._shield:
                async with self.stack:
                    while not self._stopped:
                        try:
                            await self._serve(inbox)
                        except anyio.get_cancelled_exc_class():
                            if anyio.get_current_task().has_pending_cancellation() or not owner_cancelled():
                                raise
        finally:
            self.forget()

    def stop(self, *, cancelled: bool = False) -> None:
        """Let `host` go on to its end. ``cancelled``: its task was cancelled, and clean-ups are to feel that."""
        self._stopped = self.stack.is_over = True
        if cancelled and self._shield is not None:
            self._shield.shield = False
        if self._requests is not None:
            self._requests.close()

    def _open(self) -> None:
        if self._requests is None:
            self._requests, self._inbox = anyio.create_memory_object_stream[tuple[_Entry, Build]](math.inf)

    async def _serve(self, inbox: MemoryObjectReceiveStream[tuple[_Entry, Build]]) -> None:
        async for entry, build in inbox:
            try:
                entry.value = await build(self.stack)
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - it is raised where it was asked for
                self._failed(entry, error)
            except BaseException as error:
                ended = f"the run ended while a resource was being built ({error!r})."
                self._failed(entry, ResourceError(ended, resource=entry.factory.resource.name))
                raise
            else:
                entry.ready.set()

    async def unwind(self) -> None:
        """Close everything where there was no host, last built first; all of it, whatever a clean-up raises."""
        stack = self.stack
        self._stopped = stack.is_over = True
        self.forget()
        await stack.aclose()

    def forget(self) -> None:
        """Nothing is built any more: whoever still waits hears of it."""
        self.entries.clear()
        self.stack = _Stack()
        self.stack.is_over = True
        inbox, requests = self._inbox, self._requests
        self._requests = self._inbox = self._shield = None
        if inbox is not None and requests is not None:
            for entry, _ in _waiting(inbox):
                ended = "the run ended before this resource was built."
                self._failed(entry, ResourceError(ended, resource=entry.factory.resource.name))
            requests.close()
            inbox.close()

    # A workflow's resources stay while those who use them clean up, also where the event loop ends.

    def enter(self, user: Any, loop: Any) -> None:
        """Somebody in this event loop uses the pool."""
        self._users[user] = loop

    def leave(self, user: Any) -> None:
        """… and uses it no more."""
        del self._users[user]
        if self._left is not None:
            self._left.set()

    async def unused(self, loop: Any) -> None:
        """Wait until nobody in this event loop uses the pool."""
        while loop in self._users.values():
            self._left = anyio.Event()
            await self._left.wait()


def _waiting(inbox: MemoryObjectReceiveStream[tuple[_Entry, Build]]) -> Iterator[tuple[_Entry, Build]]:
    while True:
        try:
            yield inbox.receive_nowait()
        except (anyio.WouldBlock, anyio.EndOfStream):
            return


# --------------------------------------------------------------------------------------------------- one step's call


@contextlib.asynccontextmanager
async def resources_for(
    wanted: dict[str, tuple[Any, Factory]], step: str, needs: Needs
) -> AsyncGenerator[dict[str, Any]]:
    """The values of a step's resource parameters; those of scope ``"step"`` are closed on leaving.

    Raises:
        ResourceError: a factory failed, or made a value of the wrong type.
    """
    async with contextlib.AsyncExitStack() as stack:
        values: dict[str, Any] = {}
        for name, (kind, factory) in wanted.items():
            value = await _value(factory, needs, stack)
            if not _is(value, kind):
                raise ResourceError(
                    f"step {step!r} wants {name!r} to be {type_name(kind)}, but {factory.resource.name} made "
                    f"{shown(value)} ({type(value).__name__}): let it make one, or change the annotation.",
                    resource=factory.resource.name,
                )
            values[name] = value
        yield values


async def _value(factory: Factory, needs: Needs, stack: contextlib.AsyncExitStack) -> Any:
    pool = needs.pools.get(factory.scope)
    if pool is not None:
        return await pool.get(factory, needs)
    try:
        return await _make(factory, await _arguments(factory, needs, stack), stack)
    except ResourceError:
        raise
    except Exception as error:
        raise _wrapped(factory, error) from error


async def _arguments(factory: Factory, needs: Needs, stack: contextlib.AsyncExitStack) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, need in factory.parameters.items():
        if isinstance(need, Factory):
            arguments[name] = await _value(need, needs, stack)
        else:
            arguments[name] = needs.ctx if need == "ctx" else needs.start
    return arguments


async def _make(factory: Factory, arguments: dict[str, Any], stack: contextlib.AsyncExitStack) -> Any:
    made = factory.call(**arguments)
    if factory.is_async:
        made = await made
    if factory.manager is not None and isinstance(stack, _Stack) and stack.is_over:
        raise _closed(factory)  # meanwhile: who would close this one?
    if factory.manager == "async":
        return await stack.enter_async_context(made)
    if factory.manager == "sync":
        return stack.enter_context(made)
    return made


def _wrapped(factory: Factory, error: Exception) -> Exception:
    if isinstance(error, ResourceError):
        return error
    return ResourceError(
        f"resource {factory.resource.name} could not be built: {type(error).__name__}: {error}",
        resource=factory.resource.name,
    )


def _closed(factory: Factory) -> ResourceError:
    return ResourceError("the resources were closed before this one was built.", resource=factory.resource.name)


def _is(value: Any, kind: Any) -> bool:
    if len(hints.members(kind)) > 1:
        return any(_is(value, member) for member in hints.members(kind))
    bare = get_origin(kind) or kind
    if bare is Any or not isinstance(bare, type):
        return True
    if getattr(bare, "_is_protocol", False) and not getattr(bare, "_is_runtime_protocol", False):
        return True
    return isinstance(value, bare) or (bare is float and isinstance(value, int))
