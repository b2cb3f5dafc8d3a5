"""What a person sees while a run goes on: a bar with its ETA on a terminal, a few plain lines elsewhere."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Shows steps done out of all steps, on standard error.

    Args:
        steps: of the whole run.
        start: already done.
        shown: False shows nothing.
    """

    def __init__(self, steps: int, start: int, shown: bool) -> None:
        self.steps = steps
        self.start = start
        self.shown = shown
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.shown and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("step {task.completed}/{task.total}"),
                progress.BarColumn(),
                progress.TextColumn("{task.description}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.steps, completed=self.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, loss: float, lr: float, images_per_second: float) -> None:
        """Say that `done` steps are done."""
        text = f"loss {loss:.4f}  lr {lr:.3g}  {images_per_second:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif self.shown and (done == self.steps or done % max(1, self.steps // 10) == 0):
            print(f"step {done}/{self.steps}  {text}", file=sys.stderr, flush=True)
