"""Finding passages with SQLite's full-text search, for `flowkit.examples.ask_folder`; no workflow here.

`open_index` makes an FTS5 table in memory; `fill` adds passages; `search` gets the candidates for a question,
and `reranked` puts them in their final order.

The words of a text are found as FTS5's ``unicode61`` tokenizer finds them (letters and digits, without
accents) and stemmed by its ``porter`` (English) stemmer, so a script that leaves no blanks between words is
hardly searchable.
"""

import re
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from itertools import pairwise

import attrs

from flowkit.examples._passages import Passage

HEADING_WEIGHT = 2.0
"""How much more a word in a heading counts than one in the text, for FTS5's ``bm25()``: Robertson, Zaragoza
and Taylor, "Simple BM25 extension to multiple weighted fields" (CIKM 2004), weigh fields in this way; 2 is a
mild choice."""

CANDIDATES = 50
"""How many passages are reranked: enough that the best one is among them, few enough to cost nothing."""

MAX_WORDS = 32
"""Words of a question that are searched for; FTS5 refuses expressions nested deeper than 256."""

RANK_CONSTANT = 60
"""k in reciprocal rank fusion; 60 is the value of Cormack, Clarke and Büttcher (see `reranked`)."""

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about an and any are as at be been but by can could d did do does for from get had has have how
        i if in into is it its ll m me my of on or our re s should so t than that the their them
        then there these they this to ve was we were what when where which who whom whose why will
        with would you your""",
    )
)
"""English words that tell nothing about what is asked. BM25 gives them little weight, but coverage would
count them."""


class NoFullTextSearch(Exception):
    """This Python's SQLite has no FTS5."""

    def __init__(self) -> None:
        super().__init__(
            f"this Python's SQLite ({sqlite3.sqlite_version}) was built without FTS5, its full-text search: "
            "use a Python from python.org, conda-forge or uv, whose SQLite has it"
        )


_TOKENIZER = "tokenize = 'porter unicode61 remove_diacritics 2'"

# `word` and `question_word` show the stems inside the other two tables
# (https://sqlite.org/fts5.html#the_fts5vocab_virtual_table_module), so that the question is stemmed by the
# very code that stemmed the text.
_SCHEMA = f"""
CREATE VIRTUAL TABLE passage USING fts5(
    heading, text, file UNINDEXED, first UNINDEXED, last UNINDEXED, {_TOKENIZER}
);
CREATE VIRTUAL TABLE word USING fts5vocab(passage, instance);
CREATE VIRTUAL TABLE question USING fts5(words, {_TOKENIZER});
CREATE VIRTUAL TABLE question_word USING fts5vocab(question, row);
"""


@contextmanager
def open_index() -> Generator[sqlite3.Connection, None, None]:
    """An empty index in memory; it is gone when the block ends.

    Steps may use it from whatever thread they run in, one at a time.

    Raises:
        NoFullTextSearch: SQLite was built without FTS5.
    """
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as index:
        try:
            index.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            if "fts5" in str(error):
                raise NoFullTextSearch from error
            raise
        yield index


def fill(index: sqlite3.Connection, passages: Iterable[Passage]) -> None:
    """Add passages to the index."""
    with index:
        index.executemany(
            "INSERT INTO passage (heading, text, file, first, last) VALUES (?, ?, ?, ?, ?)",
            ((each.heading, each.text, each.file, each.first_line, each.last_line) for each in passages),
        )


@attrs.frozen
class Candidate:
    """A passage that has at least one word of the question.

    ``bm25`` is FTS5's score with its sign turned: more is better. ``covered`` counts the different words of
    the question in text and heading. ``distance`` counts words from one of them to the nearest other one in
    the text (1: side by side), ``None`` where the text has fewer than two.
    """

    passage: Passage
    bm25: float
    covered: int
    distance: int | None


