"""The run folder: where everything lies, what counts as done, and that only one run at a time writes there.

A stage is done when its done.json is there; it is written last, whole or not at all. So a run killed at any moment
goes on where it was, and a stage half done counts as not done.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.errors import RecipeError
from pennyweight.recipes.files import remove, write_json, writing
from pennyweight.recipes.plan import Step
from pennyweight.recipes.work import Record

DONE = "done.json"
LOCK = ".lock"
RESOLVED = "resolved.yaml"
MARK = "# Written by pennyweight"
"""How the resolved recipe begins: by it a folder is known to be a run's, before anything in it is deleted."""

# The resolved recipe is the first to come and the last to go, so a run or a clearing cut short still shows the mark.
_OURS = ("stages", "arms", "recipe.yaml", "run.json", "log.txt", "report.json", "report.html", RESOLVED)


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a recipe's run; stages of former settings stay beside the present ones, under other hashes.

    Args:
        path: the folder.
    """

    path: Path

    def stage(self, step: Step) -> Path:
        """A step's folder."""
        return self.path / "stages" / step.folder

    def done(self, step: Step) -> dict[str, Any] | None:
        """What a finished step wrote: its record, seconds and when; None where it is not finished."""
        try:
            content = json.loads((self.stage(step) / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        whole = isinstance(content, dict) and content.get("key") == step.key and isinstance(content.get("record"), dict)
        return content if whole else None

    def prepare(self, step: Step) -> Path:
        """The step's folder, cleared of all but what an interrupted attempt of it left to go on from."""
        folder = self.stage(step)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for entry in folder.iterdir():
                if entry.name not in step.stage.keeps:
                    remove(entry)
        return folder

    def finish(self, step: Step, record: Record, seconds: float, finished: str) -> dict[str, Any]:
        """Mark a step as done."""
        content = {
            "key": step.key,
            "kind": step.stage.kind,
            "seed": step.seed,
            "settings": step.stage.to_plain(),
            "seconds": round(seconds, 3),
            "finished": finished,
            "record": record,
        }
        write_json(self.stage(step) / DONE, content)
        return content

    def clear(self) -> None:
        """Remove what runs put here, and nothing else.

        Raises:
            RecipeError: the folder holds files but no run.
        """
        if not self.path.exists():
            return
        present = {entry.name for entry in self.path.iterdir()} - {LOCK}
        if present and not self._is_marked():
            raise RecipeError(f"{self.path} holds no run of a recipe: --fresh clears run folders only")
        with writing(self.path):
            for name in _OURS:
                remove(self.path / name)

    def _is_marked(self) -> bool:
        try:
            return (self.path / RESOLVED).read_text(encoding="utf-8").startswith(MARK)
        except (OSError, ValueError):
            return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it.

        Raises:
            RecipeError: another run holds it, or it cannot be made.
        """
        import fcntl

        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RecipeError(
                    f"another run is at work in {self.path}: wait for it, or choose another folder with --folder"
                ) from error
            yield  # the system lets go of the lock when the process ends, however it ends
