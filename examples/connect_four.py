"""Connect Four: its rules on bit boards, a search that labels positions, and the Ray Data pipeline of both.

A board is two 64-bit numbers, the stones of whoever moves and the other's; a column takes seven bits, the lowest row first,
and its seventh stays empty, so that lines do not run over from one column into the next (John Tromp's layout).
"""

from __future__ import annotations

import numpy as np
import ray.data

COLUMNS, ROWS = 7, 6
CELLS = np.array([column * 7 + row for row in range(ROWS) for column in range(COLUMNS)], np.int64)
"""Bits of the cells, row by row from the lowest."""
TOP = np.array([1 << (column * 7 + ROWS) for column in range(COLUMNS)], np.int64)
BOTTOM = np.array([1 << (column * 7) for column in range(COLUMNS)], np.int64)

Boards = np.ndarray  # (positions,) int64


def has_four(stones: Boards) -> np.ndarray:
    """Whether four stones stand in a line, (positions,) bool."""
    found = np.zeros(stones.shape, bool)
    for step in (1, 6, 7, 8):  # up, the two diagonals' ways, across
        pairs = stones & (stones >> step)
        found |= (pairs & (pairs >> (2 * step))) != 0
    return found


def stone_in(own: Boards, other: Boards, column: int) -> Boards:
    """The stone that falls into a column, as a bit; 0 where the column is full."""
    stone = (own | other) + BOTTOM[column] & ~(own | other)
    in_column = ((1 << ROWS) - 1) * BOTTOM[column]
    return stone & in_column


def outcomes(own: Boards, other: Boards, plies: int) -> np.ndarray:
    """What each move leads to when both play their best for so many plies: 1 a win of whoever moves, -1 a loss, 0 open.

    Returns:
        (positions, 7) int8; -2 where the column is full.

    """
    found = np.full((len(own), COLUMNS), -2, np.int8)
    for column in range(COLUMNS):
        stone = stone_in(own, other, column)
        found[:, column] = np.where(stone == 0, -2, has_four(own | stone))
    if plies > 1:
        open_ = ~(found == 1).any(1)  # where a move wins at once, no other matters
        for column in range(COLUMNS):
            (at,) = np.nonzero(open_ & (found[:, column] == 0))
            if len(at):
                stone = stone_in(own[at], other[at], column)
                found[at, column] = -best(outcomes(other[at], own[at] | stone, plies - 1))
    return found


def best(found: np.ndarray) -> np.ndarray:
    """The outcome of the best move; 0, a draw, where there is none. (positions, 7) -> (positions,)."""
    return np.where((found == -2).all(1), 0, found.max(1)).astype(np.int8)


def planes(own: Boards, other: Boards) -> np.ndarray:
    """(positions, 84) float32: the cells of whoever moves, then the other's."""
    return np.concatenate([(side[:, None] >> CELLS) & 1 for side in (own, other)], axis=1).astype(np.float32)


def positions(count: int, seed: int) -> tuple[Boards, Boards]:
    """Different positions of random games of 0 to 35 moves, none of them over."""
    random = np.random.default_rng(seed)
    own, other = np.zeros((2, count), np.int64)
    moves = random.integers(0, 36, count)
    for ply in range(35):
        drawn = random.integers(0, COLUMNS, count)
        stone = np.zeros(count, np.int64)
        for column in range(COLUMNS):
            stone = np.where(drawn == column, stone_in(own, other, column), stone)
        played = (ply < moves) & (stone != 0) & ~has_four(own | stone)
        own, other = np.where(played, other, own), np.where(played, own | stone, other)
    _, first = np.unique(np.stack([own, other]), axis=1, return_index=True)
    return own[first], other[first]


def labeled(rows: dict[str, np.ndarray], plies: int) -> dict[str, np.ndarray]:
    """Adds to a batch of boards what the network reads, and what it is to say of it."""
    own, other = rows["own"], rows["other"]
    found = outcomes(own, other, plies)
    outcome = best(found)
    moves = (found == outcome[:, None]).astype(np.float32)
    return {
        "position": rows["position"],
        "board": planes(own, other),
        "moves": moves / moves.sum(1, keepdims=True),
        "outcome": outcome.astype(np.float32),
    }


def read(count: int = 40_000, plies: int = 5, seed: int = 0) -> ray.data.Dataset:
    """The pipeline: positions with the moves that are best within so many plies, each as likely as the others."""
    own, other = positions(count, seed)
    found = ray.data.from_numpy(np.arange(len(own))).rename_columns({"data": "position"})
    return found.map_batches(
        lambda rows: labeled(
            {"position": rows["position"], "own": own[rows["position"]], "other": other[rows["position"]]},
            plies,
        ),
        batch_size=1000,
    )
