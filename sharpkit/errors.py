"""Every error that sharpkit raises on purpose: what was given, what is allowed, what to do."""

from __future__ import annotations


class SharpkitError(Exception):
    """An error with a remedy and the exit code that the command line gives it.

    Args:
        message: What was given and what is allowed, in one line.
        hint: What to do about it, in one line; may be empty.
    """

    exit_code: int = 1
    code: str = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def told(self) -> dict[str, str]:
        """Return it as JSON documents tell it."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(SharpkitError, ValueError):
    """A value, name or combination that the caller chose and that is not allowed."""

    exit_code = 2
    code = "usage"


class ConflictError(UsageError):
    """Two recipes of a union that answer the same question differently."""

    code = "conflict"


class InputError(SharpkitError):
    """A file, data set, model or checkpoint that is missing, unreadable or does not fit."""

    exit_code = 3
    code = "input"


class DivergedError(SharpkitError):
    """A loss, gradient or weight that is no longer a finite number."""

    exit_code = 4
    code = "diverged"


class ReplicaError(SharpkitError):
    """A process whose copy of the weights, or of what a rule remembers, is no longer that of the others."""

    code = "replicas"


class InterruptedRunError(SharpkitError):
    """A run that a signal stopped after its state was saved, or a command before it had anything to tell.

    Args:
        message: What was stopped, and where the state of a run lies.
        hint: How to go on.
        signal_number: The signal; the exit code is 128 plus this number.
    """

    code = "interrupted"

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


class RankError(SharpkitError):
    """Another process of this run that ended, or does not answer in time."""

    code = "rank"


class AllFailedError(SharpkitError):
    """Several runs of which all failed for one reason, with the code of that reason.

    Args:
        message: What is wrong with them.
        hint: What to do about it.
        code: Of the reason.
        exit_code: Of the reason.
    """

    def __init__(self, message: str, hint: str, code: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.code, self.exit_code = code, exit_code


class SharpkitWarning(UserWarning):
    """Something that is allowed but probably not what was meant."""


def one_line(error: BaseException | str) -> str:
    """Return what an error says in one line, without a final stop; its kind where it says nothing."""
    text = " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__


def check_range(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse a hyperparameter outside its interval, naming value and interval.

    Args:
        name: The hyperparameter's name as the user writes it.
        value: What was given.
        low: The smallest allowed value, or None for no bound.
        high: The largest allowed value, or None for no bound.
        open_low: Whether `low` itself is refused.
        open_high: Whether `high` itself is refused.

    Raises:
        UsageError: If the value is not a number inside the interval.
    """
    above = low is None or (value > low if open_low else value >= low)
    below = high is None or (value < high if open_high else value <= high)
    finite = value == value and value not in (float("inf"), float("-inf"))
    if above and below and finite:
        return
    left = "(-inf" if low is None else f"{'(' if open_low else '['}{low:g}"
    right = "inf)" if high is None else f"{high:g}{')' if open_high else ']'}"
    raise UsageError(f"{name} is {value:g}, allowed is {left}, {right}", f"give {name} a value inside")


def check_count(name: str, text: str, *words: str, low: int = 1, high: int | None = None) -> int | None:
    """Return the number that an option's text is, None where it is one of some words.

    Args:
        name: The option's name as the user writes it.
        text: What was given.
        words: Allowed beside numbers; the first one is suggested.
        low: The smallest allowed number.
        high: The largest one, or None for no bound.

    Raises:
        UsageError: If it is neither.
    """
    if text in words:
        return None
    most = 10**9 if high is None else high
    if text.isascii() and text.isdecimal() and low <= int(text) <= most:
        return int(text)
    numbers = f"{low}, {low + 1}, ..." + ("" if high is None else f", {high}")
    raise UsageError(f"{name} is {text!r}, allowed are {', '.join(words)} and {numbers}", f"use --{name} {words[0]}")
