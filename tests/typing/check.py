"""Type tests, checked by mypy --strict and by pyright strict, and never run: `python tests/typing/check.py`.

Files beside this one:

- `right_uses.py` and `right_stored.py`: what must be accepted. Neither checker may report anything in it.
  `typing.assert_type(value, T)` pins what is inferred.
- `wrong_uses.py`: what must be refused. Every error is announced by a comment at the end of its line:

      Fetch(path=3)  # E: arg-type  # P: reportArgumentType

  `# E:` names mypy's error codes and `# P:` pyright's rules, separated by commas, one for each error on that
  line. A line without a mark must be accepted. In a statement of several lines each checker has its own idea
  of which one is wrong; each mark goes there, so `# E:` and `# P:` may be on different lines.

The result is exact both ways: an error that is not announced fails, and so does one that is not reported.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
MARK = re.compile(r"#\s*([EP]):\s*([\w\-, ]+)")

Errors = Counter[tuple[str, int, str]]
"""How often each (file name, line, error code) is reported, or announced."""


def announced(file: Path, checker: str) -> Errors:
    return Counter(
        (file.name, number, code.strip())
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        for letter, codes in MARK.findall(line)
        if letter == checker
        for code in codes.split(",")
        if code.strip()
    )


def from_mypy(files: list[Path]) -> tuple[Errors, str]:
    """What mypy reports, and its own words. Notes don't count."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--output=json", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1 or done.stderr:
        sys.exit(f"mypy failed:\n{done.stdout}{done.stderr}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    errors = Counter((Path(one["file"]).name, one["line"], one["code"]) for one in found if one["severity"] == "error")
    return errors, done.stdout


def from_pyright(files: list[Path]) -> tuple[Errors, str]:
    """What pyright reports, and its own words. Warnings count like errors."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        sys.exit(f"pyright failed:\n{done.stdout}{done.stderr}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = Counter(
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one.get("rule", "syntax"))
        for one in found
        if one["severity"] != "information"
    )
    return errors, "\n".join(f"{one['file']}:{one['range']['start']['line'] + 1}: {one['message']}" for one in found)


def main() -> int:
    files = [HERE / "right_uses.py", HERE / "right_stored.py", HERE / "wrong_uses.py"]
    failed = 0
    for name, letter, check in (("mypy", "E", from_mypy), ("pyright", "P", from_pyright)):
        expected: Errors = sum((announced(file, letter) for file in files), Counter())
        reported, words = check(files)
        faults = [f"{file}:{line}: not announced: {code}" for file, line, code in (reported - expected).elements()]
        faults += [f"{file}:{line}: not reported: {code}" for file, line, code in (expected - reported).elements()]
        print(f"{name}: {expected.total()} errors announced, {reported.total()} reported, {len(faults)} faults")
        if faults:
            failed = 1
            print(*faults, "", f"{name} said:", words, sep="\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
