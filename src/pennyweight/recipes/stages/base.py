"""What all stages share: a frozen dataclass with one function, `run`.

A new kind of stage is one file here with its dataclass, and one line in the table of `recipes.stages`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pennyweight.recipes.convert import Place, build, to_plain
from pennyweight.recipes.work import Record, Work


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One entry of an arm's list; its fields are the settings the recipe may give.

    A stage's result is kept under the hash of its settings and of everything before it that it depends on, so equal
    beginnings of arms run once, and a second run finds what the first has done.
    """

    kind: ClassVar[str]
    changes_model: ClassVar[bool] = False
    """The model's state is stored after it."""
    feeds: ClassVar[bool] = True
    """Later stages depend on it; what only measures does not feed, and can be changed without redoing the rest."""
    keeps: ClassVar[tuple[str, ...]] = ()
    """Files an interrupted attempt leaves to go on from; everything else is cleared before a new attempt."""
    scratch: ClassVar[tuple[str, ...]] = ()
    """Files no longer needed once the stage is done."""
    seconds_per_unit: ClassVar[float | None] = 1.0
    """A first guess of what one unit of `amount` takes, until it is measured; None where any guess would be wild."""

    @classmethod
    def from_plain(cls, value: Any, place: Place) -> "Stage":
        """The stage a recipe's plain value describes."""
        return build(cls, value, place)

    def to_plain(self) -> Any:
        """All settings as a recipe writes them; `from_plain` turns them back."""
        return to_plain(self)

    def title(self) -> str:
        """One line for tables and reports."""
        return self.kind

    def quantizes(self) -> bool:
        """Whether the model is no longer in float after it; what comes before is what later stages compare with."""
        return False

    def amount(self) -> float:
        """How much work it is, in units of its kind; for the estimate of the time left."""
        return 1.0

    def wanted(self, first_seed: bool) -> bool:
        """Whether the stage runs for a seed; those after the first repeat training, not every measurement."""
        return True

    def run(self, work: Work) -> Record:
        """Do the work, write into `work.folder`, say what was found."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")

    def rehearse(self, work: Work) -> None:
        """What can fail without the work having been done: called on a fresh model before a run, with few samples."""

    def rebuild_(self, work: Work) -> None:
        """Give a model of before this stage the structure of after it; its stored state is loaded thereafter."""
