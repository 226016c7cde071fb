"""Journals that earlier flowkits wrote: this one reads each, and finds in it what was written.

New ones: tests/golden/journals.py. One that can't be read any more is a run that somebody has lost.
"""

import json

import pytest
from golden import flows
from golden.flows import FLOWS
from golden.journals import FOLDER, after, names, read

from flowkit.facts import RunStarted
from flowkit.records import seal
from flowkit.workflow import records_of

each_journal = pytest.mark.parametrize("name", names())


def test_there_is_a_journal_of_every_flow() -> None:
    assert FLOWS.keys() <= set(names())
    assert {read(name).flow for name in names()} == FLOWS.keys()


@each_journal
def test_a_journal_is_read_and_arrives_where_it_did(name: str) -> None:
    journal = read(name)
    workflow = getattr(flows, journal.workflow)()
    records = records_of(workflow)
    for length, expected in enumerate(journal.after, 1):
        restored = records.restore(journal.run_id, 0, journal.records[:length], workflow.state_for(None), patient=False)
        assert after(restored.machine) == expected
        assert not restored.changed
        assert restored.head.flowkit == journal.flowkit


@each_journal
def test_history_is_read_from_it(name: str) -> None:
    journal = read(name)
    records = records_of(getattr(flows, journal.workflow)())
    facts = list(records.facts(journal.run_id, 0, journal.records))
    replayed = list(records.replay(journal.run_id, journal.records))
    assert [(number, type(fact)) for number, fact in facts] == [(number, type(fact)) for number, fact, _ in replayed]
    assert isinstance(facts[0][1], RunStarted)


@each_journal
def test_its_checksums_are_those_that_would_be_written(name: str) -> None:
    journal = read(name)
    for number, record in enumerate(journal.records):
        assert seal(journal.run_id, number, record[8:]) == record


@each_journal
def test_its_facts_are_written_as_they_were(name: str) -> None:
    """Not a must, for ever: where the form of a fact changes, FORMAT does, and the old form is still read."""
    journal = read(name)
    records = records_of(getattr(flows, journal.workflow)())
    if journal.flow == "versions" and name != "versions":
        return  # its events have a version since
    for number, fact in records.facts(journal.run_id, 0, journal.records):
        assert json.loads(records.fact(fact)) == json.loads(journal.records[number][8:])


def test_what_a_run_carries_is_read_from_its_head_and_from_its_books() -> None:
    journal = read("traced")
    records = records_of(flows.Traced())
    carried = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    starts = [
        number for number, record in enumerate(journal.records) if record[8:].startswith((b'["head"', b'["books"'))
    ]
    assert len(starts) > 1
    for start in starts:
        state = flows.Traced().state_for(None)
        restored = records.restore(journal.run_id, start, journal.records[start:], state, patient=False)
        assert restored.head.carried == restored.machine.carried == carried


def test_all_in_the_folder_is_known() -> None:
    assert sorted(file.name for file in FOLDER.iterdir() if file.suffix != ".json" and file.is_file()) == [
        "flows.py",
        "journals.py",
    ]
