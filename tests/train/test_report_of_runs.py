"""Several runs on one page; and the page of a run that goes on, served on this machine."""

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_report import Page, lines_of, step_row, write_run

from data.page.shell import plotly_script
from launch.cli import main
from train.report.live import Server


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    """One twice as long as the other, with a loss that is lower by 1, and another recipe."""
    first = write_run(tmp_path / "runs" / "first")
    second = write_run(tmp_path / "runs" / "second", steps=40, planned=80, **{"loss/cross_entropy": 8.0})
    (second / "recipe.yaml").write_text("run_name: second\neval_interval: 77ba\nmodel:\n  n_layers: 3\n")
    return [first, second]


def test_runs_side_by_side(two_runs: list[Path]) -> None:
    page = Page(*two_runs)
    assert "2 runs; all of them have come to 20K tokens" in page.text
    assert "After 20K tokens training loss is lowest for second (8.000) and first (8.998)" in page.text
    assert ["second", "40 of 80", "40K", "8.000", "5.800", "8.000", "5.800", "2,000", "–", "132B", "36.5B"] in page.rows
    assert page.rows[-2:] == [["key", "first", "second"], ["model.n_layers", "2", "3"]]
    assert [a["data-domain"] for _, a in page.tags if "data-domain" in a] == ["0", "1"]
    assert "A run's button hides and shows it" in page.text


def test_curves_of_runs_lie_over_each_other(two_runs: list[Path]) -> None:
    figures = Page(*two_runs).figures
    assert list(figures) == [
        "heldout-loss", "training-loss", "domain-loss", "mixture", "max-violation", "router-entropy", "throughput",
    ]  # fmt: skip
    first, second = figures["training-loss"]["data"]
    assert (first["x"][-1], second["x"][-1], first["line"]["color"]) == (20_000, 40_000, "#3b82d6")
    by_domain = figures["domain-loss"]
    assert by_domain["chosen"] == 0
    assert [trace["meta"] for trace in by_domain["data"]] == [
        {"domain": run, "choice": choice} for choice in (0, 1) for run in (0, 1)
    ]
    assert [trace["y"] for trace in lines_of(figures["heldout-loss"], "first")] == [[5.9, 5.8]] * 3  # mean, web, code


def test_runs_of_other_domains_and_of_one_name(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a" / "demo", evaluations=())
    other = write_run(tmp_path / "b" / "demo", unigram={"math": 7.0})
    page = Page(one, other)
    assert [row[0] for row in page.rows if row[1:2] == ["20"]] == [str(one), str(other)]
    assert "mean of the domains" in page.html and "math" in page.html
    assert [trace["x"] for trace in page.figures["heldout-loss"]["data"][:2]] == [[], [10_000, 20_000]]


def test_where_the_page_is_written(two_runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = two_runs[0].parent
    assert main(["report", *map(str, two_runs)]) == 0
    assert main(["report", str(two_runs[0]), "-o", str(folder / "one.html")]) == 0
    assert capsys.readouterr().out == f"report: {folder}/comparison.html\nreport: {folder}/one.html\n"
    assert (folder / "one.html").read_text().startswith("<!doctype html>")
    assert main(["report", *map(str, two_runs), "-o", str(folder / "nowhere" / "all.html")]) == 2
    assert f"can't write {folder}/nowhere/all.html" in capsys.readouterr().err


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Server]]:
    """A run's folder in which nothing lies yet, and its server."""
    folder = tmp_path / "demo"
    folder.mkdir()
    with Server([folder], port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield folder, server
        server.shutdown()
        thread.join()


def get(server: Server, path: str = "/", host: str | None = None) -> tuple[int, str]:
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    connection.request("GET", path, headers={"Host": host or place.netloc})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_of_a_run_that_goes_on(served: tuple[Path, Server], tmp_path: Path) -> None:
    folder, server = served
    code, waiting = get(server)
    assert code == 503 and "holds no recipe.yaml" in waiting and 'http-equiv="refresh"' in waiting
    shutil.copytree(write_run(tmp_path / "made", steps=5, evaluations=()), folder, dirs_exist_ok=True)
    code, page = get(server)
    assert code == 200 and "5 of 20 steps, not finished" in page
    assert '<html lang="en" data-live="5">' in page and "connect-src 'self'" in page
    assert get(server)[1] == page
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step_row(6, ["web", "code"])) + "\n")
    server.page._not_before = 0.0
    code, news = get(server, "/news")
    assert code == 200 and "6 of 20 steps, not finished" in news
    assert len(news) < len(plotly_script()) < len(page)


def test_it_is_for_this_machine_alone(served: tuple[Path, Server]) -> None:
    _, server = served
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, host="elsewhere.example")[0] == 403 and get(server, host="localhost:1234")[0] == 503
    assert get(server, "/recipe.yaml")[0] == 404


def test_mistakes_of_following(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["report", "--follow", "--port", str(port), str(tmp_path)]) == 2
    assert f"--port {port}: Address already in use; choose another one" in capsys.readouterr().err
    assert main(["report", "--follow", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main(["report", "--follow", "-o", "page.html", str(tmp_path)]) == 2
    assert "-o: --follow writes no file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--follow", "--port", "99999", str(tmp_path)])
    assert "expected a port from 0 to 65535, found '99999'" in capsys.readouterr().err


def test_ctrl_c_ends_it_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    assert main(["report", "--follow", "--port", "0", str(tmp_path)]) == 0
    assert "report: http://127.0.0.1:" in capsys.readouterr().out
