"""Characters: mojibake repaired, one spelling of each, one newline, no control characters."""

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

_LINE = re.compile(r"[^\n]+")
_BLANK_LINES = re.compile(r"(?:[^\S\n]*+\n)+")
_NEWLINE = re.compile("\r\n?|\u2028|\u2029|\x85")
# NUL and the other control characters but tab and newline; the byte order mark; the noncharacters U+FFFE, U+FFFF.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_ASCII_CONTROL = {code: None for code in range(128) if _CONTROL.match(chr(code))}  # the same, many times as fast
_SURROGATE = re.compile("[\ud800-\udfff]")
# Putting n combining marks in order takes n² steps: minutes for a line of a million. No language has 100 in a row.
_MARKS = re.compile(r"([^\x00-\u02ff\w\s]{100,})")


@dataclass
class Mojibake:
    """Repairs text that was decoded in a wrong encoding (`schÃ¶n` to `schön`), line by line. Before `unicode`,
    which removes the control characters that show what was meant.
    """

    source: ClassVar[str] = "Speer 2019, ftfy (doi:10.5281/zenodo.2591652)"

    def apply(self, text: str) -> str:
        return text if text.isascii() else _LINE.sub(_repaired, text)


@dataclass
class Unicode:
    """Brings text to NFC, newlines to `\\n`; removes control characters, and blank lines at both ends."""

    source: ClassVar[str] = "Unicode Standard Annex 15"

    def apply(self, text: str) -> str:
        if text.isascii():
            text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_ASCII_CONTROL)
        else:
            text = _CONTROL.sub("", _NEWLINE.sub("\n", text))
            text = _SURROGATE.sub("\ufffd", text)
            text = "".join(_nfc(part) for part in _MARKS.split(text))
        text = text.rstrip()
        blank = _BLANK_LINES.match(text)
        return text[blank.end() :] if blank else text


def _repaired(line: re.Match[str]) -> str:
    import ftfy  # here, so that reading a recipe does not wait for it

    return line[0] if line[0].isascii() else ftfy.fix_encoding(line[0])


def _nfc(part: str) -> str:
    return part if _MARKS.fullmatch(part) else unicodedata.normalize("NFC", part)
