"""A poisoned batch never reaches the weights: skipped, rolled back or stopped at, by whole runs, bit for bit."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from launch.cli import main
from train.callbacks.metrics_file import iterate_rows
from train.events import SAVED, START, Rollback, rollbacks_of
from train.run_directory import RunDirectory

from metric_rows import step_rows
from processes import Poison, WithoutUpdates, brickyard, die_while_saving
from wandb_records import of_kind, wandb_records

# What a step that is not learned says of itself; the reference drops it after all.
OF_UPDATES = ("skipped", "optimizer/update_norm", "optimizer/weight_norm")
BALANCING = ["model.ffn_config.moe_loss_scope=global_batch", "model.ffn_config.moe_bias_update_rate=0.001"]
SENSITIVE = ["on_spike.min_history=4", "on_spike.window=8", "on_spike.threshold=20"]
NAN = float("nan")


def train(workshop: SimpleNamespace, name: str, *overrides: str, **options: Any) -> tuple[list[int | None], str]:
    """Exit codes, and what was said."""
    log = workshop.root / f"{name}.log"
    command = ["train", str(workshop.recipe), f"run_name={name}", "wandb.mode=disabled", *BALANCING, *overrides]
    begin = len(log.read_text()) if log.exists() else 0
    codes = brickyard(command, log, **options)
    return codes, log.read_text()[begin:]


def run_of(workshop: SimpleNamespace, name: str) -> RunDirectory:
    return RunDirectory(workshop.root / "runs" / name)


def steps(run: RunDirectory) -> list[dict[str, Any]]:
    rows = step_rows(run.path)
    assert [row["batch"] for row in rows] == list(range(1, len(rows) + 1))
    return rows


def skipped(run: RunDirectory) -> list[int]:
    return [row["batch"] for row in steps(run) if row["skipped"]]


def events(run: RunDirectory) -> list[dict[str, Any]]:
    """What happened beside starts and saves."""
    return [row for row in iterate_rows(run.events) if row["event"] not in (START, SAVED)]


def checkpoints(run: RunDirectory) -> set[str]:
    return {path.name for path in run.checkpoints.glob("ba*")}


def tensors(run: RunDirectory) -> dict[str, torch.Tensor]:
    """All that the run's last checkpoint holds."""
    checkpoint = run.checkpoints / "ba00000012"
    known = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(found, checkpoint_id=checkpoint)
    assert any(name.endswith("exp_avg") for name in found) and any(name.endswith("expert_bias") for name in found)
    return found


def assert_same_end(run: RunDirectory, reference: RunDirectory, left_out: list[int]) -> None:
    """The same weights, moments and counts of steps; the same rows, but for those of the steps that are not learned."""
    ours, theirs = tensors(run), tensors(reference)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    differ = []
    for one, other in zip(steps(run), steps(reference), strict=True):
        keys = [key for key in other if not (one["skipped"] and key.startswith(OF_UPDATES))]
        if any(one[key] != other[key] for key in keys):
            differ.append(one["batch"])
    assert set(differ) <= set(left_out)


def test_a_skipped_batch_is_one_that_was_never_learned(workshop: SimpleNamespace) -> None:
    """The loss of one sample in step 6 is 50 times as large."""
    run, reference = run_of(workshop, "skipping"), run_of(workshop, "never-learned")
    codes, said = train(
        workshop,
        "skipping",
        *SENSITIVE,
        "on_spike.action=skip_batch",
        "wandb.mode=offline",
        before=Poison(43, 44, 50),
        ranks=2,
    )
    assert codes == [0, 0]
    assert "train: step 6: the loss is " in said and "its update is dropped" in said
    assert train(workshop, "never-learned", before=WithoutUpdates([6]), ranks=2)[0] == [0, 0]
    assert skipped(run) == [6] and skipped(reference) == []
    assert_same_end(run, reference, [6])
    [event] = events(run)
    assert (event["event"], event["step"], event["first"], event["end"]) == ("skip_batch", 6, 40, 48)
    assert event["loss"] == steps(run)[5]["loss/cross_entropy"] > event["most"] > event["expected"]
    [records] = wandb_records(run.path)
    [alert] = of_kind(records, "alert")
    assert alert["title"] == "Loss spike" and alert["text"] in said


