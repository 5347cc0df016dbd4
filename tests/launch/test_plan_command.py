"""`brickyard plan` as a person sees it: on any terminal, in a pipe, as JSON, and a few samples of it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from data.page.figure import colour_of
from launch.cli import main
from launch.plan.drawing import FEWEST_ROWS, draw_mixture
from train.checkpoints.checksums import write_checksums
from train.curriculum.build import build_plan
from train.history import continue_run
from train.inputs import read_run
from train.plan.summary import summarise
from train.run_directory import RunDirectory

SHARDS = {"web": [50] * 40, "code": [30] * 20, "math": [7, 11]}
ANCHORS = [
    {"at": "0tok", "weights": {"web": 0.7, "code": 0.3}},
    {"at": "4000tok", "weights": {"web": 0.2, "code": 0.3, "math": 0.5}, "ramp": "linear"},
]
BATCH, END = 8, 800

WriteRun = Callable[..., Path]


@pytest.fixture
def recipe(write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    return str(write_run(SHARDS, ANCHORS))


def rows_of(text: str) -> list[list[str]]:
    """The cells of every line."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_the_tables_say_the_summary(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert main(["plan", recipe]) == 0
    text = capsys.readouterr().out
    math = summary["domains"]["math"]
    rows = rows_of(text)
    assert ["math", f"{math['tokens'] / 1000:.3g}K", f"{math['share']:.1%}", f"{math['epochs']:.2f}", "180"] in rows
    begin = [f"{place['tokens'] / 1000:.3g}K" for place in math["repeats"]["begin"]]
    first = str(math["repeats"]["begin"][0]["step"])
    assert ["math", str(math["repeats"]["count"]), first, ", ".join([*begin[:3], "...", begin[3]])] in rows
    assert ["code", "0.300", "1.2K", "0.00 -> 0.20"] in rows  # a constant weight is said once
    assert ["held out", "3", "240 B"] in rows
    assert "nothing to download" in text


