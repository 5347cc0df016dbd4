"""The commands that people type: brickyard prepare, card, trace, plan, train, launch, audit, report, generate, ..."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from launch.arguments import add_command, at_least_one, port, probability, seed, temperature
from launch.places import add_launch
from launch.say import show
from model.errors import ModelError
from train.errors import Diverged, RecipeError, RunFailed, Stopped, Terminated, no_room

FAILED, MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
CHECKPOINT = "the folder of a run, such as runs/demo (its newest checkpoint), or of a checkpoint"

ABOUT = """\
Pretrain DBRX-class mixture-of-experts models on a curriculum of data.

  brickyard prepare yamls/demo/data.yaml        text -> tokens: an MDS dataset with a manifest
  brickyard card    datasets/demo               the data card of a dataset, written anew
  brickyard trace   datasets/demo code 123      which documents this sample is made of
  brickyard plan    yamls/demo/pretrain.yaml    what a run will read, before it is paid for
  brickyard train   yamls/demo/pretrain.yaml    train, or go on from the newest checkpoint
  brickyard launch local -n 2 yamls/demo/pretrain.yaml   the same on two ranks of this machine
  brickyard launch slurm --cluster yamls/clusters/slurm.yaml yamls/demo/pretrain.yaml   and on a SLURM cluster
  brickyard launch kubernetes --cluster yamls/clusters/kubernetes.yaml yamls/demo/pretrain.yaml   or on Kubernetes
  brickyard launch ssh   --cluster yamls/clusters/ssh.yaml yamls/demo/pretrain.yaml   or on hosts that ssh reaches
  brickyard audit   runs/demo                   was the model given what the plan says?
  brickyard report  runs/demo                   a page about the run: loss, mixture, experts, speed
  brickyard dashboard yamls/demo/pretrain.yaml  the W&B workspace that shows its runs
  brickyard generate runs/demo --prompt 'def '  text from a run
  brickyard export  runs/demo exported/demo     a Hugging Face folder from a run
  brickyard import  exported/demo weights/demo  a checkpoint from a Hugging Face folder
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parse(arguments)
    try:
        code = options.run(options) or 0
    except (RecipeError, DataError, ModelError) as error:
        say_once(options.command, error)  # every rank finds the same mistake
        code = MISTAKE
    except Diverged as diverged:
        say_once(options.command, diverged)
        code = FAILED
    except RunFailed as failure:
        show(f"brickyard {options.command}: {failure}\n", sys.stderr)
        code = FAILED
    except Stopped as stopped:
        say_once(options.command, stopped)
        code = stopped.exit_code
    except KeyboardInterrupt as interrupt:
        say_once(options.command, "interrupted")
        code = TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    except BrokenPipeError:  # `brickyard plan ... | head`
        code = 0
    except OSError as error:
        if (full := no_room(error)) is None:
            raise
        say_once(options.command, full)
        code = MISTAKE
    show("")  # what is not written yet, while a closed pipe is no fault
    return code


def say_once(command: str, sentence: object) -> None:
    """By rank 0 for all; but what launches ranks speaks for its machine, whose dataset, disk or GPUs are its own."""
    if command == "launch" or os.environ.get("RANK", "0") == "0":
        show(f"brickyard {command}: {sentence}\n", sys.stderr)


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
    prepare.add_argument(
        "--print-submit", action="store_true", help="print the commands that do it by spark-submit, and do nothing"
    )
    prepare.set_defaults(run=run_prepare)

    card = commands.add_parser(
        "card",
        help="write the data card of a prepared dataset",
        description="Write DATASET/data_card.md and DATASET/data_card.html: what is in a prepared dataset, what became "
        "of the documents, and how to check it. `brickyard prepare` writes them as well.",
    )
    card.add_argument("dataset", metavar="DATASET", type=Path, help="the folder of a dataset, such as datasets/demo")
    card.set_defaults(run=run_card)

    plan = add_command(commands, "plan", "say what a run will read, without running it", "yamls/demo/pretrain.yaml")
    plan.add_argument(
        "-n", "--ranks", metavar="N", type=at_least_one, help="ranks that will train it (default: the recipe's fewest)"
    )
    plan.add_argument("--memory", metavar="SIZE", help="of each rank's device, such as 80gb: is it enough?")
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

    add_launch(commands)
    summary = "write the W&B workspace that shows a recipe's runs"
    dashboard = add_command(commands, "dashboard", summary, "yamls/demo/pretrain.yaml")
    dashboard.set_defaults(run=run_dashboard)

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
        help="write a page about a run, or about several side by side",
        description="Write one self-contained page about a run, whether it is finished or still going; of several "
        "runs, one page with their curves over tokens, what they came to and how their recipes differ.",
    )
    report.add_argument(
        "run_dirs", metavar="RUN_DIR", type=Path, nargs="+", help="the folder of a run, such as runs/demo"
    )
    report.add_argument(
        "-o",
        dest="out",
        metavar="OUT",
        type=Path,
        help="the page's file (default: RUN_DIR/report.html; of several runs comparison.html beside the first)",
    )
    report.add_argument(
        "--follow", action="store_true", help="serve it on this machine, and change it as the run goes on"
    )
    report.add_argument(
        "--port",
        metavar="PORT",
        type=port,
        default=8700,
        help="with --follow (default: %(default)s; 0: any that is free)",
    )
    report.set_defaults(run=run_report)

    add_trace(commands)
    add_export(commands)
    add_import(commands)
    add_generate(commands)
    return parser


