"""Records of what the model was given, held against the plan: clean runs are clean, and every tampering is found."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from streaming import MDSWriter

from data.errors import DataError
from data.mixture.plan import Plan
from launch.cli import main
from train.audit import verify
from train.audit.records import FOLDER, RECORD, Part, Start, parts_in, token_hashes, write_part
from train.audit.run import RunPlan, read_run_plan
from train.audit.shards import shard_samples
from train.audit.starts import read_starts
from train.callbacks.metrics_file import iterate_rows
from train.run_directory import RunDirectory

from processes import brickyard, die_while_saving, finish, start

STEPS, SAMPLES = 20, 96
CHANGED = (
    "curriculum.anchors=[{at: 0tok, weights: {prose: 0.75, code: 0.25}}, "
    "{at: 1_024tok, weights: {prose: 0.4166666667, code: 0.5833333333}, ramp: linear}, "
    "{at: 2_048tok, weights: {prose: 0.9, code: 0.1}, ramp: cosine}]",
    "global_train_batch_size=4",
    "device_train_microbatch_size=2",
    "max_duration=96sp",
)


@pytest.fixture(scope="module")
def killed_run(workshop: SimpleNamespace) -> Path:
    """A run in three starts that saves every 4 steps: two ranks, killed between two saves; one rank with two workers,
    killed in the middle of a save; two ranks to the end, with another future and another global batch."""
    run, log = workshop.root / "runs" / "audited", workshop.root / "audited.log"
    command = ["train", str(workshop.recipe), "run_name=audited", "audit=true", "wandb.mode=disabled"]
    ranks = start(command, log, ranks=2)
    wait_for_step(run, 6)
    for rank in ranks:
        os.kill(rank.pid or 0, signal.SIGKILL)
    assert finish(ranks) == [-signal.SIGKILL] * 2
    assert brickyard([*command, "dataset.num_workers=2"], log, before=die_while_saving(8)) == [-signal.SIGKILL]
    assert brickyard([*command, *CHANGED], log, ranks=2) == [0, 0]
    return run


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(row["batch"] == step for row in iterate_rows(run / "metrics.jsonl")):
            return
        time.sleep(0.005)
    raise AssertionError("the run never came to the step")


@pytest.fixture
def run(killed_run: Path, tmp_path: Path) -> Path:
    """A copy of it to tamper with."""
    return Path(shutil.copytree(killed_run, tmp_path / "run", ignore=shutil.ignore_patterns("wandb")))


def verdict(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["audit", str(run), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def part_of(run: Path, start_number: int, rank: int) -> Path:
    folder = next((run / FOLDER).glob(f"start-{start_number:04d}-*"))
    return next(part.path for part in parts_in(folder) if part.rank == rank)


def change(path: Path, edit: Callable[[dict[str, list]], Any]) -> None:
    """Edit a file of records by hand; all that it says of itself stays."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    edit(columns)
    pq.write_table(pa.table(columns, table.schema), path)


