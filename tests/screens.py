"""A terminal's screen, as far as the live view uses one: what is on it after so much output, and what has gone by."""

import re

__all__ = ["Screen"]

_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b(.)|([\x00-\x1f\x7f])|([^\x00-\x1f\x7f]+)", re.DOTALL)


class Screen:
    """Fails on what it doesn't know: the live view is to use nothing else. Every character is one cell wide."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.width, self.height = width, height
        self.past: list[str] = []
        self.rows = [""]
        self.row = self.column = 0
        self.is_hidden = False
        self.wraps = True

    @property
    def lines(self) -> list[str]:
        """All that was ever left standing, without empty lines at the end."""
        found = [line.rstrip() for line in [*self.past, *self.rows]]
        while found and not found[-1]:
            del found[-1]
        return found

    def feed(self, text: str) -> "Screen":
        """Show some output."""
        for numbers, command, other, control, plain in (match.groups("") for match in _SEQUENCE.finditer(text)):
            if plain:
                self._print(plain)
            elif control:
                self._control(control)
            else:
                assert not other, f"unknown: ESC {other!r}"
                self._command(numbers, command)
        return self

    def _print(self, text: str) -> None:
        for each in text:
            if self.column >= self.width:
                if not self.wraps:
                    self.column = self.width - 1
                else:
                    self._down()
                    self.column = 0
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + each + row[self.column + 1 :]
            self.column += 1

    def _control(self, each: str) -> None:
        if each == "\r":
            self.column = 0
        elif each == "\n":
            self._down()
            self.column = 0  # as the terminal's driver has it
        else:
            raise AssertionError(f"unknown: {each!r}")

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")
        if len(self.rows) > self.height:
            self.past.append(self.rows.pop(0))
            self.row -= 1

    def _command(self, numbers: str, command: str) -> None:
        match numbers, command:
            case _, "m":
                pass
            case _, "A":
                self.row = max(0, self.row - int(numbers or 1))
            case (("" | "0"), "K"):
                self.rows[self.row] = self.rows[self.row][: self.column]
            case (("" | "0"), "J"):
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            case "?25", ("l" | "h"):
                self.is_hidden = command == "l"
            case "?7", ("l" | "h"):
                self.wraps = command == "h"
            case _:
                raise AssertionError(f"unknown: ESC [ {numbers} {command}")