def test_a_rollback_passes_over_its_window_and_a_kill_changes_nothing(
    workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 7 is poisoned; 6 to 10 are passed over, from the checkpoint of step 4 on. Killed while step 12 is saved, the
    run goes on from step 8, in the middle of the window. An audit finds what was planned."""
    run, reference = run_of(workshop, "rolled-back"), run_of(workshop, "passed-over")
    options = ["on_spike.non_finite=rollback", "on_spike.skip_before=1", "on_spike.skip_after=3", "audit=true"]
    poison = Poison(51, 52, NAN, then=die_while_saving(12))
    codes, said = train(workshop, "rolled-back", *options, before=poison, ranks=2)
    assert -signal.SIGKILL in codes
    assert "train: step 7: the loss is nan" in said and "back to step 4, without samples 40 to 79" in said
    assert checkpoints(run) == {"ba00000004", "ba00000008"}
    assert train(workshop, "rolled-back", *options, before=Poison(51, 52, NAN), ranks=2)[0] == [0, 0]
    assert train(workshop, "passed-over", before=WithoutUpdates(range(6, 11)), ranks=2)[0] == [0, 0]
    assert skipped(run) == [6, 7, 8, 9, 10]
    assert_same_end(run, reference, [7])
    assert rollbacks_of(run) == (Rollback(7, 4, 40, 80),)
    assert main(["audit", str(run.path)]) == 0
    assert "5 steps of them without an update" in capsys.readouterr().out


def test_a_rollback_passes_over_a_checkpoint_that_is_damaged(workshop: SimpleNamespace) -> None:
    """Step 9 is poisoned and step 5 the first to be passed over, but what was saved after step 4 is damaged."""
    run = run_of(workshop, "damaged")
    options = ["save_interval=2ba", "checkpoints.keep_last=9", "on_spike.non_finite=rollback", "on_spike.skip_before=4"]
    options.append("on_spike.skip_after=0")
    assert train(workshop, "damaged", "max_duration=8ba", *options)[0] == [0]
    [tensors] = (run.checkpoints / "ba00000004").glob("*.distcp")
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    codes, said = train(workshop, "damaged", *options, before=Poison(67, 68, NAN))
    assert codes == [0], said
    assert "its checksum differs); ba00000004 is set aside" in said and "step 9: the loss is nan" in said
    assert "back to step 2, without samples 32 to 71" in said
    assert skipped(run) == [5, 6, 7, 8, 9]


def test_where_it_stops_it_says_why_and_keeps_what_is_good(workshop: SimpleNamespace) -> None:
    """Everything is poisoned from step 6 on."""
    run, poison = run_of(workshop, "stopping"), Poison(40, 1000, NAN)
    for _ in range(2):  # the same command comes to the same batch
        codes, said = train(workshop, "stopping", before=poison)
        assert codes == [1]
        assert "Traceback" not in said
        [line] = [line for line in said.splitlines() if line.startswith("brickyard train: ")]
        assert line.startswith("brickyard train: step 6: the loss is nan; it moved most in ")
        assert "step 5 is the last of" in line and "plan RECIPE --samples 40:48" in line
        assert "on_spike.non_finite: skip_batch, or rollback" in line
        assert checkpoints(run) == {"ba00000004", "ba00000005"}
    codes, said = train(
        workshop, "stopping", "on_spike.non_finite=skip_batch", "on_spike.max_in_a_row=2", before=poison
    )
    assert codes == [1]
    assert "from token 1,280 on: on_spike.non_finite: 'stop' -> 'skip_batch'" in said
    assert "step 8: the loss is nan; it moved most in" in said and "the 2 steps before it stood out as well" in said
    assert skipped(run) == [6, 7]
    kinds = [event["event"] for event in events(run)]
    assert kinds == ["stop", "stop", "recipe changed", "skip_batch", "skip_batch", "stop"]
    assert train(workshop, "stopping", "on_spike.non_finite=skip_batch")[0] == [0]


def test_going_back_has_an_end_and_a_beginning(workshop: SimpleNamespace) -> None:
    """Before the first checkpoint there is nothing to go back to; and to one, a run goes back only so often."""
    options = ["on_spike.non_finite=rollback", "on_spike.max_in_a_row=2"]
    options += ["on_spike.skip_before=0", "on_spike.skip_after=0"]
    poison = Poison(16, 17, NAN, then=Poison(40, 1000, NAN))
    codes, said = train(workshop, "going-back", *options, "dataset.num_workers=1", before=poison)
    run = run_of(workshop, "going-back")
    assert codes == [1]
    assert "step 3: the loss is nan" in said and said.count("its update is dropped") == 1
    assert [(r.step, r.back_to) for r in rollbacks_of(run)] == [(6, 4), (7, 4)]
    assert "step 8: " in said and "the run went back to step 4 too often" in said
    assert skipped(run) == [3, 6, 7]


def test_steps_that_are_skipped_before_the_first_update(workshop: SimpleNamespace) -> None:
    """An optimizer that has made no update has no state. Where everything is poisoned, nothing is saved that could not
    be gone on from; where the first step alone is, its checkpoint counts no update."""
    options = ["on_spike.non_finite=skip_batch", "on_spike.max_in_a_row=2", "save_interval=8ba"]
    run = run_of(workshop, "never-good")
    for _ in range(2):
        codes, said = train(workshop, "never-good", *options, before=Poison(0, 1000, NAN))
        assert codes == [1] and "step 3: the loss is nan" in said
        assert checkpoints(run) == set()
    poison = Poison(3, 4, NAN)
    assert train(workshop, "saved-at-once", *options, "save_interval=1ba", before=poison)[0] == [0]
    assert train(workshop, "saved-late", *options, before=poison)[0] == [0]
    assert_same_end(run_of(workshop, "saved-at-once"), run_of(workshop, "saved-late"), [])
    assert {float(tensor) for name, tensor in tensors(run_of(workshop, "saved-late")).items() if ".step" in name} == {
        11
    }
