"""The README's section on the command line: its code, and what it shows."""

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("click")
if os.name != "posix":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

from terminals import Terminal

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the tests of an installed package have no README", allow_module_level=True)

SECTION = README.read_text(encoding="utf-8").split("## Command line")[1].split("\n## ")[0]
CODE = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)[0]
SHOWN = re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL)[0]
CALLS = re.findall(r"^\$ flowkit (.*)\n((?:[^$].*\n)*)", SHOWN, re.MULTILINE)


def test_the_commands_show_what_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "publishing.py").write_text(CODE, encoding="utf-8")
    assert len(CALLS) == 3
    for call, shown in CALLS:
        with Terminal([*call.split(), "--quiet"], tmp_path) as terminal:
            told = ""
            if "publish (bool): " in shown:
                told = terminal.read_until("publish (bool): ")
                keys = shown.partition("publish (bool): ")[2].splitlines()[0]
                terminal.type("\x04" if keys == "^D" else f"{keys}\n")
                told += "^D" if keys == "^D" else ""
            _, rest = terminal.end()
            expected = re.sub(r"^run one, in runs.db.*\n", "", shown)  # that is progress
            assert told + rest == expected
