"""Memory of a waiting run, and the time of an import.

Memory is what Python allocated (`tracemalloc`, after a collection) between the moment before the runs are
started and the moment when all of them wait, divided by their number. It leaves out the interpreter's own
slack, which a resident set size would include together with whatever earlier workloads left behind; it is
steady from run to run. Afterwards each run is answered and must end with its answer: a run that was
dropped would be light, too.

An import is timed from inside a fresh interpreter, so without the interpreter's own start, with compiled
files already cached. The floor is what any engine on AnyIO and attrs pays before its first own line.
"""

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence

from benchmarks.measure import Result, WrongAnswerError, rotated
from benchmarks.workloads import Engine

TIMED_IMPORT = """
from time import perf_counter
started = perf_counter()
import {modules}
print((perf_counter() - started) * 1e3)
"""


async def idle_memory(engine: Engine, runs: int) -> Result:
    """One sample of the kilobytes (1,024 bytes) per waiting run.

    Raises:
        WrongAnswerError: a run didn't end with the answer it was given.
    """
    assert engine.idle is not None
    await engine.idle(10, lambda: None)
    bytes_waiting = 0

    def waiting() -> None:
        nonlocal bytes_waiting
        gc.collect()
        bytes_waiting, _ = tracemalloc.get_traced_memory()

    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        answered = await engine.idle(runs, waiting)
    finally:
        tracemalloc.stop()
    if answered != runs:
        raise WrongAnswerError("idle", engine.name, answered, runs)
    return Result("idle", engine.name, engine.variant, "KB per run", [(bytes_waiting - before) / runs / 1024])


def import_times(engines: Sequence[Engine], rounds: int) -> list[Result]:
    """Milliseconds to import each engine, interleaved like everything else; the first, cold round isn't
    counted."""
    named = [engine for engine in engines if engine.imports]
    results = [Result("import", engine.name, engine.variant, "ms") for engine in named]
    for number in range(rounds + 1):
        for index in rotated(range(len(named)), number):
            elapsed = import_time(named[index].imports)
            if number > 0:
                results[index].samples.append(elapsed)
    return results


def import_time(modules: str) -> float:
    code = TIMED_IMPORT.format(modules=modules)
    caching = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=caching)
    return float(child.stdout.split()[-1])
