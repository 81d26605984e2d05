"""Does the network of ``examples/connect-four.yaml`` play? Games against players that look no, one and two plies ahead.

    PYTHONPATH=examples python benchmarks/play_connect_four.py [--seeds 3] [--games 500] [--set training.max_steps=300]

Half of the games are begun by each side. The network plays the move that it thinks best, without a search; the others play any
of the moves that are best as far as they see. Prints for each opponent the share of games that the network won, and the
same for a player of one ply, who knows no network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from connect_four import COLUMNS, Boards, best, has_four, outcomes, planes, stone_in
from quick_train import train, trained_modules

Player = Callable[[Boards, Boards], np.ndarray]
"""(own, other) -> how much it likes each move, (games, 7)."""


def looks_ahead(plies: int, seed: int) -> Player:
    """Any of the moves that are best within so many plies; of none, any move at all."""
    random = np.random.default_rng(seed)

    def likes(own: Boards, other: Boards) -> np.ndarray:
        chance = random.random((len(own), COLUMNS))
        if plies == 0:
            return chance
        found = outcomes(own, other, plies)
        return chance + (found == best(found)[:, None])

    return likes


def of_network(model: torch.nn.Module) -> Player:
    """As its policy says."""

    @torch.no_grad()
    def likes(own: Boards, other: Boards) -> np.ndarray:
        return model(torch.from_numpy(planes(own, other)))[:, :COLUMNS].numpy()

    return likes


def share_won(first: Player, second: Player, games: int) -> float:
    """Of the games that ``first`` and ``second`` begin in turn, how many ``first`` wins; a draw is none."""
    own, other = np.zeros((2, games), np.int64)
    wins, over = np.zeros(games, bool), np.zeros(games, bool)
    first_moves = np.arange(games) % 2 == 0
    for _ in range(42):
        stones = np.stack([stone_in(own, other, column) for column in range(COLUMNS)], axis=1)
        liked = np.where(first_moves[:, None], first(own, other), second(own, other))
        move = np.where(stones == 0, -np.inf, liked).argmax(1)
        played = own | np.take_along_axis(stones, move[:, None], 1)[:, 0]
        won = has_four(played) & ~over
        wins |= won & first_moves
        over |= won
        own, other, first_moves = other, played, ~first_moves
    return float(wins.mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--games", type=int, default=500)
    given = parser.parse_args()
    opponents = {f"{plies} plies": looks_ahead(plies, seed=1) for plies in (0, 1, 2)}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            overrides = (f"training.seed={seed}", *given.overrides)
            plan, _, outcome = train("examples/connect-four.yaml", folder, overrides)
            player = of_network(trained_modules(plan)["model"])
        shares = {name: share_won(player, other, given.games) for name, other in opponents.items()}
        print(json.dumps({"seed": seed, "won against": shares, **outcome["metrics"]}), flush=True)
    plain = looks_ahead(1, seed=2)
    shares = {name: share_won(plain, other, given.games) for name, other in opponents.items()}
    print(json.dumps({"player of one ply": shares}))


if __name__ == "__main__":
    main()
