"""Reading text files and cutting them into passages, for `flowkit.examples.ask_folder`; no workflow here.

`find_files` walks a folder and says which files to read and which it leaves out, and why; `read_text` gives
the text of one; `cut` cuts a text into passages: under one heading, about a paragraph long, with their line
numbers.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

SUFFIXES = frozenset({".md", ".markdown", ".txt", ".text"})

MAX_BYTES = 2_000_000
"""Larger files are left out: prose of that size (some 300,000 words) is nearly always a log, an export or a
data dump, whose passages would crowd out everything else."""

PASSAGE_LENGTH = 700
"""Characters in a passage, roughly 100 words of English: the unit of Dense Passage Retrieval (Karpukhin et
al., EMNLP 2020), small enough to be quoted whole."""

# -------------------------------------------------------------------------------- the folder


@attrs.frozen
class Skipped:
    """A file or folder that is left out, and why."""

    name: str
    reason: str


@attrs.frozen
class Listing:
    """What `find_files` found: ``files`` in the order of their names."""

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def find_files(folder: Path) -> Listing:
    """All Markdown and text files below ``folder``; hidden files and folders are passed over in silence.

    Symbolic links are left out: a link to a folder could lead around in circles, one to a file out of the
    folder that was asked about. So is anything that isn't a regular file: reading a named pipe would wait for
    ever.
    """
    files: list[Path] = []
    skipped: list[Skipped] = []

    def leave_out(path: Path, reason: str) -> None:
        skipped.append(Skipped(shown(path, folder), reason))

    def unlisted(error: OSError) -> None:
        leave_out(Path(error.filename), error.strerror or str(error))

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        below = Path(parent)
        # os.walk goes down into what is left in its list, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (below / name).is_symlink():
                leave_out(below / name, "a symbolic link")
        for name in sorted(names):
            path = below / name
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            try:
                status = path.lstat()
            except OSError:
                # Reading it will say what is wrong, and is tried again.
                files.append(path)
                continue
            if stat.S_ISLNK(status.st_mode):
                leave_out(path, "a symbolic link")
            elif not stat.S_ISREG(status.st_mode):
                leave_out(path, "not a regular file")
            elif status.st_size > MAX_BYTES:
                leave_out(path, f"{status.st_size / 1e6:.1f} MB, over the limit of {MAX_BYTES / 1e6:.0f} MB")
            else:
                files.append(path)
    return Listing(tuple(files), tuple(skipped))


def shown(path: Path, folder: Path) -> str:
    """``path`` as seen from ``folder``, with ``/``, fit to be printed: what isn't UTF-8 is replaced."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")


class NotText(Exception):
    """The content of a file isn't text; reading it again won't change that."""


