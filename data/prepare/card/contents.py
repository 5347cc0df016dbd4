"""From a manifest to its card: what is in the dataset, what became of the documents, and how to check it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence

import yaml

from data.manifest import CleaningRecord, DeduplicationRecord, DomainRecord, Manifest
from data.prepare.card.blocks import (
    Amounts,
    Block,
    Card,
    Facts,
    Folded,
    Lengths,
    Listing,
    Part,
    Quote,
    Quotes,
    Table,
)
from data.words import byte_count, percent, plural, short

OPEN = 4  # domains; of more, each one's details are folded


def card_of(manifest: Manifest, name: str) -> Card:
    """The card of the dataset that is called `name`."""
    domains = manifest.domains
    train, heldout = (sum(tokens_of(of, split) for of in domains.values()) for split in ("train", "heldout"))
    kept, read = sum(map(kept_of, domains.values())), sum(of.documents_read for of in domains.values())
    samples = sum(split.samples for of in domains.values() for split in of.splits.values())
    return Card(
        name,
        f"A tokenized dataset for pretraining: {plural(len(domains), 'domain')} in samples of "
        f"{manifest.max_seq_len:,} tokens, for Streaming.",
        [
            ("Tokens", short(train), f"and {short(heldout)} held out" if heldout else "nothing held out"),
            ("Documents", short(kept), f"of {short(read)} read"),
            ("Samples", short(samples), f"of {manifest.max_seq_len:,} tokens"),
            ("Vocabulary", f"{manifest.tokenizer.vocab_size:,}", manifest.tokenizer.name),
        ],
        list(domains),
        [
            content_part(manifest),
            steps_part(manifest),
            examples_part(manifest),
            lengths_part(manifest),
            sources_part(manifest),
            making_part(manifest),
            checking_part(manifest, name),
        ],
    )


def content_part(manifest: Manifest) -> Part:
    tokens = {name: tokens_of(of) for name, of in manifest.domains.items()}
    total = sum(tokens.values())
    largest = max(tokens, key=lambda name: tokens[name])
    answer = f"{plural(len(tokens), 'domain')}, {short(total)} tokens"
    if len(tokens) > 1:
        answer += f"; most come from {largest}: {short(tokens[largest])}, {tokens[largest] / total:.1%} of all"
    columns = [
        *("domain", "documents read", "dropped", "duplicates", "kept", "held out", "tokens", "share"),
        *("bytes per token", "shards", "on disk"),
    ]
    rows = []
    for name, of in manifest.domains.items():
        shards = [shard for split in of.splits.values() for shard in split.shards]
        heldout = of.splits.get("heldout")
        rows.append(
            [
                name,
                f"{of.documents_read:,}",
                f"{sum(of.dropped.values()):,}",
                f"{of.duplicates:,}",
                f"{kept_of(of):,}",
                f"{heldout.documents if heldout else 0:,}",
                f"{tokens[name]:,}",
                f"{tokens[name] / total:.1%}",
                f"{of.bytes / tokens[name]:.2f}",
                f"{len(shards):,}",
                byte_count(sum(shard.bytes for shard in shards)),
            ]
        )
    picture = Amounts(
        "Tokens of each domain",
        "Held-out documents included.",
        tokens,
        {name: f"{short(number)} ({number / total:.1%})" for name, number in tokens.items()},
    )
    return Part("content", "What is in it?", f"{answer}.", [picture, Table("Domains", columns, rows, domains=True)])


def steps_part(manifest: Manifest) -> Part:
    domains = manifest.domains.values()
    read, dropped = sum(of.documents_read for of in domains), sum(sum(of.dropped.values()) for of in domains)
    duplicates, kept = sum(of.duplicates for of in domains), sum(map(kept_of, domains))
    answer = (
        f"Of {plural(read, 'document')} read, {dropped:,} were dropped and {duplicates:,} were exact copies of others; "
        f"{kept:,} are kept."
    )
    columns = ["step", "in", "out", "dropped", "edited", "why dropped, or what else was counted"]
    blocks = by_domain(manifest, lambda of: [Table("Steps in their order", columns, step_rows(of))])
    if len(manifest.domains) > 1:
        blocks.insert(0, dropped_table(manifest))
    return Part("steps", "What became of the documents?", answer, blocks)


def dropped_table(manifest: Manifest) -> Table:
    """What dropped how many of each domain."""
    domains = manifest.domains
    steps = list(dict.fromkeys(step for of in domains.values() for step, number in of.dropped.items() if number))
    rows = [
        [name, *(f"{of.dropped.get(step, 0):,}" for step in steps), f"{of.duplicates:,}", f"{kept_of(of):,}"]
        for name, of in domains.items()
    ]
    return Table("Documents dropped", ["domain", *steps, "exact duplicates", "kept"], rows, domains=True)


def step_rows(of: DomainRecord) -> list[list[str]]:
    steps = {record.step for record in records_of(of)}
    unreadable = {reason: number for reason, number in of.dropped.items() if reason not in steps}
    left = of.documents_read - sum(unreadable.values())
    rows = [step_row("read", of.documents_read, left, None, unreadable)]
    for cleaned in of.cleaning:
        rows.append(
            step_row(cleaned.step, cleaned.documents_in, cleaned.documents_out, cleaned.edited, cleaned.dropped)
        )
        left = cleaned.documents_out
    rows.append(step_row("exact duplicates", left, left - of.duplicates, None, {}))
    for found in of.deduplication:
        rows.append(step_row(found.step, found.documents_in, found.documents_out, found.edited, found.counts))
    return rows


def step_row(step: str, before: int, after: int, edited: int | None, counts: dict[str, int]) -> list[str]:
    counted = ", ".join(f"{what} {number:,}" for what, number in counts.items() if number)
    return [step, f"{before:,}", f"{after:,}", f"{before - after:,}", "" if edited is None else f"{edited:,}", counted]


def examples_part(manifest: Manifest) -> Part:
    def blocks(of: DomainRecord) -> list[Block]:
        return [examples_of(record) for record in records_of(of) if record.examples]

    answer = "A few of each step's documents, chosen by hash. Mail and IP addresses in them are masked."
    found = by_domain(manifest, blocks)
    return Part("examples", "What was dropped or edited, for example?", answer if found else "Nothing was.", found)


def examples_of(record: CleaningRecord | DeduplicationRecord) -> Quotes:
    if isinstance(record, DeduplicationRecord):
        return Quotes(record.step, [Quote("", sentence) for sentence in record.examples])
    return Quotes(record.step, [Quote(example.why, example.before, example.after) for example in record.examples])


def lengths_part(manifest: Manifest) -> Part:
    counts: Counter[str] = Counter()
    for of in manifest.domains.values():
        counts.update(of.lengths)
    in_order = {low: counts[low] for low in sorted(counts, key=int)}
    documents, tokens = sum(counts.values()), sum(map(tokens_of, manifest.domains.values()))
    if not documents:
        return Part("lengths", "How long are the documents?", "Nobody counted.", [])
    answer = f"{tokens / documents:,.0f} tokens on average; half of them have fewer than {median_limit(in_order):,}."
    title, note = "Documents by number of tokens", "Each column is twice as wide in tokens as the one before it."
    of_domain = {name: of.lengths for name, of in manifest.domains.items()}
    rows = [
        [name, *(f"{of.get(low, 0):,}" for low in in_order)]
        for name, of in (*of_domain.items(), *([("in all", in_order)] if len(of_domain) > 1 else []))
    ]
    table = Table("Documents by number of tokens, from", ["domain", *(f"{int(low):,}" for low in in_order)], rows)
    blocks: list[Block] = [Lengths(title, note, in_order, of_domain), Folded("The numbers", [table])]
    return Part("lengths", "How long are the documents?", answer, blocks)


def median_limit(counts: dict[str, int]) -> int:
    """The least power of two that is more than the tokens of half of the documents."""
    seen, half = 0, sum(counts.values()) / 2
    for low, number in counts.items():
        seen += number
        if seen >= half:
            return 2 * int(low)
    raise AssertionError(counts)


def sources_part(manifest: Manifest) -> Part:
    rows = [
        [
            name,
            source.path,
            source.format,
            f"{source.files:,}",
            byte_count(source.bytes),
            f"{source.documents:,}",
            f"{sum(source.dropped.values()):,}",
            f"{source.duplicates:,}",
            f"{source.kept:,}",
            f"{source.tokens:,}",
        ]
        for name, of in manifest.domains.items()
        for source in of.sources
    ]
    columns = ["domain", "source", "format", "files", "size", "read", "dropped", "duplicates", "kept", "tokens"]
    licensed = sum(sum(of.licences.values()) for of in manifest.domains.values())
    kept = sum(map(kept_of, manifest.domains.values()))
    said = f"For {licensed:,} of {kept:,} documents a licence is recorded" if licensed else "No licences are recorded"
    answer = f"From {plural(len(rows), 'source')}. {said}."
    blocks: list[Block] = [Table("Sources", columns, rows, domains=True), *by_domain(manifest, provenance)]
    return Part("sources", "Where does it come from?", answer, blocks)


def provenance(of: DomainRecord) -> list[Block]:
    counted = {"origin": of.origins, "licence": of.licences, "language, duplicates included": of.languages}
    return [
        Table(f"Documents by {what}", [what, "documents"], [[name or "–", f"{n:,}"] for name, n in counts.items()])
        for what, counts in counted.items()
        if counts
    ]


def making_part(manifest: Manifest) -> Part:
    tokenizer = manifest.tokenizer
    answer = (
        "By brickyard prepare: of equal documents one is there, in an order that the seed draws, each followed by the "
        "end-of-text token."
    )
    facts = Facts(
        [
            ("Tokenizer", f"{tokenizer.name}, {tokenizer.vocab_size:,} tokens, in the folder {tokenizer.folder}"),
            ("Tokenizer's fingerprint", tokenizer.fingerprint),
            ("End of text", f"token {tokenizer.end_of_text:,}, after each document"),
            ("Samples", f"{manifest.max_seq_len:,} tokens of {manifest.token_dtype}, {packing(manifest)}"),
            ("Seed", str(manifest.seed)),
            ("Held out", f"{percent(manifest.heldout_fraction)} of the documents, by hash of their text"),
        ]
    )
    recipe = yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True, width=100)
    folded = Folded("The recipe, every default written out", [Listing("yaml", recipe)])
    return Part("making", "How was it made?", answer, [facts, folded] if manifest.recipe else [facts])


def packing(manifest: Manifest) -> str:
    splits = [split for of in manifest.domains.values() for split in of.splits.values()]
    size = sum(split.samples for split in splits) * manifest.max_seq_len
    padding = sum(split.padding_tokens for split in splits) / max(size, 1)
    packed = {"best_fit": "best fit", "concatenate": "documents one after the other"}
    return f"{packed.get(manifest.recipe.get('packing', ''), 'packed')}; padding {padding:.2%}"


def checking_part(manifest: Manifest, name: str) -> Part:
    answer = (
        f"Cite it with its fingerprint, {manifest.fingerprint[:16]}: that is over all that the manifest says, each "
        "shard's hash among it. The same recipe and the same text give the same one, wherever it is prepared."
    )
    facts = Facts([("Dataset", manifest.fingerprint), ("Recipe", manifest.recipe_fingerprint)])
    inputs = Table(
        "Fingerprints of what was read",
        ["domain", "sha256 over the input"],
        [list(item) for item in manifest.input_fingerprints.items()],
        domains=True,
    )
    folder = shlex.quote(name)
    commands = "\n".join(
        [
            "# Holds the manifest to its fingerprint and each shard's size to the manifest, and writes this card.",
            f"brickyard card {folder}",
            "# What a run would read of it.",
            f"brickyard plan RECIPE dataset.path={folder}",
            "# Holds each shard to its hash before it is read.",
            f"brickyard train RECIPE dataset.path={folder}",
        ]
    )
    blocks: list[Block] = [facts, Listing("sh", commands), *([inputs] if inputs.rows else [])]
    return Part("checking", "How is it checked, cited and used?", answer, blocks)


def by_domain(manifest: Manifest, blocks_of: Callable[[DomainRecord], Sequence[Block]]) -> list[Block]:
    """A fold for each domain that has something to show."""
    is_open = len(manifest.domains) <= OPEN
    found = {name: blocks_of(of) for name, of in manifest.domains.items()}
    return [Folded(name, blocks, is_open) for name, blocks in found.items() if blocks]


def records_of(of: DomainRecord) -> list[CleaningRecord | DeduplicationRecord]:
    """Of its steps, in their order."""
    return [*of.cleaning, *of.deduplication]


def kept_of(of: DomainRecord) -> int:
    return sum(split.documents for split in of.splits.values())


def tokens_of(of: DomainRecord, split: str | None = None) -> int:
    """Of one split, or of all."""
    return sum(record.tokens for name, record in of.splits.items() if split in (None, name))
