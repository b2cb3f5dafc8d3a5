"""Which backend an operator runs on, on how many threads, and why. What the operators compute is said in their files.

The backends are the torch reference and the instruction-set paths of the C++ library. The choice and the thread count
belong to the process, as torch's own thread count does.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from pennyweight.errors import KernelError, did_you_mean
from pennyweight.kernels import library as kernels

REFERENCE = "reference"
# Every path there is, so that explain() can name what was not even compiled here.
ALL_PATHS = ("avx512vpopcnt", "avx512bw", "avx2", "neon", "portable")


@dataclass
class _Process:
    backend: str | None = None
    threads: int | None = None
    automatic: kernels.CompiledPath | None = None
    resolved: bool = False
    ran: dict[str, str] = field(default_factory=dict)


_process = _Process()


@dataclass(frozen=True, kw_only=True)
class PathState:
    """What is known of one instruction-set path on this machine; `state` is one of usable, unsupported, switched off,
    not compiled."""

    name: str
    state: str
    reason: str
    proven: bool


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Which backend runs and why; printing it gives a page for people."""

    backend: str
    reason: str
    threads: int
    thread_pool: str
    paths: tuple[PathState, ...]
    ran: dict[str, str]

    def __str__(self) -> str:
        lines = [f"backend: {self.backend} ({self.reason})", f"threads: {self.threads} ({self.thread_pool})"]
        lines += [f"  {path.name}: {path.state}: {path.reason}" for path in self.paths]
        unproven = [path.name for path in self.paths if not path.proven]
        lines.append(f"unproven on this machine: {', '.join(unproven) or 'none'}")
        lines += [f"last run: {op} on {backend}" for op, backend in sorted(self.ran.items())]
        return "\n".join(lines)


def _fault(path: kernels.CompiledPath) -> str | None:
    if not path.supported:
        return "this processor does not have its instructions"
    return kernels.self_test(path)


def _automatic() -> kernels.CompiledPath | None:
    """The most preferred path that runs here and agrees with the portable one."""
    if not _process.resolved:
        try:
            usable = (path for path in kernels.paths() if _fault(path) is None)
            _process.automatic = next(usable, None)
        except KernelError:
            _process.automatic = None  # explain() repeats the reason
        _process.resolved = True
    return _process.automatic


def select(device: torch.device | None = None) -> kernels.CompiledPath | None:
    """The path the next call runs on; None means the torch reference, which also serves every device but the CPU."""
    if device is not None and device.type != "cpu":
        return None
    if _process.backend is None:
        return _automatic()
    if _process.backend == REFERENCE:
        return None
    return next(path for path in kernels.paths() if path.name == _process.backend)


def record(op: str, path: kernels.CompiledPath | str | None) -> None:
    """Notes which backend ran an operator, for explain()."""
    _process.ran[op] = REFERENCE if path is None else path if isinstance(path, str) else path.name


def available_backends() -> tuple[str, ...]:
    """The backends that run on this machine and passed their self-test, most preferred first.

    Example:
        >>> available_backends()[-1]
        'reference'
    """
    try:
        return (*(path.name for path in kernels.paths() if _fault(path) is None), REFERENCE)
    except KernelError:
        return (REFERENCE,)


def current_backend() -> str:
    """The name of the backend that CPU tensors run on."""
    path = select()
    return REFERENCE if path is None else path.name


def use_backend(name: str | None) -> contextlib.AbstractContextManager[None]:
    """Chooses the backend of this process; None returns to the automatic choice.

    The choice holds at once. As a context manager it ends with the block.

    Args:
        name: one of `available_backends()`, or None.

    Raises:
        KernelError: the backend does not exist, does not run here, or failed its self-test.

    Example:
        >>> with use_backend("reference"):
        ...     current_backend()
        'reference'
    """
    if name is not None and name not in available_backends():
        state = next((path for path in _path_states() if path.name == name), None)
        why = f"{state.state}: {state.reason}" if state else did_you_mean(name, [*ALL_PATHS, REFERENCE])
        raise KernelError(f"backend {name!r} cannot be used ({why}); usable here: {', '.join(available_backends())}")
    before = _process.backend
    _process.backend = name
    return _restore_backend(before)


@contextlib.contextmanager
def _restore_backend(before: str | None) -> Iterator[None]:
    try:
        yield
    finally:
        _process.backend = before


def set_num_threads(count: int | None) -> None:
    """Sets how many threads the C++ operators use; None follows torch.get_num_threads(). Results never depend on it.

    Args:
        count: at least 1, or None.

    Raises:
        KernelError: the count is below 1.
    """
    if count is not None and (not isinstance(count, int) or count < 1):
        raise KernelError(f"num_threads is {count!r}; give an integer of at least 1, or None to follow torch")
    _process.threads = count


def num_threads() -> int:
    """How many threads the C++ operators use."""
    return torch.get_num_threads() if _process.threads is None else _process.threads


def _path_states() -> tuple[PathState, ...]:
    try:
        compiled = {path.name: path for path in kernels.paths()}
    except KernelError as error:
        return tuple(PathState(name=n, state="not compiled", reason=str(error), proven=False) for n in ALL_PATHS)
    states = []
    for name in ALL_PATHS:
        if name not in compiled:
            reason = "for another architecture, or the compiler lacked its flags"
            states.append(PathState(name=name, state="not compiled", reason=reason, proven=False))
            continue
        fault = _fault(compiled[name])
        if fault is None:
            reason = "the others are tested against it" if name == "portable" else "self-test equals portable"
            states.append(PathState(name=name, state="usable", reason=reason, proven=True))
        else:
            state = "switched off" if compiled[name].supported else "unsupported"
            states.append(PathState(name=name, state=state, reason=fault, proven=False))
    return tuple(states)


def explain() -> Explanation:
    """Says which backend runs and why, which paths exist, which passed their self-test, and what never ran here.

    Example:
        >>> "backend: " in str(explain())
        True
    """
    states = _path_states()
    if _process.backend is not None:
        reason = "chosen by use_backend"
    elif _automatic() is not None:
        reason = "the fastest path this processor has whose self-test passed"
    else:
        reason = "no C++ path is usable: " + states[-1].reason
    try:
        pool = "torch's OpenMP team" if kernels.library().pw_uses_team() else "a pool of the C++ library"
    except KernelError:
        pool = "torch's own"
    return Explanation(
        backend=current_backend(),
        reason=reason,
        threads=num_threads(),
        thread_pool=pool,
        paths=states,
        ran=dict(_process.ran),
    )
