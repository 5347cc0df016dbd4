"""What a launcher tells a person."""

import sys


def say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)
