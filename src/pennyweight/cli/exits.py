"""What a command's end means: a short message instead of a traceback, and the exit code."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from pennyweight.errors import PennyweightError

USER_ERROR = 2
PARTIAL_FAILURE = 3
INTERRUPTED = 130


def mends_errors(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with errors a user can mend shown in a line, and Ctrl-C as a clean end."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            with _second_interrupt_ends():
                command(*args, **kwargs)
        except PennyweightError as error:
            if debugging():
                raise
            complain(str(error))
            raise typer.Exit(USER_ERROR) from None
        except BrokenPipeError:  # the reader had enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        except OSError as error:
            if debugging():
                raise
            complain(f"{error.filename or 'the output'}: {error.strerror or error}")
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            complain("interrupted", kind="")
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def debugging() -> bool:
    """Whether --debug was given, before the command or after it."""
    return "--debug" in sys.argv


def complain(message: str, kind: str = "error: ") -> None:
    """A message on standard error, its beginning in red on a terminal."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text.assemble((kind, "bold red"), message), soft_wrap=True)


@contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """While entered, a second Ctrl-C ends the process at once: LoadGen, once begun, cannot be stopped from inside.

    Nothing is lost by it, for a stage counts as done only when its last file is whole.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers no signals here
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            os._exit(INTERRUPTED)
        pressed = True
        complain("stopping; what LoadGen has begun is first let to its end. Ctrl-C again stops at once", kind="")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
