"""A run whose dataset grows goes on over it: its past stays, the new shards come at once."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

from data.manifest import INDEX, Manifest, folder_of
from train.callbacks.metrics_file import iterate_rows
from train.history import read_history
from train.run_directory import RunDirectory

from processes import brickyard

OPTIONS = ("wandb.mode=disabled", "audit=true", "eval_interval=100ba", "save_interval=3ba")


def without_last_shards(whole: Path, folder: Path, kept: int) -> None:
    """The dataset as it was when each domain had so many training shards."""
    shutil.copytree(whole, folder)
    manifest = Manifest.read(folder)
    domains = {}
    for domain, record in manifest.domains.items():
        train = record.splits["train"]
        path = folder / folder_of(domain, "train") / INDEX
        index = json.loads(path.read_text())
        path.write_text(json.dumps({**index, "shards": index["shards"][:kept]}))
        for shard in train.shards[kept:]:
            (path.parent / shard.file).unlink()
        samples = sum(shard.samples for shard in train.shards[:kept])
        less = dataclasses.replace(
            train, shards=train.shards[:kept], samples=samples, tokens=samples * manifest.max_seq_len, padding_tokens=0
        )
        domains[domain] = dataclasses.replace(record, splits={**record.splits, "train": less})
    dataclasses.replace(manifest, domains=domains).write(folder)


def test_a_run_goes_on_over_what_was_appended(workshop: SimpleNamespace, tmp_path: Path) -> None:
    dataset, run, log = tmp_path / "dataset", workshop.root / "runs" / "grown", tmp_path / "log"
    without_last_shards(workshop.dataset, dataset, kept=2)

    def train(steps: int, *more: str) -> list[int | None]:
        command = ["train", str(workshop.recipe), "run_name=grown", f"dataset.path={dataset}", *OPTIONS]
        return brickyard([*command, f"max_duration={steps}ba", *more], log)

    assert train(6) == [0]
    rows = list(iterate_rows(run / "metrics.jsonl"))
    shutil.rmtree(dataset)
    shutil.copytree(workshop.dataset, dataset)
    assert train(12) == [0]
    said = log.read_text()
    assert "from token 1,536 on: the dataset's code had 2 shards and now has " in said
    after = list(iterate_rows(run / "metrics.jsonl"))
    assert after[: len(rows)] == rows and after[-1]["batch"] == 12
    history = read_history(RunDirectory(run))
    assert history is not None and [followed.start for followed in history.followed] == [0, 48]
    assert history.followed[0].shards == {"prose": 2, "code": 2}
    assert train(15) == [0]  # nothing is new now
    assert "the dataset's code had" not in log.read_text().removeprefix(said)
    assert brickyard(["audit", str(run), "--dataset", str(dataset)], log) == [0]
    assert "the tokens are the dataset's own" in log.read_text()
    whole = Manifest.read(workshop.dataset)
    without_last_shards(workshop.dataset, tmp_path / "less", kept=1)
    assert train(18, f"dataset.path={tmp_path / 'less'}") == [2]
    assert f"dataset: 'prepared as {whole.fingerprint[:12]}'" in log.read_text()


def test_weights_that_follow_sizes_can_not_stay(workshop: SimpleNamespace, tmp_path: Path) -> None:
    anchor = "{at: 0tok, epochs: {code: 0.02}, weights: {prose: 1}}"
    dataset, log = tmp_path / "dataset", tmp_path / "log"
    without_last_shards(workshop.dataset, dataset, kept=2)
    command = ["train", str(workshop.recipe), "run_name=sized", f"dataset.path={dataset}", *OPTIONS, "max_duration=6ba"]
    command.append(f"curriculum.anchors=[{anchor}]")
    assert brickyard(command, log) == [0]
    shutil.rmtree(dataset)
    shutil.copytree(workshop.dataset, dataset)
    assert brickyard([*command, "max_duration=9ba"], log) == [2]
    assert "give the weights of the past as numbers (epochs, temperature and max_epochs" in log.read_text()
