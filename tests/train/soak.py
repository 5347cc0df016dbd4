"""Kill a run at random, again and again, and let it go on, each time on another layout; then hold it to its plan.

PYTHONPATH=.:tests python tests/train/soak.py MINUTES [SEED]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workshop import make_workshop

from launch.cli import main
from train.checkpoints.names import newest_checkpoint, steps_of

from metric_rows import step_rows
from processes import Prepare, brickyard, die_while_saving, finish, start

INTERVAL = 2  # steps between two saves
SAVE_POINTS = ("sync", "publish", "point_to")  # functions of train/checkpoints/writing.py
RECIPE = (
    "wandb.mode=disabled",
    "audit=true",
    "scheduler.name=constant",
    f"save_interval={INTERVAL}ba",
    "eval_interval=100000ba",
    "model.ffn_config.moe_loss_scope=global_batch",
)
WITHOUT_CHANCE = ("model.resid_pdrop=0", "model.ffn_config.moe_jitter_eps=0")  # which each rank draws for itself
Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """How one start of the run is laid out."""

    ranks: int = 1
    replicate: int = 1
    ep: int = 1
    microbatch: int = 2
    workers: int = 0

    @property
    def overrides(self) -> list[str]:
        return [
            f"parallel.data_parallel_replicate={self.replicate}",
            f"parallel.expert_parallel={self.ep}",
            f"device_train_microbatch_size={self.microbatch}",
            f"dataset.num_workers={self.workers}",
        ]


WAYS = [
    Way(ranks, replicate, ep, microbatch, workers)
    for ranks, replicate, ep in ((1, 1, 1), (2, 1, 1), (2, 1, 2), (2, 2, 1), (4, 1, 2), (4, 2, 2), (4, 1, 4))
    for microbatch in (1, 2)
    for workers in (0, 1, 2)
]


@dataclass
class Soak:
    """A run of the recipe at `recipe` in `root`, and what is done to it."""

    workshop: SimpleNamespace
    name: str
    ways: Sequence[Way]
    options: Sequence[str]
    dice: random.Random
    say: Say = lambda line: None

    @property
    def run(self) -> Path:
        return self.workshop.root / "runs" / self.name

    @property
    def log(self) -> Path:
        return self.workshop.root / f"{self.name}.log"

    def command(self, way: Way, steps: int, name: str) -> list[str]:
        recipe = ["train", str(self.workshop.recipe), f"run_name={name}"]
        return [*recipe, f"max_duration={steps}ba", *RECIPE, *self.options, *way.overrides]

    def kill(self, number: int) -> None:
        """Start the run where it stands, on some layout, and end it at some moment."""
        way, moment = self.dice.choice(self.ways), self.dice.choice(["save", "step", "step", "time", "term"])
        done = saved_steps(self.run)
        prepare: Prepare | None = None
        point = ""
        if moment == "save":
            point = self.dice.choice(SAVE_POINTS)
            next_saves = [
                (done // INTERVAL + ahead) * INTERVAL for ahead in (1, 2, 3)
            ]  # a run asked to end saves others
            prepare = die_while_saving(self.dice.choice(next_saves), point)
        ranks = start(self.command(way, 100_000, self.name), self.log, ranks=way.ranks, before=prepare)
        everyone = moment == "time" or self.dice.random() < 0.5  # before they have met, ranks wait for one another
        victims = ranks if everyone else [self.dice.choice(ranks)]
        if moment in ("step", "term"):
            wait_for_step(self.run, done + 1, ranks)
            time.sleep(self.dice.uniform(0, 0.6))
        elif moment == "time":
            time.sleep(self.dice.uniform(0, 3))
        if moment != "save":
            for victim in victims:
                victim.terminate() if moment == "term" else victim.kill()
        codes = finish(ranks)
        assert all(code != 0 for code in codes), (codes, self.log.read_text()[-2000:])
        if moment == "term":
            assert codes == [143] * len(codes), (codes, self.log.read_text()[-2000:])
        self.say(
            f"kill {number}: {way}, {moment} {point}, {len(victims)} of {len(ranks)}: from step {done} "
            f"to {saved_steps(self.run)}, exit codes {codes}"
        )

    def end(self) -> list[dict[str, Any]]:
        """Let it come to an end; returns its rows. It has trained as planned, each step once."""
        steps = saved_steps(self.run) + 3
        rows = self.train(self.name, steps)
        assert [row["batch"] for row in rows] == list(range(1, steps + 1))
        assert main(["audit", str(self.run)]) == 0
        return rows

    def undisturbed(self, steps: int) -> list[dict[str, Any]]:
        """The rows of a run that nothing happens to."""
        return self.train(f"{self.name}-undisturbed", steps)

    def train(self, name: str, steps: int) -> list[dict[str, Any]]:
        """To the end, on the first of the layouts."""
        way = self.ways[0]
        assert brickyard(self.command(way, steps, name), self.log, ranks=way.ranks) == [0] * way.ranks
        return step_rows(self.run.with_name(name))


def saved_steps(run: Path) -> int:
    newest = newest_checkpoint(run / "checkpoints")
    return steps_of(newest) if newest else 0


def wait_for_step(run: Path, step: int, ranks: Sequence[BaseProcess]) -> None:
    """Until some step from this one on is in the file of the run as it goes on now."""
    file, begin = run / "metrics.jsonl", time.time()
    while all(rank.is_alive() for rank in ranks):
        if file.exists() and file.stat().st_mtime > begin and f'"batch": {step},' in file.read_text():
            return
        assert time.time() < begin + 240, "the run never came to the step"
        time.sleep(0.02)


def worst_differences(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[float, float]:
    """The largest relative differences of any loss: over the steps before a token goes to another expert than it did in
    the other run, and over all.

    Sums in another order differ by rounding alone, until that decides between two experts: what one of them learns, the
    other does not.
    """
    before = worst = 0.0
    routed_alike = True
    for row, other in zip(rows, others, strict=True):
        routed_alike &= row["moe/tokens_per_expert"] == other["moe/tokens_per_expert"]
        losses = {
            key: value
            for key, value in other.items()
            if key.startswith(("loss/", "domain/loss/")) and value is not None
        }
        worst = max(worst, *(abs(row[key] - value) / abs(value) for key, value in losses.items() if value))
        before = worst if routed_alike else before
    return before, worst


def soak(minutes: float, seed: int) -> None:
    """Kill a run for so many minutes, and hold it to account."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"soak: seed {seed}; preparing a small dataset", flush=True)
        workshop = make_workshop(Path(folder))
        options = [*WITHOUT_CHANCE]
        one = Soak(workshop, "soaked", WAYS, options, random.Random(seed), lambda line: print(line, flush=True))
        until, number = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < until:
            number += 1
            one.kill(number)
        rows = one.end()
        before, worst = worst_differences(rows, one.undisturbed(len(rows)))
        print(
            f"soak: {number} kills, {len(rows)} steps: as planned; losses within {before:.1e} of a run undisturbed "
            f"until a token goes to another expert, {worst:.1e} in all"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, metavar="MINUTES")
    parser.add_argument("seed", type=int, nargs="?", default=time.time_ns() % 2**32, metavar="SEED")
    options = parser.parse_args()
    soak(options.minutes, options.seed)