def question_words(question: str) -> list[str]:
    """The different words to search for, at most `MAX_WORDS`; without `STOP_WORDS`, if others are left."""
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", question.lower())))
    return ([word for word in words if word not in STOP_WORDS] or words)[:MAX_WORDS]


def search(index: sqlite3.Connection, question: str) -> list[Candidate]:
    """The passages with any word of ``question``, best by BM25 first, `CANDIDATES` at most."""
    words = question_words(question)
    if not words:
        return []
    rows = index.execute(
        # bm25() is the lower, the better. The rowid, the order of reading, decides between equals.
        "SELECT rowid, file, first, last, heading, text, bm25(passage, ?, 1.0) AS score "
        "FROM passage WHERE passage MATCH ? ORDER BY score, rowid LIMIT ?",
        # Words have letters and digits only, so the quotes make each a plain string and no operator.
        (HEADING_WEIGHT, " OR ".join(f'"{word}"' for word in words), CANDIDATES),
    ).fetchall()
    stems = _stems(index, words)
    hits: dict[int, list[tuple[str, int, str]]] = {rowid: [] for rowid, *_ in rows}
    for rowid, column, offset, stem in index.execute(
        "SELECT doc, col, offset, term FROM word "
        f"WHERE term IN ({_marks(stems)}) AND doc IN ({_marks(hits)}) ORDER BY doc, col, offset",
        (*stems, *hits),
    ):
        hits[rowid].append((column, offset, stem))
    return [
        Candidate(
            Passage(file, first, last, heading, text),
            bm25=-score,
            covered=len({stem for _, _, stem in hits[rowid]}),
            distance=_distance([(offset, stem) for column, offset, stem in hits[rowid] if column == "text"]),
        )
        for rowid, file, first, last, heading, text, score in rows
    ]


def _stems(index: sqlite3.Connection, words: Iterable[str]) -> list[str]:
    with index:
        index.execute("DELETE FROM question")
        index.execute("INSERT INTO question VALUES (?)", (" ".join(words),))
        return [stem for (stem,) in index.execute("SELECT term FROM question_word")]


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


def _distance(hits: Iterable[tuple[int, str]]) -> int | None:
    # The hits are in order, so the nearest two different words are neighbours among them.
    return min((right - left for (left, a), (right, b) in pairwise(hits) if a != b), default=None)


# -------------------------------------------------------------------------------- the order


def reranked(candidates: Iterable[Candidate]) -> list[Passage]:
    """The passages, best first, each text once.

    Three rankings are joined by reciprocal rank fusion, the sum of 1 / (60 + rank): Cormack, Clarke and
    Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods" (SIGIR
    2009). It needs no weights and no common scale. The rankings are

    - BM25, in which words of a heading count more (`HEADING_WEIGHT`),
    - coverage: how many of the question's words there are,
    - proximity: the smallest distance between two of them, the measure "MinDist" of Tao and Zhai, "An
      exploration of proximity measures in information retrieval" (SIGIR 2007).
    """
    distinct: dict[str, Candidate] = {}
    for candidate in candidates:
        distinct.setdefault(candidate.passage.text, candidate)
    pool = list(distinct.values())
    rankings = (
        _ranks([-candidate.bm25 for candidate in pool]),
        _ranks([-candidate.covered for candidate in pool]),
        _ranks([float("inf") if candidate.distance is None else candidate.distance for candidate in pool]),
    )
    scores = [sum(1 / (RANK_CONSTANT + rank) for rank in ranks) for ranks in zip(*rankings, strict=True)]
    # sorted() is stable: where scores are equal, BM25's order stays.
    order = sorted(range(len(pool)), key=lambda i: -scores[i])
    return [pool[i].passage for i in order]


def _ranks(costs: list[float]) -> list[int]:
    """The rank of each, from 1 for the lowest cost; equal costs have the same rank."""
    first: dict[float, int] = {}
    for rank, cost in enumerate(sorted(costs), start=1):
        first.setdefault(cost, rank)
    return [first[cost] for cost in costs]
