"""Connected components of a graph of any size: large-star and small-star in turn (Kiveris et al. 2014, algorithm 3).

A few edges are joined on the driver: a round costs Spark most of a second, however small. Otherwise every round is four
shuffles of the edges, in which a task has all edges of a node (and spills where they are many); O(log^2 n) rounds are
proved to do, a handful do in practice. Each round is written to Parquet and the one before it is removed, so no plan
grows; of the edges only their number and a checksum reach the driver.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Observation, Window
from pyspark.sql import functions as F

from data.prepare.session import spark_path

FEW_EDGES = 1 << 20  # 16 MB


def connected_components(
    edges: DataFrame, folder: Path, report: Callable[[str], None], few: int = FEW_EDGES
) -> DataFrame:
    """Columns node, root (the component's smallest node) for every node of an edge.

    `edges` has the long columns a and b, either way round and repeated as it may be. The rounds go into `folder`; up to
    `few` edges are joined without any.
    """
    if edges.count() <= few:
        return _on_the_driver(edges)
    ordered = edges.where("a != b").select(F.greatest("a", "b").alias("a"), F.least("a", "b").alias("b")).distinct()
    number, seen = 0, None
    while True:
        written = folder / f"round{number}"
        observed = Observation()
        ordered.observe(
            observed, F.count(F.lit(1)).alias("edges"), F.expr("bit_xor(xxhash64(a, b))").alias("sum")
        ).write.mode("overwrite").parquet(spark_path(written))
        shutil.rmtree(folder / f"round{number - 1}", ignore_errors=True)
        stars = edges.sparkSession.read.parquet(spark_path(written))
        if observed.get == seen or not observed.get["edges"]:
            break
        seen = observed.get
        number += 1
        report(f"connected components: round {number}, {seen['edges']:,} edges")
        ordered = _small_star(_large_star(stars))
    roots = stars.select(F.col("b").alias("node"), F.col("b").alias("root")).distinct()
    return stars.select(F.col("a").alias("node"), F.col("b").alias("root")).union(roots)


def _on_the_driver(edges: DataFrame) -> DataFrame:
    a, b = (column.to_numpy() for column in edges.select("a", "b").toArrow().columns)
    nodes, roots = components_of(a[a != b], b[a != b])
    table = pa.table({"node": nodes, "root": roots})
    return edges.sparkSession.createDataFrame(table, "node long, root long")  # Connect infers none where nothing is


def components_of(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of the edges, in order, and the smallest node of each one's component: int64, [edges] -> [nodes].

    Trees are hooked to smaller ones and flattened until no edge joins two (Shiloach and Vishkin 1982).
    """
    nodes, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    ends = np.split(places, 2)
    root = np.arange(len(nodes))
    while (root[ends[0]] != root[ends[1]]).any():
        lowest = np.minimum(*(root[end] for end in ends))
        for end in ends:
            np.minimum.at(root, root[end], lowest)
        while (further := root[root]).tobytes() != root.tobytes():
            root = further
    return nodes, nodes[root]


def _large_star(edges: DataFrame) -> DataFrame:
    """Every node's larger neighbours are joined to the smallest of its neighbours and itself."""
    both = edges.union(edges.select(F.col("b").alias("a"), F.col("a").alias("b")))
    least = F.least("a", F.min("b").over(Window.partitionBy("a")))
    return (
        both.withColumn("least", least)
        .where("b > a")
        .select(F.col("b").alias("a"), F.col("least").alias("b"))
        .distinct()
    )


def _small_star(edges: DataFrame) -> DataFrame:
    """Every node's smaller neighbours, and the node itself, are joined to the smallest of them; a > b throughout."""
    placed = edges.withColumn("least", F.min("b").over(Window.partitionBy("a")))
    joined = F.when(F.col("b") == F.col("least"), F.col("a")).otherwise(F.col("b"))
    return placed.select(joined.alias("a"), F.col("least").alias("b")).distinct()
