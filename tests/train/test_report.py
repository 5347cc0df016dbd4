"""The report's page, made from run directories that are written here: no training, no torch."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.manifest import DomainRecord, Manifest, ShardRecord, SplitRecord, TokenizerRecord
from data.page.figure import DOMAIN_COLOURS
from data.words import duration, short
from launch.cli import main
from train.errors import RecipeError
from train.report import write_report
from train.report.reader import read_metrics, read_run_record
from train.report.series import LINE_POINTS, extremes, means, smoothed, thinned

STEP_TOKENS, MAX_SEQ_LEN, ROWS = 1000, 10, 400
UNIGRAM = {"web": 7.0, "code": 6.5}
SECONDS = {
    "data": 0.1, "forward": 0.1, "backward": 0.2, "all_to_all": 0.0, "optimizer": 0.05, "checkpoint": 0.0, "rest": 0.05,
}  # fmt: skip


def split(samples: int) -> SplitRecord:
    return SplitRecord(1, samples * MAX_SEQ_LEN, 0, samples, [ShardRecord("0.mds", samples, 1, {"sha1": "0"})])


def write_run(
    folder: Path,
    steps: int = 20,
    planned: int = 20,
    unigram: dict[str, float | None] | None = None,
    evaluations: tuple[int, ...] = (10, 20),
    **changes: Any,
) -> Path:
    """A run directory as train/ writes it; `changes` replace keys of every step's row."""
    unigram = dict(UNIGRAM) if unigram is None else unigram
    folder.mkdir(parents=True)
    domains = {
        name: DomainRecord(1, {}, 0, 1, [], {}, {"train": split(ROWS), "heldout": split(4)}, loss)
        for name, loss in unigram.items()
    }
    Manifest(MAX_SEQ_LEN, "uint16", 1, 0.1, TokenizerRecord("bpe", 8192, 0, "f", "tokenizer"), domains, "r", {}).write(
        folder
    )
    totals = {"rows": ROWS, "samples": 1, "tokens": 9876543, "share": 0.5, "epochs": 12.5}
    plan = {
        "run_name": folder.name,
        "dataset": "dataset-fingerprint",
        "plan": "plan-fingerprint",
        "steps": planned,
        "tokens": planned * STEP_TOKENS,
        "tokens_per_step": STEP_TOKENS,
        "parameters": 131_596_523_520,
        "active_parameters": 36_514_775_040,
        "domains": dict.fromkeys(unigram, totals),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "recipe.yaml").write_text(
        "run_name: <script>alert(1)</script>\neval_interval: 77ba\nmodel:\n  n_layers: 2\n"
    )
    rows: list[dict[str, Any]] = []
    for batch in range(1, steps + 1):
        rows.append(step_row(batch, list(unigram)) | changes)
        if batch in evaluations:
            rows.append({"batch": batch, "tokens": batch * STEP_TOKENS, **routing(len(unigram), batch)})
            rows.append({"batch": batch, "tokens": batch * STEP_TOKENS, **heldout(batch, unigram)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def step_row(batch: int, domains: list[str]) -> dict[str, Any]:
    share = 1 / len(domains)
    return {
        "batch": batch,
        "samples": batch * 100,
        "tokens": batch * STEP_TOKENS,
        "loss/total": 9.01 - batch / 1e4,
        "loss/cross_entropy": 9.0 - batch / 1e4,
        "loss/load_balancing": 0.01,
        **{f"domain/loss/{name}": 8.0 + number if batch % 2 else None for number, name in enumerate(domains)},
        **{f"mixture/asked/{name}": share for name in domains},
        **{f"mixture/delivered/{name}": share for name in domains},
        **{f"mixture/tokens/{name}": batch * STEP_TOKENS * share for name in domains},
        **{f"mixture/epochs/{name}": batch * STEP_TOKENS * share / (ROWS * MAX_SEQ_LEN) for name in domains},
        "moe/max_violation": 0.5,
        "moe/router_entropy": 0.6,
        "moe/router_z": 1.5,
        "moe/dead_experts": 0,
        "moe/dropped_tokens": 0,
        "moe/tokens_per_expert": [[100, 300], [200, 200]],
        "optimizer/lr": 1e-3,
        "optimizer/gradient_norm": 1.0,
        "throughput/tokens_per_second": 2000.0,
        "throughput/seconds": 0.5,
        **{f"throughput/seconds/{part}": seconds for part, seconds in SECONDS.items()},
    }


def routing(domains: int, batch: int) -> dict[str, Any]:
    """Two layers of two experts: the first knows no domains, the second gives expert 1 three quarters of the last."""
    even, odd = [20 * batch, 20 * batch], [10 * batch, 30 * batch]
    return {"moe/routing_steps": 10, "moe/routing": [[even] * domains, [even] * (domains - 1) + [odd]]}


def heldout(batch: int, unigram: dict[str, float | None]) -> dict[str, float]:
    """Only domains with a unigram loss have held-out text."""
    losses = {f"eval/domain/loss/{name}": 6.0 - batch / 100 for name, loss in unigram.items() if loss is not None}
    return {"eval/loss/cross_entropy": 6.0 - batch / 100, **losses}


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, *folders: Path) -> None:
        super().__init__()
        self.html = write_report(folders).read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(self.html)
        embedded = re.search(r'<script type="application/json" id="figures">(.*?)</script>', self.html, re.S)
        assert embedded
        self.figures: dict[str, Any] = json.loads(embedded[1])

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] in ("script", "style"):
            return
        self.texts.append(data)
        if {"td", "th"} & set(self._inside):
            self.rows[-1].append(data)


