"""The house rules a machine can check: layering, file sizes, the torch-free referee, the public names."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "pennyweight"
FLOORS = {
    "numerics": 0, "masks": 0, "hardware": 0,
    "ops": 1, "kernels": 1,
    "nn": 2, "models": 2, "data": 2,
    "methods": 3,
    "training": 4, "artifact": 4, "mlperf": 4, "rle": 4,
    "bench": 5, "recipes": 5, "report": 5,
    "cli": 6,
}  # fmt: skip
# Neighbours on one floor stay strangers, but for these: masks are made with numbers, an operator calls its kernel, a
# model is made of modules, and a recipe is what ties bench and report together.
NEIGHBOURS = {("masks", "numerics"), ("ops", "kernels"), ("models", "nn"), ("recipes", "bench"), ("recipes", "report")}
REFEREES = {"mlperf", "rle"}
MAX_LINES = 600

FILES = sorted(SRC.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    parts = path.relative_to(SRC).parts
    if len(parts) == 1:
        return  # the package's own front door names everything
    here = parts[0]
    for name in imported_modules(path):
        if here in REFEREES or FLOORS[here] == 0:
            assert not (name + ".").startswith(("torch.nn.",)), f"{path} imports {name}: no torch.nn here"
        if here in REFEREES:
            assert name.split(".")[0] != "torch", f"{path} imports {name}: the referee never imports the players"
        if not name.startswith("pennyweight."):
            continue
        there = name.split(".")[1]
        if there not in FLOORS or there == here:
            continue
        assert here not in REFEREES, f"{path} imports {name}: a referee knows only errors and its own records"
        lower = FLOORS[there] < FLOORS[here]
        assert lower or (here, there) in NEIGHBOURS, f"{path} (floor {FLOORS[here]}) imports {name}"


def test_every_folder_has_a_floor() -> None:
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(FLOORS), f"folders without a floor: {folders - set(FLOORS)}"


def test_file_sizes() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lengths[-1] <= MAX_LINES
    assert lengths[len(lengths) * 9 // 10] <= 350, "nine files in ten stay under 350 lines"


def test_no_catch_all_files() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "helpers", "common", "misc"}]


def test_public_names_are_real() -> None:
    import pennyweight

    assert set(pennyweight.__all__) == set(pennyweight._HOMES)  # their order is ruff's, and checked by it
    for name in pennyweight.__all__:
        assert getattr(pennyweight, name) is not None
