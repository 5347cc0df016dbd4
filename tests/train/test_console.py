"""What a person sees of a run: plain lines in a file, a bar below them on a terminal, and a summary at the end."""

import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from train.console import Console, by_name, clock
from train.progress_bar import bar_line

DOMAINS = ("prose", "code")


def row(batch: int) -> dict[str, Any]:
    return {
        "batch": batch,
        "tokens": 1000 * batch,
        "loss/cross_entropy": 5.0 - batch / 10,
        "domain/loss/prose": 5.25,
        "domain/loss/code": None,
        "optimizer/lr": 1e-3,
        "throughput/tokens_per_second": 1234.5,
        "throughput/seconds_left": 15 * (8 - batch),
        "mixture/tokens/prose": 750 * batch,
        "mixture/tokens/code": 250 * batch,
        "mixture/epochs/prose": 0.5,
        "mixture/epochs/code": 0.25,
    }


def train(console: Console) -> None:
    """Steps 3 to 8 of a run of 8, evaluated after the last."""
    console.start(2, 2000)
    for batch in range(3, 9):
        console.step(row(batch))
    console.evaluation({"batch": 8, "eval/domain/loss/prose": 5.5})
    console.done(Path("runs/x"))


EXPECTED = r"""
train: step 3/8  3K tokens  loss 4.700  \(prose 5.25  code -\)  lr 1.00e-03  1,234 tok/s  1:15 left
train: step 4/8  4K tokens  loss 4.600  \(prose 5.25  code -\)  lr 1.00e-03  1,234 tok/s  1:00 left
train: step 8/8  8K tokens  loss 4.200  \(prose 5.25  code -\)  lr 1.00e-03  1,234 tok/s  0:00 left
train: step 8: held-out loss  prose 5.500
train: done: 8 steps; the run is in runs/x
train:   8K tokens in all; steps 3 to 8 took 0.0 s, [\d,]+ tok/s with evaluation and saves
train:   domain  tokens  epochs   loss  held out
train:   prose       6K    0.50  5.250     5.500
train:   code        2K    0.25      -         -
"""


def test_a_log_has_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    train(Console(4, 8, DOMAINS))
    assert re.fullmatch(EXPECTED.lstrip(), capsys.readouterr().out)


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str = "utf-8") -> Iterator[list[str]]:
    """stdout is a terminal; what it was given comes when it is closed."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    given: list[str] = []
    with os.fdopen(theirs, "w", encoding=encoding) as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        yield given
    content = b""
    with suppress(OSError):  # which says that there is no more
        while part := os.read(ours, 4096):
            content += part
    os.close(ours)
    given.append(content.decode(encoding))


def on_screen(given: str) -> list[str]:
    """The lines that are left on a terminal when all is written."""
    lines, column = [""], 0
    for part in re.findall(r"\r\n|\n|\r|\x1b\[K|[^\r\n\x1b]+", given):
        if part in ("\r\n", "\n"):
            lines.append("")
            column = 0
        elif part == "\r":
            column = 0
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
            column += len(part)
    return lines


def test_a_terminal_has_the_same_lines_and_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 100) as given:
        train(Console(4, 8, DOMAINS))
    assert re.fullmatch(EXPECTED.lstrip(), "\n".join(on_screen(given[0])))
    [first, *_, last] = re.findall(r"\r\x1b\[K([ \d]+% [^\r]+)\r", given[0])
    assert re.fullmatch(r" 37% ━{15}─{25}  3/8  loss 4.700  1,234 tok/s  1:15 left", first)
    assert re.fullmatch(r"100% ━{40}  8/8  loss 4.200  1,234 tok/s  0:00 left", last)


def test_the_bar_stands_below_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 100) as given:
        console = Console(100, 8, DOMAINS)
        console.start(0, 0)
        console.step(row(1))
        console.say("a line")
    assert on_screen(given[0])[1] == "train: a line" and on_screen(given[0])[2].startswith(" 12% ━")


def test_a_terminal_without_unicode_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 100, "ascii") as given:
        train(Console(4, 8, DOMAINS))
    assert "100% ########" in given[0]


@pytest.mark.parametrize("columns", [10, 30, 60, 80, 200])
def test_the_bar_fits_every_terminal(columns: int) -> None:
    line = bar_line(0.5, "120/240  loss 5.000  7,000 tok/s  1:00 left", columns, True)
    assert len(line) < columns and line.startswith(" 50%")
    assert ("━" in line) == (columns >= 60)


def test_of_many_domains_a_few_are_said() -> None:
    losses: dict[str, float | None] = {f"d{number}": 1.0 for number in range(20)}
    assert by_name(losses).endswith("d5 1.00  and 14 more")


def test_clock() -> None:
    assert [clock(seconds) for seconds in (9.6, 90, 3700, 200_000)] == ["0:10", "1:30", "1:01:40", "2 d 7 h"]