def test_a_run_that_was_killed_and_moved_is_as_planned(
    killed_run: Path, workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = verdict(killed_run, capsys)
    assert code == 0 and said["holds"] and said["tokens_compared"]
    assert (said["steps"], said["samples"], said["ranks"]) == (STEPS, SAMPLES, [1, 2])
    keys = ("after_step", "counted_steps", "ranks", "global_train_batch_size")
    assert [tuple(start[key] for key in keys) for start in said["starts"]] == [
        (0, 4, 2, 8),
        (4, 0, 1, 8),
        (4, 16, 2, 4),
    ]
    assert said["superseded_records"] == 4 * 8  # steps 5 to 8, which the second start had trained
    plan = read_run_plan(RunDirectory(killed_run)).plan
    assert [said["domains"][name]["samples"] for name in plan.domains] == plan.delivered(SAMPLES).tolist()
    assert main(["audit", str(killed_run)]) == 0
    printed = capsys.readouterr().out
    assert "as planned" in printed and "3 starts on 1 and 2 ranks: nothing lost, nothing repeated" in printed


def test_metrics_say_what_the_audit_proves(killed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in iterate_rows(killed_run / "metrics.jsonl") if "loss/total" in row]
    assert [row["batch"] for row in rows] == list(range(1, STEPS + 1))
    for name, domain in verdict(killed_run, capsys)[1]["domains"].items():
        assert rows[-1][f"mixture/tokens/{name}"] == domain["samples"] * 32
        assert rows[-1][f"mixture/epochs/{name}"] == pytest.approx(domain["epochs"])


def test_routing_counts_every_step_once(killed_run: Path) -> None:
    rows = [row for row in iterate_rows(killed_run / "metrics.jsonl") if "moe/routing" in row]
    assert [(row["batch"], row["moe/routing_steps"]) for row in rows] == [(6, 6), (12, 6), (18, 6), (20, 2)]
    plan = read_run_plan(RunDirectory(killed_run)).plan
    delivered = [plan.delivered(samples) for samples in (0, 40, 64, 88, 96)]
    for row, samples in zip(rows, np.diff(delivered, axis=0), strict=True):
        assert (np.sum(row["moe/routing"], axis=2) == 2 * 32 * samples).all()  # two experts each, in both layers


def test_records_after_the_newest_checkpoint_do_not_count_yet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints" / "ba00000020")
    next((run / FOLDER).glob("start-0003-*/rank-00001-*-00000020.parquet")).unlink()  # killed before it was written
    code, said = verdict(run, capsys)
    assert (code, said["steps"], said["unfinished_records"]) == (0, 16, 8)


def test_a_missing_file_of_a_rank(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part_of(run, 3, 1).unlink()
    code, said = verdict(run, capsys)
    assert code == 1 and said["discrepancies"] == {"no file": 1, "lost": 8}
    first = said["first_discrepancies"][0]
    assert (first["where"], first["expected"]) == ("start 3, rank 1 of 2", "records of steps 5 to 8")
    assert said["samples"] == SAMPLES - 8


def test_a_missing_start(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(next((run / FOLDER).glob("start-0001-*")))
    code, said = verdict(run, capsys)
    assert code == 1
    assert said["first_discrepancies"][0]["expected"] == "records of steps 1 to 4"


def test_a_start_without_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that can be read tells what it was."""
    for path in (run / FOLDER).glob("start-0001-*/*"):
        path.unlink()
    code, said = verdict(run, capsys)
    assert code == 1 and said["first_discrepancies"][0]["expected"] == "records of steps 1 to 4"


@pytest.mark.parametrize("kept", [0, 7, 0.5, -1])
def test_a_truncated_file(run: Path, kept: float, capsys: pytest.CaptureFixture[str]) -> None:
    path = part_of(run, 3, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    code, said = verdict(run, capsys)
    assert code == 1 and said["discrepancies"] == {"bad file": 1, "lost": 8}
    assert "rank-00000-of-00002-steps-00000005-00000008.parquet" in said["first_discrepancies"][0]["where"]


def test_a_flipped_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = part_of(run, 3, 0)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    code, said = verdict(run, capsys)
    assert code == 1 and sum(said["discrepancies"].values())


def test_a_file_under_another_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, other = part_of(run, 3, 0), part_of(run, 3, 1)
    shutil.copy(mine, other)
    code, said = verdict(run, capsys)
    assert code == 1 and said["discrepancies"] == {"bad file": 1, "lost": 8}
    assert "says it is start-0003-after-00000004/rank-00000-of-00002" in said["first_discrepancies"][0]["found"]


@pytest.mark.parametrize(
    ("column", "value", "kinds"),
    [
        ("row", 7_000, {"out of place": 1}),
        ("epoch", 5, {"out of place": 1}),
        ("domain", "poetry", {"out of place": 1}),
        ("tokens", 1, {"other tokens": 1}),
        ("step", 6, {"out of place": 1}),
        ("step", 700, {"out of place": 1, "lost": 1}),
        ("sample", 33, {"repeated": 1, "out of place": 1, "lost": 1}),
        ("sample", 7000, {"out of place": 1, "lost": 1}),
    ],
)
def test_a_record_changed_by_hand(
    run: Path, column: str, value: Any, kinds: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(columns: dict[str, list]) -> None:
        assert columns["sample"][0] == 32
        columns[column][0] = value

    change(part_of(run, 3, 0), edit)
    code, said = verdict(run, capsys)
    assert (code, said["discrepancies"]) == (1, kinds)
    assert (verdict(run, capsys, "--no-tokens")[0] == 0) == (column == "tokens")
    assert main(["audit", str(run)]) == 1
    printed = capsys.readouterr().out
    assert "not as planned" in printed and "sample 32: " in printed


def test_a_record_taken_out_and_one_put_in(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(part_of(run, 3, 0), lambda columns: [column.pop(3) for column in columns.values()])
    change(part_of(run, 1, 1), lambda columns: [column.append(column[2]) for column in columns.values()])
    code, said = verdict(run, capsys)
    assert (code, said["discrepancies"]) == (1, {"repeated": 1, "lost": 1})
    assert said["samples"] == SAMPLES - 1


def test_two_samples_in_each_others_place(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each comes once, and both with their own tokens: only the order is wrong."""

    def swap(columns: dict[str, list]) -> None:
        columns["sample"][0], columns["sample"][1] = columns["sample"][1], columns["sample"][0]

    change(part_of(run, 3, 0), swap)
    code, said = verdict(run, capsys)
    assert (code, said["discrepancies"]) == (1, {"out of place": 2})


def test_a_recipe_changed_by_hand(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("  seed: 3\n", "  seed: 4\n"))
    assert main(["audit", str(run)]) == 2
    assert "its plan can't be worked out again" in capsys.readouterr().err


def test_what_can_not_be_audited(
    run: Path, workshop: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main(["audit", str(workshop.root)]) == 2
    assert "holds no manifest.json, so it is no run's folder" in capsys.readouterr().err
    moved = shutil.copytree(workshop.dataset, tmp_path / "moved")
    assert main(["audit", str(run), "--dataset", str(moved)]) == 0
    shard = next(moved.glob("code/train/*.mds"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["audit", str(run), "--dataset", str(moved)]) == 2
    assert f"shard {shard} has" in capsys.readouterr().err
    shutil.rmtree(run / FOLDER)
    assert main(["audit", str(run)]) == 2
    assert "holds no records in audit/; a run makes them that is trained with audit=true" in capsys.readouterr().err


def test_shards_that_lie_at_a_remote(
    run: Path, workshop: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(workshop.dataset / "manifest.json", cache)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["dataset"] |= {"path": str(cache), "remote": str(workshop.dataset)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert verdict(run, capsys)[1]["tokens_compared"] is True
    assert [path.name for path in cache.iterdir()] == ["manifest.json"]


def test_other_tokens_in_the_dataset(run: Path, workshop: SimpleNamespace, tmp_path: Path, capsys: Any) -> None:
    """Not a byte more or less, so only the tokens tell."""
    moved = shutil.copytree(workshop.dataset, tmp_path / "moved")
    for shard in moved.glob("*/train/*.mds"):
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    code, said = verdict(run, capsys, "--dataset", str(moved))
    assert code == (1 if said["discrepancies"] else 0)
    last_rows = {
        domain: set(np.cumsum([shard.samples for shard in record.splits["train"].shards]) - 1)
        for domain, record in read_run_plan(RunDirectory(run)).manifest.domains.items()
    }
    plan = read_run_plan(RunDirectory(run)).plan
    hit = [place for place in plan[0:SAMPLES] if int(place["row"]) in last_rows[plan.domains[place["domain"]]]]
    assert said["discrepancies"] == ({"other tokens": len(hit)} if hit else {})


# Layouts beyond what a test can train: records are written here as a run would.

LAYOUTS = {
    "one start": [(0, 40, 1, 8)],
    "ranks change": [(0, 10, 8, 8), (10, 25, 2, 8), (25, 33, 3, 9)],
    "batches change": [(0, 7, 4, 12), (7, 9, 1, 100), (9, 30, 8, 64)],
    "killed often": [(0, 9, 2, 8), (5, 5, 4, 8), (5, 14, 4, 8), (3, 9, 1, 16), (8, 20, 2, 4)],
}


def write_starts(folder: Path, run: Path, layout: list[tuple[int, int, int, int]]) -> RunPlan:
    """The records of starts (step it began after, last step, ranks, batch) under one curriculum."""
    planned = read_run_plan(RunDirectory(run))
    plan = planned.plan
    sample_at = {0: 0}
    for number, (begin, end, ranks, batch) in enumerate(layout, start=1):
        about = Start(number, begin, sample_at[begin], ranks, batch, plan.fingerprint)
        (folder / about.name).mkdir(parents=True)
        for step in range(begin + 1, end + 1):
            sample_at[step] = sample_at[begin] + (step - begin) * batch
        for first in range(begin + 1, end + 1, 4):  # a file for every four steps
            last = min(first + 3, end)
            for rank in range(ranks):
                steps = [rank_records(plan, about, step, rank) for step in range(first, last + 1)]
                write_part(folder, Part(about, rank, first, last), np.concatenate(steps), plan.domains)
    return replace(planned, samples=sample_at[layout[-1][1]], fingerprints={0: plan.fingerprint})


def rank_records(plan: Plan, about: Start, step: int, rank: int) -> NDArray[np.void]:
    share = about.batch // about.ranks
    first = about.sample + (step - about.step - 1) * about.batch + rank * share
    places = plan[first : first + share]
    records = np.zeros(share, RECORD)
    records["step"] = step
    for name in places.dtype.names:
        records[name] = places[name]
    return records


@pytest.mark.parametrize("chunk", [1, 50, 1 << 17])
@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_is_as_planned(
    killed_run: Path, tmp_path: Path, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "CHUNK", chunk)
    planned = write_starts(tmp_path, killed_run, LAYOUTS[name])
    told: list[int] = []
    said = verify.audit(planned, read_starts(tmp_path, LAYOUTS[name][-1][1]), None, told.append)
    assert said.findings.first == [] and said.holds
    assert [total.samples for total in said.domains.values()] == planned.plan.delivered(planned.samples).tolist()
    assert sum(told) == said.samples == planned.samples and said.steps == LAYOUTS[name][-1][1]


def test_fewer_samples_than_the_checkpoint(killed_run: Path, tmp_path: Path) -> None:
    """As after a global batch that the records know nothing of."""
    planned = replace(write_starts(tmp_path, killed_run, [(0, 10, 1, 8)]), samples=88)
    said = verify.audit(planned, read_starts(tmp_path, 10), None, lambda samples: None)
    assert said.findings.counts == {"other count": 1}


def test_a_start_from_the_wrong_sample(killed_run: Path, tmp_path: Path) -> None:
    planned = write_starts(tmp_path, killed_run, [(0, 10, 1, 8)])
    plan = planned.plan
    skipping = Start(2, 10, 88, 1, 8, plan.fingerprint)  # one step too far
    (tmp_path / skipping.name).mkdir()
    write_part(tmp_path, Part(skipping, 0, 11, 11), rank_records(plan, skipping, 11, 0), plan.domains)
    said = verify.audit(replace(planned, samples=88), read_starts(tmp_path, 11), None, lambda samples: None)
    assert said.findings.counts == {"out of place": 1 + 8, "lost": 8}
    assert said.findings.first[0][1].expected == "a start at sample 80"


def test_a_start_under_another_plan(killed_run: Path, tmp_path: Path) -> None:
    planned = write_starts(tmp_path, killed_run, [(0, 10, 1, 8)])
    plan = planned.plan
    other = Start(2, 10, 80, 1, 8, "0" * 64)
    (tmp_path / other.name).mkdir()
    write_part(tmp_path, Part(other, 0, 11, 11), rank_records(plan, other, 11, 0), plan.domains)
    said = verify.audit(replace(planned, samples=88), read_starts(tmp_path, 11), None, lambda samples: None)
    assert said.findings.counts == {"other plan": 1}


def test_hashes_do_not_change() -> None:
    """They lie in the records of runs: the same for ever, whatever the type of the tokens."""
    tokens = np.arange(16).reshape(2, 8)
    assert [f"{value:016x}" for value in token_hashes(tokens)] == GOLDEN
    assert (token_hashes(tokens.astype(np.uint16)) == token_hashes(np.asfortranarray(tokens))).all()


GOLDEN = ["185da3e01d77dfc0", "e1d51a7b8bc0e4ae"]


@pytest.mark.parametrize("compression", [None, "zstd:3"])
@pytest.mark.parametrize("offsets", [False, True])
def test_shards_are_read_as_streaming_writes_them(tmp_path: Path, compression: str | None, offsets: bool) -> None:
    samples = np.random.default_rng(1).integers(0, 60000, (50, 24)).astype(np.uint16)
    columns = {"tokens": "ndarray:uint16:24", **({"document_offsets": "ndarray:uint16"} if offsets else {})}
    with MDSWriter(out=str(tmp_path), columns=columns, compression=compression) as writer:
        for number, sample in enumerate(samples):
            writer.write({"tokens": sample, "document_offsets": np.arange(1 + number % 3, dtype=np.uint16)})
    (shard,) = tmp_path.glob("shard*")
    rows = np.array([3, 0, 49, 3])
    assert (shard_samples(shard, rows, "uint16", 24) == samples[rows]).all()
    for damaged in (b"", b"123", shard.read_bytes()[:60]):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged"):
            shard_samples(shard, rows, "uint16", 24)
