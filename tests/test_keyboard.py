"""What programs in a terminal need of an event loop."""

import os
import signal
import threading
from collections.abc import Callable

import anyio
import pytest

from flowkit.keyboard import run_interruptible

pytestmark = pytest.mark.skipif(os.name != "posix", reason="masks and sends signals")


@pytest.fixture
def of_another_thread() -> Callable[[], None]:
    """Sends Ctrl-C so that only another thread is disturbed by it: the loop waits on, as where the signal comes in the
    instant before it begins to."""
    started, wanted = threading.Event(), threading.Event()

    def send() -> None:
        started.set()
        wanted.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    started.wait()  # it has its own mask now
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    yield wanted.set
    wanted.set()
    thread.join()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_ctrl_c_wakes_the_loop(anyio_backend_name: str, of_another_thread: Callable[[], None]) -> None:
    left: list[bool] = []

    async def main() -> None:
        with anyio.fail_after(30) as scope:
            of_another_thread()
            try:
                await anyio.sleep_forever()
            finally:
                left.append(anyio.current_time() < scope.deadline)

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(main, backend=anyio_backend_name)
    assert left == [True], "only the deadline woke the loop"


def test_the_wakeup_of_others_is_put_back() -> None:  # trio warns where there is one
    async def main(number: int) -> int:
        return number

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:
        assert run_interruptible(main, 7, backend="asyncio") == 7
    finally:
        after = signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
    assert after == writer
