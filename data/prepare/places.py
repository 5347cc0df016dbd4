"""Numbers that belong to splits, and each row's."""

from pyspark.sql import Column
from pyspark.sql import functions as F

Places = dict[tuple[str, str], int]  # (domain, split) -> a number of something


def of_place(numbers: Places) -> Column:
    """Each row's number, by its domain and split."""
    pairs = [F.lit(of) for (domain, split), number in numbers.items() for of in (f"{domain}/{split}", number)]
    return F.element_at(F.create_map(*pairs), F.concat_ws("/", "domain", "split"))
