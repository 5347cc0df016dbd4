"""What each step did, counted; only counts and a few examples reach the driver."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from data.manifest import CleaningRecord, ExampleRecord

EXAMPLES = 3  # of a step's drops in a domain, and as many of its edits

Place = tuple[str, str]  # domain, step


def edits(cleaned: DataFrame) -> dict[Place, int]:
    """Documents that each step changed, of each domain."""
    rows = cleaned.select("domain", F.explode("edited").alias("step")).groupBy("domain", "step").count().collect()
    return {(domain, step): number for domain, step, number in rows}


def examples(cleaned: DataFrame) -> dict[Place, list[ExampleRecord]]:
    """A few drops, then a few edits of each step in each domain: those of the smallest hashes."""
    proposed = cleaned.select("domain", F.explode("examples").alias("of")).select("domain", "of.*")
    smallest = F.min(F.struct("key", "why", "before", "after")).alias("of")
    rows = proposed.groupBy("domain", "step", "place").agg(smallest).select("domain", "step", "place", "of.*").collect()
    chosen: dict[Place, list[ExampleRecord]] = {}
    for kind in ("drop", "edit"):
        taken: dict[Place, int] = {}
        for row in sorted(rows, key=lambda row: row.key):
            where = row.domain, row.step
            if row.place.startswith(kind) and taken.setdefault(where, 0) < EXAMPLES:
                taken[where] += 1
                chosen.setdefault(where, []).append(ExampleRecord(row.why, row.before, row.after))
    return chosen


def records(
    domain: str,
    steps: list[str],
    documents_in: int,
    dropped: dict[tuple[str, str, str], int],
    edited: dict[Place, int],
    examples: dict[Place, list[ExampleRecord]],
) -> list[CleaningRecord]:
    """One domain's records; what a step let through is what the next one saw. `dropped`: by domain, step and rule."""
    result = []
    for step in steps:
        rules = {rule: number for (of, by, rule), number in sorted(dropped.items()) if (of, by) == (domain, step)}
        place = domain, step
        documents_out = documents_in - sum(rules.values())
        changed = edited.get(place, 0)
        result.append(CleaningRecord(step, documents_in, documents_out, changed, rules, examples.get(place, [])))
        documents_in = documents_out
    return result
