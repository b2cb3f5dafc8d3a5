"""The commands: what they print, and with which code they end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pennyweight.cli.main import app, main

TEXT = """\
name: tiny
model: {name: mlp, hidden: [16]}
data: {name: digits}
arms:
  float:
    - train: &train {regime: cosine, steps: 8, lr: 3.0e-3, batch_size: 32, optimizer: adam}
    - export
  w8a8:
    - train: *train
    - apply: {RoundToNearest: {exclude: ["@last"]}}
    - export
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def call(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['pennyweight', '--help']\n"
        "from pennyweight.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'numpy', 'yaml', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "explain", "bench", "report", "list", "card", "info"):
        assert f"\n  {command} " in done.stdout


def test_run_report_and_bench(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, err = call("run", recipe, "--folder", folder)
    assert code == 0, err
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert "[1/4] float, w8a8: train 8 steps" in err
    assert "w8a8" in out

    (folder / "report.html").unlink()
    code, out, _ = call("report", folder)
    assert code == 0
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert (folder / "report.html").is_file()

    code, _, err = call("run", recipe, "--folder", folder, "--quiet")
    assert (code, err) == (0, "")

    artifact = next(folder.glob("stages/*/model.pw"))
    code, out, err = call("bench", artifact, "--scenario", "SingleStream", "--duration-s", "0.05", "--json")
    assert code == 0, err
    assert json.loads(out)["scenarios"][0]["scenario"] == "SingleStream"
    code, out, _ = call("bench", artifact, "--scenario", "Offline", "--duration-s", "0.05", "--reference", artifact)
    assert code == 0
    assert "p = 1" in out
    code, _, err = call("bench", artifact, "--scenario", "Offlin")
    assert code == 2
    assert "did you mean 'Offline'" in err


def test_dry_run_runs_nothing(recipe: Path, tmp_path: Path) -> None:
    code, out, _ = call("run", recipe, "--folder", tmp_path / "run", "--dry-run")
    assert code == 0
    assert "shared with w8a8" in out
    assert "4 stages to do" in out
    assert not (tmp_path / "run").exists()


def test_explain(recipe: Path) -> None:
    code, out, _ = call("explain", recipe)
    assert code == 0
    assert "gemm.weight.quantize" in out
    assert "skips    linear2: left out by include/exclude" in out
    code, out, _ = call("explain", recipe, "--set", "arms.w8a8.apply=[BNN, RoundToNearest]")
    assert code == 2
    assert "CANNOT BE APPLIED" in out
    assert "both want" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "arms.float.train.lrr=1"], "unknown key 'lrr'; did you mean 'lr'"),
        (["--set", "arms.float.train.lr=fast"], "is 'fast' (a word), expected a number"),
        (["--set", "arms.flt.train.lr=1"], "arms has no key 'flt'; did you mean 'float'"),
        (["--set", "arms.w8a8.apply={RTN: {}}"], "unknown method 'RTN'"),
        (["--set", "arms.w8a8.apply.RoundToNearest.weight=int8"], "unknown key 'weight'; did you mean 'weights'"),
        (["--set", "arms.w8a8.apply.RoundToNearest.include=[conv*]"], "pattern 'conv*' matches no module"),
        (["--set", "model.name=mpl"], "unknown model 'mpl'; did you mean 'mlp'"),
        (["--set", "data.name=digit"], "unknown data set 'digit'"),
        (["--set", "data={name: mnist, root: /nowhere}"], "data set 'mnist' not found"),
        (["--set", "seed"], "expected path=value"),
    ],
)
def test_user_errors_end_with_two_and_a_line(recipe: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, out, err = call("run", recipe, "--folder", tmp_path / "run", *arguments)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out
    assert not list(tmp_path.glob("run/stages/*"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a: &a [*a]", b"a: 1\na: 2"])
def test_bad_files_end_with_two(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    for command in ("run", "explain"):
        code, _, err = call(command, path)
        assert code == 2
        assert err.startswith(f"error: {path}")


def test_other_user_errors(tmp_path: Path) -> None:
    for arguments in (
        ("run", "quikstart"),
        ("run", tmp_path / "missing.yaml"),
        ("report", tmp_path),
        ("card", "BMN"),
        ("bench", tmp_path / "missing.pw"),
        ("list", "modls"),
        ("rnu",),
        ("run", "quickstart", "--no-such-option"),
    ):
        code, _, err = call(*arguments)
        assert code == 2, (arguments, err)
        assert "Traceback" not in err


def test_a_full_disk_is_said_plainly(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    code, _, err = call("run", recipe, "--folder", file / "run")
    assert code == 2
    assert "cannot write" in err
    assert "--folder" in err


def test_a_failing_arm_ends_with_three(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pennyweight.artifact.manifest.read", no_space)
    monkeypatch.setattr("pennyweight.recipes.run.rehearse", lambda *_: None)
    code, out, err = call("run", recipe, "--folder", tmp_path / "run")
    assert code == 3
    assert "arm 'float' failed: export (seed 0): OSError: [Errno 28] No space left on device" in err
    assert out.splitlines()[-1].endswith("report.html")


def test_ctrl_c_ends_with_130(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pennyweight.recipes.run.make_plan", interrupt)
    code, _, err = call("run", recipe, "--folder", tmp_path / "run")
    assert code == 130
    assert "To go on: pennyweight" in err
    monkeypatch.setattr("pennyweight.recipes.resolve.resolve", interrupt)
    assert call("explain", recipe)[0] == 130


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from pennyweight.errors import RecipeError

    for arguments in (["--debug", "run", "quikstart"], ["run", "quikstart", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["pennyweight", *arguments])
        with pytest.raises(RecipeError, match="did you mean"):
            main()


def test_list_card_info() -> None:
    code, out, _ = call("list")
    assert code == 0
    for word in ("quickstart", "BNN", "resnet20", "digits"):
        assert word in out
    code, out, _ = call("list", "methods")
    assert "RoundToNearest" in out
    assert "resnet20" not in out
    code, out, _ = call("card", "GhostBatchNorm")
    assert code == 0
    assert "ghost_batch_size" in out
    assert "https://arxiv.org/abs/1705.08741" in out
    code, out, _ = call("info")
    assert code == 0
    assert "kernels:" in out
    assert "torch" in out


def test_version() -> None:
    import pennyweight

    assert call("--version")[:2] == (0, pennyweight.__version__ + "\n")
