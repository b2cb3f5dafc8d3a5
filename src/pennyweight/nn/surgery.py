"""Verbs that find and replace modules in place: `match`, `swap_modules_`. Folding has a file of its own."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from pennyweight.errors import MethodError, did_you_mean
from pennyweight.nn.gemm import WEIGHTED


def match(
    model: nn.Module,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    targets: tuple[type[nn.Module], ...] = WEIGHTED,
) -> dict[str, nn.Module]:
    """Modules of the target types whose names match, in the order of registration.

    Args:
        include: shell globs on fully qualified names; "@first" and "@last" stand for the first and last weighted
            layer (Linear or convolution) in the order of registration.
        exclude: the same; what both match is left out.

    Raises:
        MethodError: a pattern other than "*" matches nothing, which is nearly always a misspelling, or nothing at all
            is left.

    Example:
        >>> list(match(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), exclude=("@last",)))
        ['0']
    """
    candidates = {fqn: module for fqn, module in model.named_modules() if isinstance(module, targets)}
    weighted = [fqn for fqn, module in model.named_modules() if isinstance(module, WEIGHTED)]
    if not candidates:
        seen = sorted({type(module).__name__ for module in model.modules()})
        wanted = ", ".join(target.__name__ for target in targets)
        raise MethodError(f"the model has no module of the types {wanted}; it is made of: {', '.join(seen)}")
    chosen = {fqn for pattern in include for fqn in _matching(pattern, candidates, weighted)}
    chosen -= {fqn for pattern in exclude for fqn in _matching(pattern, candidates, weighted)}
    if not chosen:
        raise MethodError(
            f"include={tuple(include)} without exclude={tuple(exclude)} leaves no module of "
            f"{sorted(candidates)}: widen include or narrow exclude"
        )
    return {fqn: module for fqn, module in candidates.items() if fqn in chosen}


def _matching(pattern: str, candidates: Mapping[str, nn.Module], weighted: Sequence[str]) -> list[str]:
    if pattern == "*":
        return list(candidates)
    if pattern in ("@first", "@last"):
        edge = weighted[0 if pattern == "@first" else -1 :][:1]
        return [fqn for fqn in edge if fqn in candidates]
    found = [fqn for fqn in candidates if fnmatchcase(fqn, pattern)]
    if not found:
        raise MethodError(f"pattern {pattern!r} matches no module; {did_you_mean(pattern, candidates)}")
    return found


def swap_modules_(model: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Replace modules by name; a module shared under several names is replaced under all of them.

    Raises:
        MethodError: a name does not exist, or names the model itself, which cannot be replaced inside itself.
    """
    originals = dict(model.named_modules())
    by_identity: dict[int, nn.Module] = {}
    for fqn, new in replacements.items():
        if fqn == "":
            raise MethodError(
                f"the model itself is the {type(model).__name__} to replace: wrap it, torch.nn.Sequential(model)"
            )
        if fqn not in originals:
            raise MethodError(f"no module is called {fqn!r}; {did_you_mean(fqn, originals)}")
        by_identity[id(originals[fqn])] = new
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children would hide a second name of one child
            if child is not None and id(child) in by_identity:
                setattr(parent, name, by_identity[id(child)])
