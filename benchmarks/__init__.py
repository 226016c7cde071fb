"""flowkit's benchmarks: `python -m benchmarks` measures the engine beside a hand-written pipeline and its
peers.

measure.py       the stopwatch: interleaved samples, medians, ratios to the floor
workloads.py     what is measured: names, sizes, goals, and the answer each workload must give
floor.py         the floor: the same shapes written by hand on AnyIO, without any engine
flowkit_rows.py  the shapes as flowkit workflows
peers.py         the shapes in llama-index-workflows, langgraph, pydantic-graph and burr, where installed
footprint.py     memory of a waiting run, time of an import
__main__.py      command line, table, JSON
durable.py       what it costs to keep runs in a store: its own command, table and JSON
durable_rows.py  flowkit's stores beside SQLite's own commits
durable_runs.py  resuming, waiting runs, long runs
durable_peers.py langgraph and dbos on SQLite, where installed
races.py         how soon planted races are found: its own command, tables and JSON
harness.py       what a simulated run costs: its own command and JSON

A figure means little without its neighbour: machines differ twofold and one machine differs by the hour. So
every contestant is timed in the same process, one sample each in turn, and what the table is for is the
ratio.
"""
