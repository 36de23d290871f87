"""A terminal for tests: it obeys the commands that move the cursor, and shows what is left."""

import io
import re

_TOKEN = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)")


class Terminal(io.StringIO):
    """A terminal as a file.

    Attributes:
        lines: The text of each line, the ones that have scrolled away included.
        cursor_is_hidden: Whether the cursor is hidden.
        written: All that was written.
    """

    encoding = "utf-8"

    def __init__(self, width=80):
        super().__init__()
        self._width = width
        self.lines, self._row, self._column = [""], 0, 0
        self.cursor_is_hidden = self._cuts = False
        self.written = ""

    def isatty(self):
        return True

    @property
    def text(self):
        """The lines that are not empty at the end."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")

    def write(self, text):
        self.written += text
        for match in _TOKEN.finditer(text):
            arguments, command, control, characters = match.groups()
            if command:
                self._obey(command, arguments)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._column = 0
                self._down()
            else:
                for character in characters:
                    self._put(character)
        return len(text)

    def _down(self):
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    def _put(self, character):
        if self._column == self._width:
            if self._cuts:
                return
            self._column = 0
            self._down()
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1

    def _obey(self, command, arguments):
        if command == "A":
            self._row -= int(arguments)
            assert self._row >= 0, "the cursor is moved above the first line"
        elif command in "KJ":
            self.lines[self._row] = self.lines[self._row][: self._column]
            if command == "J":
                del self.lines[self._row + 1 :]
        elif arguments == "?25":
            self.cursor_is_hidden = command == "l"
        elif arguments == "?7":
            self._cuts = command == "l"
        else:
            assert command == "m", "an unknown command"

    def resize(self, width):
        """Break the lines that are too long for a new width, as most terminals do."""
        before, row = self.lines, self._row
        self.lines, self._width = [], width
        for number, line in enumerate(before):
            line = line.rstrip()
            if number == row:
                self._row = len(self.lines) + self._column // width
            self.lines += [line[n : n + width] for n in range(0, max(1, len(line)), width)]
