"""``flowkit runs``: the group of verbs that look at stored runs, and drive them.

Where they are: runs_index.py has those that need no code (`list`, `prune`), runs_look.py those that only read (`show`,
`history`, `watch`), runs_drive.py those that change a run (`send`, `resume`, `cancel`, `fork`). stored.py finds a run,
stored_books.py reads it, fact_lines.py has its facts in words. None of them makes a store, and none but `resume` lets a
step run.
"""

from flowkit.command_line.group import Verbs

__all__ = ["runs"]

_HERE = "flowkit.command_line.runs_"

runs = Verbs(
    "runs",
    verbs={
        "list": ("List the runs of a store.", f"{_HERE}index:list_runs"),
        "show": ("Show one run: what it waits for, its state, its result.", f"{_HERE}look:show"),
        "history": ("Print all that has happened to a run.", f"{_HERE}look:history"),
        "watch": ("Follow a run, whoever drives it.", f"{_HERE}look:watch"),
        "send": ("Send an event to a run, whoever drives it.", f"{_HERE}drive:send"),
        "resume": ("Go on with a run, or with all of them.", f"{_HERE}drive:resume"),
        "cancel": ("Cancel a run for good.", f"{_HERE}drive:cancel"),
        "fork": ("Make a new run that goes on from where another was.", f"{_HERE}drive:fork"),
        "prune": ("Delete runs that have ended.", f"{_HERE}index:prune"),
    },
    help="Look at stored runs, and drive them.",
    epilog="The store is named by --store, FLOWKIT_STORE or [tool.flowkit] of pyproject.toml. It is never made here.",
)
