"""Tasks on strings of digits whose answers a line of Python can check: sums, and sorting.

A question is a whole number below 10 ** (its digits), so that what is held out can be told from the number alone. Half
of a task is a demonstrator who knows the rule and makes the same mistakes again and again: who only imitates him
repeats them, as these are what he does more often than not.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CHARACTERS = "0123456789+=$"
END = CHARACTERS.index("$")  # It is the padding too.
MISTAKEN = 0.7  # Share of the demonstrations that follow the demonstrator's own way.
HELD_OUT = 10  # Of so many questions, one.


class Task(NamedTuple):
    """Questions, and their right answers.

    Attributes:
      question_digits: a question is below 10 to this power.
      prompt: `(B,)` questions to prompts `(B, P)`.
      answer: digits `(B, question_digits)` to the right answers `(B, A)`, without an end token.
      demonstration: the same, and a generator, to those of the demonstrator.
    """

    question_digits: int
    prompt: Callable[[np.ndarray], np.ndarray]
    answer: Callable[[np.ndarray], np.ndarray]
    demonstration: Callable[[np.ndarray, np.random.Generator], np.ndarray]

    def answers(self, questions: np.ndarray) -> np.ndarray:
        """The right answers and their end tokens, `(B, A + 1)`."""
        return _ended(self.answer(digits(questions, self.question_digits)))

    def demonstrations(self, questions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The demonstrator's answers and their end tokens, `(B, A + 1)`."""
        return _ended(self.demonstration(digits(questions, self.question_digits), rng))

    def draw(self, rng: np.random.Generator, count: int, held_out: bool = False) -> np.ndarray:
        """Questions, `(count,)`, of those that are held out or of the others."""
        found = rng.integers(0, 10**self.question_digits, 20 * count if held_out else 2 * count)
        return found[is_held_out(found) == held_out][:count]


def is_held_out(questions: np.ndarray) -> np.ndarray:
    """Which questions are for evaluation alone: a tenth, scattered by Knuth's multiplicative hash."""
    return (questions.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32) >> np.uint64(8)) % HELD_OUT == 0


def digits(numbers: np.ndarray, count: int) -> np.ndarray:
    """The last `count` decimal digits, `(B, count)`, the highest first."""
    return numbers[:, None] // 10 ** np.arange(count)[::-1] % 10


def _ended(answers: np.ndarray) -> np.ndarray:
    return np.pad(answers, ((0, 0), (0, 1)), constant_values=END)


def add(size: int) -> Task:
    """Sums of two numbers of `size` digits, written from the lowest digit on: `057+348=` to `5040$`. The demonstrator
    forgets carries, though never the last, which is a digit of its own."""

    def prompt(questions: np.ndarray) -> np.ndarray:
        both = digits(questions, 2 * size)
        plus, equals = (np.full((len(both), 1), CHARACTERS.index(sign)) for sign in "+=")
        return np.concatenate([both[:, :size], plus, both[:, size:], equals], 1)

    def columns(both: np.ndarray, keeps: np.ndarray) -> np.ndarray:
        carry, answer = np.zeros(len(both), np.int64), []
        for place in range(size):
            total = both[:, size - 1 - place] + both[:, 2 * size - 1 - place] + carry
            answer.append(total % 10)
            carry = total // 10 * (keeps[:, place] if place < size - 1 else 1)
        return np.stack([*answer, carry], 1)

    def demonstration(both: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return columns(both, rng.random((len(both), size)) > MISTAKEN)

    return Task(2 * size, prompt, lambda both: columns(both, np.ones((len(both), size), bool)), demonstration)


def sort(size: int) -> Task:
    """Strings of `size` digits in ascending order: `314159=` to `113459$`. The demonstrator sorts by exchanging
    neighbours, and gives up after a third of the passes."""

    def prompt(questions: np.ndarray) -> np.ndarray:
        return np.pad(digits(questions, size), ((0, 0), (0, 1)), constant_values=CHARACTERS.index("="))

    def demonstration(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        found = numbers.copy()
        for _ in range(max(1, size // 3)):
            for at in range(size - 1):
                found[:, at : at + 2] = np.sort(found[:, at : at + 2], axis=1)
        return np.where((rng.random(len(numbers)) < MISTAKEN)[:, None], found, np.sort(numbers, axis=1))

    return Task(size, prompt, lambda numbers: np.sort(numbers, axis=1), demonstration)


TASKS: dict[str, tuple[Callable[[int], Task], int]] = {"add": (add, 3), "sort": (sort, 6)}  # And the usual digits.
