"""Best-fit packing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"): documents that fit into a sample
are never cut.

A longer one is cut into whole samples and a rest. Rests and short documents, longest first, each go into the fullest
sample that has room for them; what is left of a sample is padding.
"""

import numpy as np

SHORTEST = 2  # tokens of a piece: an end-of-text alone, after another, would be read as padding


def cut(count: int, capacity: int) -> list[int]:
    """The lengths of a document's pieces, each at most `capacity`."""
    pieces = [capacity] * (count // capacity)
    if rest := count % capacity:
        pieces.append(rest)
    if len(pieces) > 1 and pieces[-1] < SHORTEST <= capacity - SHORTEST:
        pieces[-2] -= SHORTEST - pieces[-1]
        pieces[-1] = SHORTEST
    return pieces


def pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """(sample, position in it) of each piece, int64 [pieces]; samples are numbered as they are opened.

    `lengths`: of the pieces, each from 1 to `capacity`. Takes O(log capacity) words a piece.
    """
    samples, positions = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # by how many tokens are free
    rooms, opened = 0, 0  # bit n of `rooms`: there is a sample with n tokens free
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        if fitting := rooms >> length:
            room = length + (fitting & -fitting).bit_length() - 1
            sample = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, sample, opened = capacity, opened, opened + 1
        samples[piece], positions[piece] = sample, capacity - room
        if left := room - length:
            with_room[left].append(sample)
            rooms |= 1 << left
    return samples, positions
