"""The loss that knows only how frequent each token is: what a model must beat before it has learned any order."""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def unigram_loss(train: np.ndarray, heldout: np.ndarray) -> float:
    """Cross-entropy of held-out counts under train counts with add-one smoothing, in nats per token.

    Both are counts of each token: [vocab_size].
    """
    log_probability = np.log((train + 1.0) / (train.sum() + len(train)))
    return float(-(heldout * log_probability).sum() / heldout.sum())


def target_counts(written: DataFrame, vocab_size: int) -> dict[int, np.ndarray]:
    """Counts of each target token, [vocab_size], per group; `written` has columns group, ids, counts."""
    pairs = written.select("group", F.explode(F.arrays_zip("ids", "counts")).alias("pair"))
    sums = pairs.groupBy("group", F.col("pair.ids").alias("id")).agg(F.sum("pair.counts").alias("count"))
    groups, tokens, numbers = (column.to_numpy() for column in sums.toArrow().columns)
    totals = {int(group): np.zeros(vocab_size, dtype=np.int64) for group in np.unique(groups)}
    for group, of_group in totals.items():
        of_group[tokens[groups == group]] = numbers[groups == group]
    return totals