def lines_of(figure: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace.get("name") == name]


def test_the_page_says_the_runs_numbers(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo"))
    assert ["web", "5.800", "7.000", "−1.200"] in page.rows
    assert ["code", "5.800", "6.500", "−0.700"] in page.rows
    assert ["web", "10,000", "10,000", "2.500"] in page.rows  # an epoch is 400 samples of 10 tokens
    for said in (
        "20 of 20 steps, finished",
        "0.950 nats below unigram",
        "Held-out loss went from 5.900 to 5.800",
        "132B",
        "36.5B active",
        "dataset-fingerprint",
        "20.0% of all step time went into waiting",
        "between 0.50 and 1.50 of an equal share",
    ):
        assert said in page.text
    assert "eval_interval: 77ba" in page.text


def test_the_plots_hold_the_runs_numbers(tmp_path: Path) -> None:
    figures = Page(write_run(tmp_path / "demo")).figures
    assert list(figures) == [
        "heldout-loss", "training-loss", "domain-loss", "mixture", "domain-tokens", "domain-epochs", "expert-load",
        "max-violation", "router-entropy", "router-z", "routing", "throughput", "step-parts",
    ]  # fmt: skip
    assert lines_of(figures["heldout-loss"], "web")[0]["y"] == [5.9, 5.8]
    dashed = lines_of(figures["heldout-loss"], "web, unigram")[0]
    assert (dashed["y"], dashed["x"], dashed["line"]["dash"]) == ([7.0, 7.0], [0, 20000], "dash")
    assert figures["expert-load"]["data"][0]["z"] == [[0.5, 1.5], [1, 1]]
    assert lines_of(figures["mixture"], "web, asked")[0]["y"] == [50] * 20
    assert len(lines_of(figures["domain-loss"], "web")[0]["x"]) == 10  # every second step drew none
    for figure in figures.values():
        assert figure["xaxis"]["title"]["text"]
        assert figure["yaxis"]["title"]["text"] or figure["yaxis"]["type"] == "category"


def test_tokens_and_epochs_so_far(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", steps=4, evaluations=()))
    assert lines_of(page.figures["domain-tokens"], "web")[0]["y"] == [0, 500, 1000, 1500, 2000]
    assert lines_of(page.figures["domain-epochs"], "code")[0]["y"] == [0, 0.125, 0.25, 0.375, 0.5]
    assert "No text came twice; the model has seen 50.0% of web, the most of any." in page.text
    again = Page(write_run(tmp_path / "again", steps=20))
    assert "Text came again of web and code; of web the most, 2.50 epochs so far." in again.text


def test_routing_by_domain(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo"))
    figure = page.figures["routing"]
    assert [trace["z"] for trace in figure["data"]] == [[[1, 1], [1, 1]], [[1, 1], [0.5, 1.5]]]
    assert figure["data"][1]["y"] == ["web", "code"] and figure["chosen"] == 1
    assert "Over 10 steps up to the newest evaluation, layer 1 told the domains apart the most" in page.text
    # Of 80 choices 30 and 50 fall on the experts: 5 of web's 40 and 5 of code's 40 are elsewhere.
    assert "of a domain's tokens, 12.5% went to other experts" in page.text
    assert "expert 1 of layer 1 was given 1.5 times an equal share of code" in page.text
    options = re.findall("<option( selected)?>(.*?)</option>", page.html)
    assert options == [("", "layer 0 (0.0%)"), (" selected", "layer 1 (12.5%)")]
    early = Page(write_run(tmp_path / "early", steps=5, evaluations=()))
    assert "Not known yet: it is written at each evaluation" in early.text and "routing" not in early.figures


def test_layers_are_numbered_as_in_the_model(tmp_path: Path) -> None:
    """Where the first three of five are dense, those with experts are layers 3 and 4."""
    folder = write_run(tmp_path / "demo")
    (folder / "recipe.yaml").write_text("model: {n_layers: 5, ffn_config: {first_k_dense_replace: 3}}\n")
    page = Page(folder)
    assert page.figures["expert-load"]["data"][0]["y"] == [3, 4]
    assert "for expert 1 of layer 3." in page.html
    assert "layer 4 told the domains apart the most" in page.text and "expert 1 of layer 4 was given" in page.text
    assert re.findall("<option.*?>(.*?)</option>", page.html) == ["layer 3 (0.0%)", "layer 4 (12.5%)"]
    assert page.figures["routing"]["chosen"] == 1
    assert "5 layers, d_model ?, ? experts, top ?, 3 dense layers first" in page.text


def test_a_domain_that_came_later_and_one_without_tokens(tmp_path: Path) -> None:
    """Rows that were written before a curriculum changed know fewer domains."""
    folder = write_run(tmp_path / "demo", steps=20, unigram={"web": 7.0, "code": 6.5, "math": 6.0}, evaluations=())
    row = {"batch": 20, "tokens": 20_000, "moe/routing_steps": 20, "moe/routing": [[[4, 0], [0, 0]]]}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    trace = Page(folder).figures["routing"]["data"][0]
    assert (trace["y"], trace["z"]) == (["web", "code"], [[2, 0], [None, None]])


def test_a_global_batch_that_changed(tmp_path: Path) -> None:
    """Steps are counted as they came; what is left is counted in steps of today's size."""
    folder = write_run(tmp_path / "demo", steps=5, planned=20, evaluations=())
    plan = json.loads((folder / "plan.json").read_text())
    for tokens, said in ((20_000, "5 of 35 steps, not finished"), (5_000, "5 of 5 steps, finished")):
        (folder / "plan.json").write_text(json.dumps(plan | {"tokens": tokens, "tokens_per_step": 500, "steps": 40}))
        assert said in Page(folder).text
        assert read_run_record(folder).step_tokens.tolist() == [STEP_TOKENS] * 5


def test_a_domain_has_one_colour(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo"))
    for name, colour in zip(UNIGRAM, DOMAIN_COLOURS, strict=False):
        traces = [t for f in page.figures.values() for t in f["data"] if str(t.get("name")).split(",")[0] == name]
        assert len(traces) == 8
        assert {trace["line"]["color"] for trace in traces} == {colour}
        assert page.html.count(f'style="background:{colour}"></span>{name}') == 3  # the button and two tables


def test_it_loads_nothing(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo"))
    loads = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert loads and all(value and value.startswith(("#", "data:")) for value in loads)
    assert "url(" not in Path(__file__, "../../../data/page/page.css").resolve().read_text()
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and str(policy[0]).startswith("default-src 'none';")


def test_every_plot_and_table_has_words(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo"))
    plots = [attributes for _, attributes in page.tags if "data-figure" in attributes]
    assert {plot["data-figure"] for plot in plots} == set(page.figures)
    assert all(plot["role"] == "img" and plot["aria-label"] and plot["tabindex"] == "0" for plot in plots)
    names = [tag for tag, _ in page.tags]
    assert names.count("caption") == names.count("table") == 3


def test_text_from_the_run_is_escaped(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", unigram={"a<b>&": 7.0, "</script>": 6.0}))
    assert "<script>alert(1)" not in page.html
    assert "alert(1)" in page.text
    assert ["a<b>&", "5.800", "7.000", "−1.200"] in page.rows


def test_an_unfinished_run_shows_its_progress(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", steps=5, planned=20, evaluations=()))
    assert "5 of 20 steps, not finished; 7.5 s of training left" in page.text  # 15,000 tokens at 2,000 a second
    assert [a["value"] for t, a in page.tags if t == "progress"] == ["0.2500"]
    assert ["web", "2,500", "2,500", "0.625", "9,876,543", "12.500"] in page.rows


def test_without_evaluations(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", evaluations=()))
    assert "heldout-loss" not in page.figures
    assert "Nothing has been evaluated on held-out text yet (eval_interval: 77ba)" in page.text


def test_one_step_of_one_domain(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", steps=1, unigram={"web": 7.0}, evaluations=(1,)))
    assert "Held-out loss is 5.990 nats per token (mean of 1 domain, 1 evaluation)" in page.text
    assert "Training loss is 9.000" in page.text
    assert page.figures["training-loss"]["data"][-1]["mode"] == "markers"


def test_a_domain_that_holds_nothing_out(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", unigram={"web": 7.0, "code": None}))
    assert ["code", "–", "–", "–"] in page.rows
    assert "mean of 1 domain" in page.text
    assert not lines_of(page.figures["heldout-loss"], "code")


def test_a_domain_that_was_never_drawn(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", **{"domain/loss/code": None}))
    assert "Not drawn so far: code." in page.text


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """JSON for a browser has neither NaN nor Infinity."""
    page = Page(
        write_run(tmp_path / "demo", **{"loss/cross_entropy": float("nan"), "throughput/seconds": float("inf")})
    )
    assert page.figures["training-loss"]["data"][-1]["x"] == []


def test_metrics_without_expert_load(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", **{"moe/tokens_per_expert": None}))
    assert "The run's metrics hold no expert load." in page.text


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"batch": 21, "tok')
    assert len(read_metrics(folder / "metrics.jsonl").steps) == 20


def test_a_long_run_of_many_domains_stays_small(tmp_path: Path) -> None:
    """Data of 20 domains in 40 layers; 5,000 steps are thinned like 100,000."""
    folder = write_run(tmp_path / "demo", 5000, 5000, {f"domain{n}": 7.0 for n in range(20)}, (2500, 5000))
    counts = np.random.default_rng(1).integers(0, 1000, (40, 20, 16)).tolist()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"batch": 5000, "moe/routing_steps": 2500, "moe/routing": counts}) + "\n")
    page = Page(folder)
    traces = [trace for figure in page.figures.values() for trace in figure["data"] if trace["type"] == "scatter"]
    assert max(len(trace["x"]) for trace in traces) <= LINE_POINTS
    assert len(json.dumps(page.figures)) < 2_500_000
    assert "thinned from 5,000 steps to 1,000 points" in page.text
    assert "the lowest and the highest of about 10 steps" in page.text
    assert [a["data-domain"] for _, a in page.tags if "data-domain" in a] == [str(n) for n in range(20)]


def test_it_replaces_the_page_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo")
    (folder / "report.html").write_text("old")
    assert "old" not in write_report([folder]).read_text()[:10]
    assert not list(folder.glob(".report*"))


@pytest.mark.parametrize("missing", ["recipe.yaml", "plan.json", "metrics.jsonl"])
def test_folders_that_are_no_run(tmp_path: Path, missing: str) -> None:
    folder = write_run(tmp_path / "demo")
    (folder / missing).unlink()
    with pytest.raises(RecipeError, match=rf"demo holds no {missing}"):
        write_report([folder])
    assert not (folder / "report.html").exists()


def test_mistakes_end_with_2_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    folder = write_run(tmp_path / "demo", steps=0)
    assert main(["report", str(folder)]) == 2
    assert "holds no step yet" in capsys.readouterr().err
    shutil.copy(folder / "plan.json", folder / "manifest.json")
    assert main(["report", str(write_run(tmp_path / "good"))]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path}/good/report.html\n"


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, launch.report; print({'torch', 'composer', 'streaming'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_smoothing_neither_shifts_a_line_nor_counts_what_is_missing() -> None:
    line = np.arange(600, dtype=float)
    assert np.allclose(smoothed(line)[:590], line[:590])
    gaps = np.where(np.arange(600) % 3, np.nan, 5.0)
    assert np.nanmin(smoothed(gaps)) == np.nanmax(smoothed(gaps)) == 5.0


def test_thinning_keeps_spikes_and_ends() -> None:
    x, y = np.arange(100_000.0), np.zeros(100_000)
    y[54_321] = 9.0
    rough_x, rough_y = extremes(x, y)
    assert len(rough_x) <= LINE_POINTS and rough_y.max() == 9.0 and rough_x[rough_y.argmax()] == 54_321
    smooth_x, _ = thinned(x, y)
    assert len(smooth_x) == LINE_POINTS and (smooth_x[0], smooth_x[-1]) == (0, 99_999)
    assert means(x, x)[0] == pytest.approx(means(x, x)[1])


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("page", ["#ffffff", "#14171c"])
def test_colours_stand_out_from_both_pages(page: str) -> None:
    css = Path(__file__, "../../../data/page/page.css").resolve().read_text()
    assert f"--page: {page}" in css
    for colour in DOMAIN_COLOURS:
        low, high = sorted([luminance(colour), luminance(page)])
        assert (high + 0.05) / (low + 0.05) >= 3, colour
    assert len(set(DOMAIN_COLOURS)) == 20


def test_words() -> None:
    assert [short(n) for n in (7, 4096, 999_700, 1.5e9, 12e12)] == ["7", "4.1K", "1M", "1.5B", "12T"]
    assert [duration(s) for s in (0.42, 59, 600, 3700, 200_000)] == ["0.4 s", "59 s", "10 min", "1 h 2 min", "2 d 7 h"]
