"""Conversations of small sums, made: each question but the first goes on from the answer before it."""

import random

import ray.data

# fmt: off
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]
# fmt: on
FIRST = ("What is {} and {}?", "How much is {} plus {}?", "Please add {} to {}.")
MORE = ("And {} more?", "Plus {}?", "Now add {}.")
LESS = ("And {} less?", "Minus {}?", "Now take away {}.")
ANSWERS = ("That is {}.", "{}, I think.", "It makes {}.")


def conversations(count: int = 4000, seed: int = 0) -> ray.data.Dataset:
    """``id`` and ``messages``: two to four questions, each with its answer."""
    return ray.data.from_items(
        [{"id": number, "messages": talk} for number, talk in enumerate(talks(count, seed))]
    )


def talks(count: int = 4000, seed: int = 0) -> list[list[dict[str, str]]]:
    """The messages alone."""
    return [_talk(seed, number) for number in range(count)]


def _talk(seed: int, number: int) -> list[dict[str, str]]:
    draw = random.Random(f"{seed}/{number}")
    one, other = draw.randint(0, 10), draw.randint(0, 10)
    total, answer = one + other, draw.choice(ANSWERS)
    turns = [(draw.choice(FIRST).format(NUMBERS[one], NUMBERS[other]), total)]
    for _ in range(draw.randint(1, 3)):
        step = draw.randint(-min(9, total), min(9, 20 - total))
        asked = draw.choice(MORE if step >= 0 else LESS).format(NUMBERS[abs(step)])
        total += step
        turns.append((asked, total))
    return [
        message
        for question, value in turns
        for message in (
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer.format(NUMBERS[value])},
        )
    ]
