"""Failures that are nobody's bug here: a mistake of the caller's, an environment or a disk that fails."""

from typing import Any


def one_line(error: BaseException) -> str:
    """Returns an exception's type and its message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


class BadInput(ValueError):
    """A mistake in what the caller gave; its message is one line: what is wrong, and what would be right."""


class EnvironmentFault(BadInput):
    """An environment gave, or was to be given, what nothing can be learned from.

    Attributes:
      env_index: which of those that step together.
      what: a verb and its object, such as "gave a reward that is not finite".
      steps: how many transitions the call would have made, had all been well.
    """

    def __init__(self, env_index: int, what: str, steps: int) -> None:
        super().__init__(f"environment {env_index} {what}")
        self.env_index, self.what, self.steps = env_index, what, steps

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by the arguments. An exception pickles by its message, which the constructor does not take."""
        return type(self), (self.env_index, self.what, self.steps), self.__dict__


class NotSaved(RuntimeError):
    """A file could not be written: the disk is full, or not to be written to. The file before it is whole."""


class ProcessLost(RuntimeError):
    """Another process of a distributed run has ended, or cannot be reached. The message is one line."""


class TrialsFail(RuntimeError):
    """The trials of a search fail one after another. The message is one line."""


class EnvironmentLost(RuntimeError):
    """An environment raised, died or gave no answer: there is nothing to go on with. The message is one line."""
