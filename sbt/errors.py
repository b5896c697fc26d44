"""What a user's input can cause: what is wrong, where, and how to mend it."""

import contextlib
import difflib
import resource
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Where a traceback's frames are nobody's mistake: this package, Python's own and installed ones.
_LIBRARIES = (
    "<frozen",
    str(Path(__file__).resolve().parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


class UserError(Exception):
    """A mistake in a config, a path or the environment, found before anything compiles.

    The command line prints the message without a traceback and exits with code 2.

    Args:
      field: what the message is about, as the user writes it (``config.sweep.batch_size``).
      problem: what is wrong, including the offending value.
      remedy: what to do instead.
    """

    def __init__(self, field: str, problem: str, remedy: str):
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(f"{field}: {problem}\n  {remedy}")


def shown(value: Any) -> str:
    """A value in a message: on one line, and short, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a user's own class, or an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest of those that are known, and all of them."""
    known = sorted(known)
    return f"{did_you_mean(name, known)}Known: {', '.join(known) or 'none'}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The names that are nearest to a misspelt one, as the start of a remedy; or nothing.

    >>> did_you_mean("alexnt", ("alexnet", "resnet8"))
    'did you mean alexnet? '
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}? " if near else ""


class UserCodeError(UserError):
    """An exception raised by code that the user gave; it is kept as ``__cause__``.

    The command line prints the message and, below it, the traceback of the user's own code.
    """

    def own_traceback(self) -> str:
        """The traceback of the cause, without frames of this package and of installed ones."""
        if self.__cause__ is None:
            return ""
        told = traceback.TracebackException.from_exception(self.__cause__)
        link: traceback.TracebackException | None = told
        while link is not None:
            own = [frame for frame in link.stack if _is_own(frame.filename)]
            if own or issubclass(link.exc_type, SyntaxError):  # which tells its place itself
                link.stack = traceback.StackSummary.from_list(own)
            link = link.__cause__ or link.__context__
        return "".join(told.format())


@contextlib.contextmanager
def user_code(whose: str) -> Iterator[None]:
    """Runs code that the user gave; says so if it raises.

    A :class:`UserError` (of a function of this package that the code calls) passes unchanged.

    Args:
      whose: the code, as the user knows it: ``get_config() of mine.py``, ``module MyNet``.

    Raises:
      UserCodeError: the code raised; its exception is the cause, with its traceback.

    Examples:
      >>> with user_code("get_config() of mine.py"):
      ...     {}["base_lr"]
      Traceback (most recent call last):
      sbt.errors.UserCodeError: get_config() of mine.py: raised KeyError: 'base_lr'
        see line 2 of <doctest sbt.errors.user_code[0]>
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = first_line(error)
        kind = type(error).__name__
        problem = f"raised {kind}: {text}" if text else f"raised {kind}"
        raise UserCodeError(whose, problem, _place(error)) from error


def first_line(error: BaseException) -> str:
    """What an error says, as far as it fits into a line of ours; empty where it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def _place(error: BaseException) -> str:
    """Where to mend it: the last line of the user's own code that ran."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"see line {error.lineno} of {error.filename}"
    own = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(f.filename)]
    return f"see line {own[-1].lineno} of {own[-1].filename}" if own else "mend it there"


def _is_own(filename: str) -> bool:
    return not filename.startswith(_LIBRARIES)


# Address space (``ulimit -v``) that a process needs before it trains anything: below that the C++
# libraries end it without a word of their own.
LEAST_ADDRESS_SPACE = int(2.25 * 2**30)
_OUT_OF_MEMORY = (
    "resource_exhausted", "out of memory", "bad_alloc", "cannot allocate", "failed to map segment",
    "start new thread", "unable to allocate",
)  # fmt: skip


@contextlib.contextmanager
def telling_memory() -> Iterator[None]:
    """Says in one line that memory ran out, whichever library noticed.

    Raises:
      UserError: naming ``config.engine.memory_gb``.
    """
    remedy = (
        "set it to less than there is free, or use fewer lanes (config.engine.lanes), a smaller "
        "micro-batch, model or data set"
    )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(
            "config.engine.memory_gb",
            f"nothing trains in {limit / 2**30:.2f} GB of address space (ulimit -v)",
            f"raise the limit to {LEAST_ADDRESS_SPACE / 2**30:.2f} GB or more",
        )
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(
            sign in text.lower() for sign in _OUT_OF_MEMORY
        ):
            raise
        line = (text.strip().splitlines() or ["no memory left"])[0][:160]
        problem = f"leaves more to hold than there is room for ({line})"
        raise UserError("config.engine.memory_gb", problem, remedy) from None