def read_text(path: Path) -> str:
    """The file's text; a byte order mark is dropped.

    Raises:
        NotText: there is a NUL byte (as git and grep tell binaries), or the bytes aren't UTF-8.
        OSError: the file can't be read.
    """
    content = path.read_bytes()
    if b"\0" in content:
        raise NotText("binary: there is a NUL byte in it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotText(f"not UTF-8 text: {error.reason} at byte {error.start + 1}") from error


# -------------------------------------------------------------------------------- passages


@attrs.frozen
class Passage:
    """A piece of a file.

    Lines are counted from 1, both included. ``heading`` is a path like ``Install > Linux``, or empty.
    """

    file: str
    first_line: int
    last_line: int
    heading: str
    text: str

    @property
    def place(self) -> str:
        """``file:line``, as compilers write it and editors and terminals turn it into a link."""
        return f"{self.file}:{self.first_line}"


@attrs.frozen
class _Paragraph:
    first_line: int
    last_line: int
    text: str


_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def cut(file: str, text: str) -> list[Passage]:
    """Cut ``text`` at headings, and between paragraphs where it gets longer than `PASSAGE_LENGTH`.

    Headings are those of CommonMark (https://spec.commonmark.org), outside fenced code: ``#`` and underlined
    ones. A heading isn't part of a passage's text, but of its ``heading``.
    """
    passages: list[Passage] = []
    headings: list[tuple[int, str]] = []  # level and title of the headings that the current line is under
    unused: _Paragraph | None = None  # the last heading, as long as no passage stands under it
    section: list[_Paragraph] = []
    lines: list[str] = []  # of the current paragraph
    fence = ""  # what opened the code block the current line is in

    def end_paragraph(last_line: int) -> None:
        first_line = last_line - len(lines) + 1
        while lines and not lines[-1].strip():  # the blank end of a code block that nothing closes
            lines.pop()
        if lines:
            section.append(_Paragraph(first_line, first_line + len(lines) - 1, "\n".join(lines)))
        lines.clear()

    def end_section(next_level: int) -> None:
        nonlocal unused
        path = " > ".join(title for _, title in headings)
        # A heading with only deeper ones under it lives on in their paths; any other is a passage by itself.
        if unused is not None and not section and headings[-1][0] >= next_level:
            section.append(unused)
        for piece in _packed(section):
            passages.append(Passage(file, piece.first_line, piece.last_line, path, piece.text))
        unused = None
        section.clear()

    def start_section(level: int, title: str, first_line: int, last_line: int) -> None:
        nonlocal unused
        end_section(level)
        while headings and headings[-1][0] >= level:
            headings.pop()
        if title:
            headings.append((level, title))
            unused = _Paragraph(first_line, last_line, title)

    number = 0
    # Not splitlines(): it also ends lines at form feeds and Unicode separators, which editors don't count.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if fence:
            lines.append(line)
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif opening := _FENCE.match(line):
            lines.append(line)
            fence = opening[1]
        elif heading := _HEADING.match(line):
            end_paragraph(number - 1)
            start_section(len(heading[1]), _title(line[heading.end() :]), number, number)
        elif len(lines) == 1 and lines[0].strip() and (underline := _UNDERLINE.match(line)):
            title = lines.pop().strip()
            start_section(1 if underline[1].startswith("=") else 2, title, number - 1, number)
        elif line.strip():
            lines.append(line)
        else:
            end_paragraph(number - 1)
    end_paragraph(number)
    end_section(0)
    return passages


def _title(text: str) -> str:
    title = text.strip()
    bare = title.rstrip("#")
    # `## Title ##`: the closing ones are no part of it; in `## C#` they are.
    return bare.rstrip() if not bare or bare[-1].isspace() else title


def _packed(section: Iterable[_Paragraph]) -> Iterator[_Paragraph]:
    """Join short paragraphs, split long ones, so that each is as long as it may be."""
    current: _Paragraph | None = None
    for paragraph in section:
        for piece in _split(paragraph):
            if current is None:
                current = piece
                continue
            # Lines of one paragraph stay next to each other; between paragraphs the blank lines are kept.
            gap = "\n" * (piece.first_line - current.last_line)
            if len(current.text) + len(gap) + len(piece.text) <= PASSAGE_LENGTH:
                current = _Paragraph(current.first_line, piece.last_line, current.text + (gap or " ") + piece.text)
            else:
                yield current
                current = piece
    if current is not None:
        yield current


def _split(paragraph: _Paragraph) -> Iterator[_Paragraph]:
    """The paragraph itself; where it is too long, its lines; where a line is too long, groups of words."""
    if len(paragraph.text) <= PASSAGE_LENGTH:
        yield paragraph
        return
    for number, line in enumerate(paragraph.text.split("\n"), start=paragraph.first_line):
        start = 0
        while len(line) - start > PASSAGE_LENGTH:
            end = start + _good_end(line[start : start + PASSAGE_LENGTH])
            yield _Paragraph(number, number, line[start:end].strip())
            start = end
        if rest := line[start:].rstrip():
            yield _Paragraph(number, number, rest)


def _good_end(text: str) -> int:
    """Where to cut a line that goes on after ``text``: after a sentence, between words, or at the end."""
    half = len(text) // 2
    sentences = [match.end() for match in re.finditer(r"[.!?][\"')\]]*\s", text)]
    if sentences and sentences[-1] >= half:
        return sentences[-1]
    space = text.rfind(" ", half)
    return space + 1 if space >= 0 else len(text)