def add_trace(commands: argparse._SubParsersAction) -> None:
    trace = commands.add_parser(
        "trace",
        help="say which documents a sample is made of",
        description="Say which documents a sample of a dataset is made of: where each lies in it, and its origin, "
        "licence, time, source (its place in the recipe's list) and key, as the dataset's lineage has them.",
    )
    trace.add_argument("dataset", metavar="DATASET", type=Path, help="a prepared dataset, such as datasets/demo")
    trace.add_argument("domain", metavar="DOMAIN", help="one of its domains")
    trace.add_argument("samples", metavar="SAMPLE", help="a sample's number in its split, or a range, such as 120:130")
    trace.add_argument("--split", default="train", help="train or heldout (default: %(default)s)")
    trace.add_argument("--json", action="store_true", help="print JSON: a line for each piece of a document")
    trace.set_defaults(run=run_trace)


def add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser(
        "export",
        help="write a Hugging Face folder from a run",
        description="Write a checkpoint as a Hugging Face folder: safetensors, config, generation config, a fast "
        "tokenizer and a chat template, which transformers loads without network.",
    )
    export.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help=CHECKPOINT)
    export.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet, or empty")
    export.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: as is)")
    export.add_argument(
        "--max-shard-size", metavar="SIZE", default="5gb", help="of one safetensors file (default: %(default)s)"
    )
    export.set_defaults(run=run_export)


def add_import(commands: argparse._SubParsersAction) -> None:
    import_ = commands.add_parser(
        "import",
        help="write a checkpoint from a Hugging Face folder",
        description="Write DBRX weights in safetensors as a checkpoint, tensor by tensor. A recipe begins with it by "
        "`initial_weights: OUT`, on any number of ranks.",
    )
    import_.add_argument("folder", metavar="FOLDER", type=Path, help="with config.json and safetensors")
    import_.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet, or empty")
    import_.set_defaults(run=run_import)


def add_generate(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser(
        "generate", help="print text from a run", description="Print what a model writes after a prompt."
    )
    generate.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help=CHECKPOINT)
    generate.add_argument("--prompt", required=True, help="what the text goes on from; - reads it from stdin")
    generate.add_argument(
        "--max-new-tokens", type=at_least_one, default=128, metavar="N", help="the most tokens (default: %(default)s)"
    )
    generate.add_argument(
        "--temperature", type=temperature, default=0.8, metavar="T", help="0: the likeliest (default: %(default)s)"
    )
    generate.add_argument(
        "--top-p", type=probability, default=1.0, metavar="P", help="of the tokens to choose from (default: all)"
    )
    generate.add_argument("--seed", type=seed, default=0, help="of the choice (default: %(default)s)")
    generate.set_defaults(run=run_generate)


# Each command imports what it needs when it runs: Composer alone takes ten seconds, and --help should not.


def run_prepare(options: argparse.Namespace) -> int:
    from launch.prepare import prepare_command

    return prepare_command(options.recipe, options.overrides, options.print_submit)


def run_card(options: argparse.Namespace) -> int:
    from launch.card import card_command

    return card_command(options.dataset)


def run_trace(options: argparse.Namespace) -> int:
    from launch.trace import trace_command

    return trace_command(options.dataset, options.domain, options.samples, options.split, options.json)


def run_plan(options: argparse.Namespace) -> int:
    from launch.plan import plan_command

    return plan_command(
        options.recipe,
        options.overrides,
        ranks=options.ranks,
        memory=options.memory,
        as_json=options.json,
        samples=options.samples,
        html=options.html,
    )


def run_train(options: argparse.Namespace) -> int:
    from launch.train import train_command

    return train_command(options.recipe, options.overrides)


def run_dashboard(options: argparse.Namespace) -> int:
    from launch.dashboard import dashboard_command

    return dashboard_command(options.recipe, options.overrides)


def run_audit(options: argparse.Namespace) -> int:
    from launch.audit import audit_command

    tokens = not options.no_tokens
    return audit_command(options.run_dir, dataset=options.dataset, tokens=tokens, as_json=options.json)


def run_report(options: argparse.Namespace) -> int:
    from launch.report import follow_command, report_command

    if options.follow and options.out:
        raise RecipeError("-o: --follow writes no file; leave one of them out")
    if options.follow:
        return follow_command(options.run_dirs, options.port)
    return report_command(options.run_dirs, options.out)


def run_export(options: argparse.Namespace) -> int:
    from launch.export import export_command

    return export_command(options.checkpoint, options.out, dtype=options.dtype, max_shard_size=options.max_shard_size)


def run_import(options: argparse.Namespace) -> int:
    from launch.import_ import import_command

    return import_command(options.folder, options.out)


def run_generate(options: argparse.Namespace) -> int:
    from launch.generate import generate_command
    from model.sampling import Sampling

    sampling = Sampling(options.temperature, options.top_p, options.seed)
    return generate_command(options.checkpoint, options.prompt, options.max_new_tokens, sampling)


if __name__ == "__main__":
    sys.exit(main())
