"""Models that a Python file makes: what it may be, what is loaded with it, and the words where it cannot be used."""

import copy
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.errors import RecipeError
from pennyweight.models import model_builder, model_identity

HEAD = "import torch\nfrom torch import nn\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "net.py") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(HEAD + dedent(text), encoding="utf-8")


def test_a_function_and_a_class(folder: Path) -> None:
    text = """\
        def make(width=3):
            return nn.Linear(width, 2)
        class Net(nn.Sequential):
            def __init__(self, *, depth: int = 2):
                super().__init__(*[nn.Linear(2, 2) for _ in range(depth)])
    """
    write(folder, text)
    assert pw.create_model("net.py:make", width=5).weight.shape == (2, 5)  # type: ignore[union-attr]
    assert len(list(pw.create_model(f"{folder}/net.py:Net", depth=3).children())) == 3
    assert model_builder("net.py:Net").options["depth"].hint is int


def test_weights_come_from_the_seed_and_the_callers_random_numbers_stay(folder: Path) -> None:
    text = """\
        def plain():
            return nn.Linear(2, 2)
        def own(seed):
            layer = nn.Linear(2, 2, bias=False)
            nn.init.constant_(layer.weight, seed)
            return layer
    """
    write(folder, text)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    weights: list[Any] = [pw.create_model("net.py:plain", seed=seed).weight for seed in (0, 0, 1)]
    assert torch.rand(3).equal(expected)
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    assert bool((pw.create_model("net.py:own", seed=7).weight == 7).all())  # type: ignore[operator]


def test_neighbours_of_equal_names_do_not_meet(folder: Path) -> None:
    """Two folders with a module of one name each, and a module of that name that is loaded already."""
    text = """\
        from blocks.one import WIDTH
        def make():
            import late
            return nn.Linear(WIDTH, late.OUT)
    """
    for name, width in (("a", 3), ("b", 4)):
        write(folder, text, f"{name}/net.py")
        write(folder, "", f"{name}/blocks/__init__.py")
        write(folder, f"WIDTH = {width}\n", f"{name}/blocks/one.py")
        write(folder, f"OUT = {width + 1}\n", f"{name}/late.py")
    before, path = dict(sys.modules), list(sys.path)
    shapes = [tuple(pw.create_model(f"{name}/net.py:make").weight.shape) for name in "abab"]  # type: ignore[arg-type]
    assert shapes == [(4, 3), (5, 4)] * 2
    assert sys.path == path
    assert {"blocks", "late"} & (set(sys.modules) - set(before)) == set()
    assert not list(folder.rglob("__pycache__"))


def test_a_changed_file_is_another_model(folder: Path) -> None:
    write(folder, "import blocks\ndef make():\n    return nn.Linear(blocks.N, 1)\n")
    write(folder, "N = 2\n", "blocks.py")
    first, identity = pw.create_model("net.py:make"), model_identity("net.py:make")
    assert type(first) is nn.Linear
    write(folder, "N = 3\n", "blocks.py")
    assert model_identity("net.py:make") != identity
    assert pw.create_model("net.py:make").weight.shape == (1, 3)  # type: ignore[union-attr]


def test_own_classes_survive_copies_and_are_the_same_each_time(folder: Path) -> None:
    text = """\
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.l = nn.Linear(2, 2)
            def forward(self, x):
                return self.l(x).relu()
    """
    write(folder, text)
    one, other = pw.create_model("net.py:Net"), pw.create_model("net.py:Net")
    assert type(one) is type(other)
    x = torch.ones(3, 2)
    assert copy.deepcopy(one)(x).equal(other(x))


def test_wrappers_are_taken_off(folder: Path) -> None:
    text = """\
        def make():
            return torch.compile(nn.DataParallel(nn.Sequential(nn.Linear(2, 2))), backend="eager")
    """
    write(folder, text)
    assert list(pw.create_model("net.py:make").state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("", "net.py", r"which function of the file\? Write net\.py:make_net"),
        ("def made():\n    pass\n", "net.py:make", r"net\.py has no function 'make'; did you mean 'made'"),
        ("make = 3\n", "net.py:make", "has no function 'make'"),
        ("def make(\n", "net.py:make", r"cannot be run: SyntaxError: .*\(net\.py, line 3\)"),
        ("1 / 0\n", "net.py:make", r"cannot be run: ZeroDivisionError: division by zero \(net\.py, line 3\)"),
        ("import sys\nsys.exit(2)\n", "net.py:make", "it ends the program.*__main__"),
        ("import no_such_thing\n", "net.py:make", r"ModuleNotFoundError: No module named 'no_such_thing'"),
        ("from .blocks import x\n", "net.py:make", r"relative import.*write `import blocks`"),
        ("def make():\n    return {}\n", "net.py:make", r"returns a dict: return the torch\.nn\.Module"),
        ("def make():\n    raise KeyError('deep')\n", "net.py:make", r"made with \{\}: KeyError.*net\.py, line 4"),
        (
            "def make():\n    return nn.LazyLinear(3)\n",
            "net.py:make",
            "module '' has no weights yet: call the model on",
        ),
        ("def make(width):\n    return nn.Linear(width, 2)\n", "net.py:make", "needs the option 'width'"),
        ("def make(weights):\n    pass\n", "net.py:make", "'weights' is a word of recipes; give the parameter another"),
        ("", "gone.py:make", r"gone\.py does not exist; looked from the folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refused(folder: Path, text: str, name: str, error: str) -> None:
    write(folder, text)
    with pytest.raises(RecipeError, match=error):
        pw.create_model(name)


def test_unknown_options_are_refused_unless_the_function_takes_all(folder: Path) -> None:
    text = """\
        def make(width=2):
            return nn.Linear(width, 2)
        def any(**options):
            return nn.Linear(options["wdith"], 2)
    """
    write(folder, text)
    with pytest.raises(RecipeError, match=r"has no option 'wdith'; did you mean 'width'"):
        pw.create_model("net.py:make", wdith=3)
    assert pw.create_model("net.py:any", wdith=3).in_features == 3