def test_a_name_is_not_read_as_markup(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run({"[red]": [500], "[b]": [500]}, [{"at": "0tok", "weights": {"[red]": 0.5, "[b]": 0.5}}])
    assert main(["plan", str(path)]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows if row[2:3] == ["50.0%"] and row[0] in ("[red]", "[b]")] == ["[red]", "[b]"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_twenty_domains_fit_every_terminal(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    names = [f"a-long-name-for-{chr(97 + number)}" for number in range(20)]
    path = write_run({name: [500] for name in names}, [{"at": "0tok", "weights": dict.fromkeys(names, 0.05)}])
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["plan", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)
    text = "\n".join(lines)
    assert text.count("5.0%") == 2 * 20  # in the legend and in the table of totals
    [first] = [number for number, line in enumerate(lines) if line.startswith("100%")]
    assert len({line[6] for line in lines[first : first + 20]}) == 20  # a letter each
    for name in names:
        assert f"a-long...{name[-7:]}  5.0%" in text


def drawn(recipe: str, **console: object) -> str:
    settings, manifest = read_run(Path(recipe), [])
    plan = build_plan(settings, manifest)
    file = io.TextIOWrapper(io.BytesIO(), encoding=str(console.pop("encoding", "utf-8")))
    screen = Console(file=file, width=80, force_terminal=True, **console)  # type: ignore[arg-type]
    screen.print(draw_mixture(summarise(settings, manifest, plan, 1), plan, screen), soft_wrap=True)
    file.seek(0)
    return file.read()


def test_letters_share_the_height_as_the_weights_do(recipe: str) -> None:
    columns = [line[6:].partition("  ")[0] for line in drawn(recipe, color_system=None).splitlines()[:FEWEST_ROWS]]
    heights = ["".join(line[place] for line in columns) for place in (0, len(columns[0]) - 1)]
    assert heights == ["wwwwwwwccc", "wwcccmmmmm"]


def test_the_axis_names_the_anchors(recipe: str) -> None:
    line, words = drawn(recipe, color_system=None).splitlines()[FEWEST_ROWS:]
    assert words.split() == ["0", "4K", "8K"]
    assert line.index("┴") == words.index("4K")
    assert words.index("4K") - 6 == (len(line) - 6) // 2


def test_colours_are_those_of_the_domains(recipe: str) -> None:
    text = drawn(recipe, color_system="truecolor")
    for number in range(3):
        red, green, blue = bytes.fromhex(colour_of(number)[1:])
        assert f"38;2;{red};{green};{blue}" in text
    assert "▀" in text and "wwww" not in text


@pytest.mark.parametrize(
    "console", [{"color_system": None}, {"color_system": "standard"}, {"color_system": "truecolor", "no_color": True}]
)
def test_without_enough_colours_there_are_letters(recipe: str, console: dict[str, object]) -> None:
    text = drawn(recipe, **console)
    assert "wwww" in text and "\x1b[" not in text


def test_a_terminal_without_unicode_gets_none(recipe: str) -> None:
    text = drawn(recipe, encoding="ascii", color_system="truecolor")
    assert text.isascii() and "wwww" in text and "100% |" in text


def test_no_color_is_honoured(recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    main(["plan", recipe])
    assert "38;2;" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["plan", recipe])
    text = capsys.readouterr().out
    assert "38;2;" not in text and "48;2;" not in text and "wwww" in text


def test_samples_are_those_of_the_plan(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan = build_plan(*read_run(Path(recipe), []))
    expected = [(int(s), plan.domains[d], int(e), int(r)) for s, d, e, r in plan[390:410].tolist()]
    assert main(["plan", recipe, "--samples", "390:410", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(line.values()) for line in lines] == expected
    assert list(lines[0]) == ["sample", "domain", "epoch", "row"]
    assert main(["plan", recipe, "--samples", "390:410"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["sample", "domain", "epoch", "row"]
    assert [row.split() for row in rows] == [[str(cell) for cell in sample] for sample in expected]
    assert len({len(row) for row in (heading, *rows)}) == 1


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("0.1K:1_20", 100, 119),
        ("10ba:11ba", 80, 87),
        ("7_990tok:8Ktok", 799, 799),
        ("0.5dur:401", 400, 400),
        (":2", 0, 1),
        ("798:", 798, 799),
    ],
)
def test_a_range_may_be_told_in_times(
    recipe: str, capsys: pytest.CaptureFixture[str], text: str, first: int, last: int
) -> None:
    assert main(["plan", recipe, "--samples", text, "--json"]) == 0
    lines = [json.loads(line)["sample"] for line in capsys.readouterr().out.splitlines()]
    assert lines == list(range(first, last + 1))


@pytest.mark.parametrize(
    "text", ["5", "", "a:b", "1:2:3", "5:5", "9:3", "0:801", "1.5:3", "0:1e30", "1ep:2ep", "0.0001ba:1"]
)
def test_a_range_that_makes_no_sense_is_refused(recipe: str, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["plan", recipe, "--samples", text]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"brickyard plan: --samples {text}: expected ")
    assert said.err.count("\n") == 1


def huge(write_run: WriteRun) -> list[str]:
    """A listing that would take half an hour."""
    path = write_run(
        {"web": [10**6] * 50, "code": [10**6] * 50}, [{"at": "0tok", "weights": {"web": 0.5, "code": 0.5}}]
    )
    return [sys.executable, "-m", "launch", "plan", str(path), "max_duration=3Bsp", "--samples", "100M:3B"]


def test_a_closed_pipe_ends_a_long_listing(write_run: WriteRun) -> None:
    with subprocess.Popen(huge(write_run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().split() == ["sample", "domain", "epoch", "row"]
        assert process.stdout.readline().split()[0] == "100000000"
        process.stdout.close()
        assert process.wait(60) == 0
        assert "Error" not in process.stderr.read()


def test_ctrl_c_ends_a_long_listing_and_progress_is_said(write_run: WriteRun, tmp_path: Path) -> None:
    with (tmp_path / "listing").open("w") as listing:
        process = subprocess.Popen(huge(write_run), stdout=listing, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        assert re.fullmatch(r"plan: [\d,]+ of 2,900,000,000 samples listed\n", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert said.splitlines()[-1] == "brickyard plan: interrupted"
    assert "Traceback" not in said


def test_output_that_nobody_reads_is_no_failure(recipe: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "launch", "plan", recipe], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def begin_run(recipe: str) -> None:
    """A run's folder after half of its steps, as training leaves it."""
    settings, manifest = read_run(Path(recipe), [])
    run = RunDirectory.of(settings)
    plan, history = continue_run(run, settings, manifest)
    checkpoint = run.checkpoints / "ba00000050"
    checkpoint.mkdir(parents=True)
    (checkpoint / ".metadata").touch()
    run.describe(settings, manifest, summarise(settings, manifest, plan, 1))
    history.write(checkpoint, 50 * BATCH)
    write_checksums(checkpoint, {})


def test_what_a_run_has_had_counts(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The future may change, and goes on from what was delivered."""
    begin_run(recipe)
    changed = f"curriculum.anchors={json.dumps([*ANCHORS, {'at': '6000tok', 'weights': {'code': 1.0}}])}"
    assert main(["plan", recipe, "--json", changed]) == 0
    said = capsys.readouterr()
    settings, manifest = read_run(Path(recipe), [changed])
    followed, _ = continue_run(RunDirectory.of(settings), settings, manifest)
    assert len(followed.eras) == 2
    summary = json.loads(said.out)
    assert summary["plan"] == followed.fingerprint != build_plan(settings, manifest).fingerprint
    assert [span["from_tokens"] for span in summary["spans"]] == [0, 4000, 6000]
    assert said.err == ""


def test_what_can_not_go_on_is_planned_anew(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    begin_run(recipe)
    assert main(["plan", recipe, "seed=5", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["spans"]
    assert "this is how a new run would go, which `brickyard train` would refuse: " in said.err
    assert "  seed: 17 -> 5\n" in said.err
