"""The commands that people type: brickyard prepare | plan | train | audit | report."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from train.errors import RecipeError, Stopped

MISTAKE, INTERRUPTED = 2, 130

ABOUT = """\
Pretrain DBRX-class mixture-of-experts models on a curriculum of data.

  brickyard prepare yamls/demo/data.yaml        text -> tokens: an MDS dataset with a manifest
  brickyard plan    yamls/demo/pretrain.yaml    what a run will read, before it is paid for
  brickyard train   yamls/demo/pretrain.yaml    train, or go on from the newest checkpoint
  brickyard launch local -n 2 yamls/demo/pretrain.yaml   the same on two ranks of this machine
  brickyard audit   runs/demo                   was the model given what the plan says?
  brickyard report  runs/demo                   a page about the run: loss, mixture, experts, speed
"""

OVERRIDES = """\
Any key of the recipe can be set after it:
  brickyard {command} {recipe} {example}
Exit codes: 0 done, 2 your mistake (one sentence on stderr says what and where), 1 ours.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parse(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()  # here, where a closed pipe is no fault
        return code
    except (RecipeError, DataError) as error:
        if os.environ.get("RANK", "0") == "0":  # every rank finds the same mistake; one says it
            print(f"brickyard {options.command}: {error}", file=sys.stderr)
        return MISTAKE
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"brickyard {options.command}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print(f"brickyard {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `brickyard plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse itself does not take overrides after an option (`plan RECIPE --json seed=3`), and takes any word for
    that of an option which may have one (`plan --html RECIPE`).
    """
    parser = build_parser()
    words = sys.argv[1:] if arguments is None else [*arguments]
    for place, (word, following) in enumerate(itertools.pairwise([*words, ""])):
        if word == "--html" and not following.endswith(".html"):
            words[place] = "--html="
    options, rest = parser.parse_known_args(words)
    if rest and (any(word.startswith("-") for word in rest) or not hasattr(options, "overrides")):
        parser.error(f"{options.command}: not understood: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="brickyard", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    prepare = add_command(commands, "prepare", "turn raw text into a tokenized MDS dataset", "yamls/demo/data.yaml")
    prepare.set_defaults(run=run_prepare)

    plan = add_command(commands, "plan", "say what a run will read, without running it", "yamls/demo/pretrain.yaml")
    plan.add_argument("--json", action="store_true", help="print JSON; with --samples, a line for each")
    plan.add_argument(
        "--samples",
        metavar="A:B",
        help="list domain, epoch and row of samples A to B - 1; 0:20, 1.5M:1_500_020, and 10ba:11ba (step 11) are read",
    )
    plan.add_argument(
        "--html",
        metavar="FILE",
        nargs="?",
        const="",
        help="write the plan as one self-contained page: FILE.html, or else RUN_ROOT/RUN_NAME/plan.html",
    )
    plan.set_defaults(run=run_plan)

    train = add_command(commands, "train", "train, or go on from the newest checkpoint", "yamls/demo/pretrain.yaml")
    train.set_defaults(run=run_train)

    launch = commands.add_parser(
        "launch",
        help="train on many ranks",
        description="Train a recipe on many ranks, and watch them until all have ended.",
    )
    places = launch.add_subparsers(dest="place", required=True, metavar="WHERE")
    local = add_command(places, "local", "train on several ranks of this machine", "yamls/demo/pretrain.yaml")
    local.add_argument("-n", dest="ranks", metavar="N", type=int, help="ranks (default: a rank for each GPU, or one)")
    local.set_defaults(run=run_launch_local)

    audit = commands.add_parser(
        "audit",
        help="hold what the model was given against the plan",
        description="Hold the records of a run that was trained with `audit: true` against its plan, and the tokens "
        "against the dataset's shards: nothing lost, nothing repeated, nothing out of place, however often the run was "
        "killed and on however many ranks it went on.",
        epilog="Exit codes: 0 as planned, 1 not as planned (the first discrepancies are named), 2 no run, or one "
        "without records.",
    )
    audit.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the folder of a run, such as runs/demo")
    audit.add_argument("--no-tokens", action="store_true", help="do not read the dataset; places only")
    audit.add_argument("--dataset", metavar="DIR", type=Path, help="where the dataset lies now, if it was moved")
    audit.add_argument("--json", action="store_true", help="print the verdict as JSON")
    audit.set_defaults(run=run_audit)

    report = commands.add_parser(
        "report",
        help="write RUN_DIR/report.html",
        description="Write RUN_DIR/report.html: "
        "one self-contained page about the run, whether it is finished or still going.",
    )
    report.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the folder of a run, such as runs/demo")
    report.set_defaults(run=run_report)
    return parser


def add_command(commands: argparse._SubParsersAction, name: str, summary: str, recipe: str) -> argparse.ArgumentParser:
    example = "max_seq_len=512" if name == "prepare" else "max_duration=200ba run_name=short"
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=OVERRIDES.format(command=name, recipe=recipe, example=example),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("recipe", metavar="RECIPE", type=Path, help=f"a YAML file, such as {recipe}")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the recipe")
    return command


# Each command imports what it needs when it runs: Composer alone takes ten seconds, and --help should not.


def run_prepare(options: argparse.Namespace) -> int:
    from launch.prepare import prepare_command

    return prepare_command(options.recipe, options.overrides)


def run_plan(options: argparse.Namespace) -> int:
    from launch.plan import plan_command

    return plan_command(
        options.recipe, options.overrides, as_json=options.json, samples=options.samples, html=options.html
    )


def run_train(options: argparse.Namespace) -> int:
    from launch.train import train_command

    return train_command(options.recipe, options.overrides)


def run_launch_local(options: argparse.Namespace) -> int:
    from launch.local import launch_local

    return launch_local(options.recipe, options.overrides, options.ranks)


def run_audit(options: argparse.Namespace) -> int:
    from launch.audit import audit_command

    tokens = not options.no_tokens
    return audit_command(options.run_dir, dataset=options.dataset, tokens=tokens, as_json=options.json)


def run_report(options: argparse.Namespace) -> int:
    from launch.report import report_command

    return report_command(options.run_dir)


if __name__ == "__main__":
    sys.exit(main())
