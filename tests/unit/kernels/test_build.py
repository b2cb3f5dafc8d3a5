"""Building the library: an old compiler drops a path and no more, a missing one is named, and the wheel's tag."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a build reads, so that it cannot disturb the working tree."""
    folder = tmp_path / "checkout"
    kernels = Path("src/pennyweight/kernels")
    shutil.copytree(ROOT / kernels, folder / kernels, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "src/pennyweight/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "pennyweight"\nversion = "0"\n[tool.setuptools.packages.find]\nwhere = ["src"]\n',
        encoding="utf-8",
    )
    return folder


def build(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=checkout, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86-64")
def test_an_unknown_flag_drops_its_path_and_no_more(checkout: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "old-c++"
    wrapper.write_text('#!/bin/sh\ncase " $* " in *" -mavx512bw "*) exit 1;; esac\nexec c++ "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    result = build(checkout, "build_ext", "--inplace", CXX=str(wrapper))
    assert result.returncode == 0, result.stderr
    assert "the avx512bw path is left out" in result.stdout + result.stderr
    library = ctypes.CDLL(str(checkout / "src/pennyweight/kernels/libpennyweight_cpu.so"))
    library.pw_path_name.restype = ctypes.c_char_p
    assert [library.pw_path_name(i) for i in range(3)] == [b"avx2", b"portable", None]


def test_a_missing_compiler_is_named(checkout: Path) -> None:
    result = build(checkout, "build_ext", CXX="no-such-compiler")
    assert result.returncode != 0
    assert "no-such-compiler" in result.stdout + result.stderr
    result = build(checkout, "build_ext", CXX="", PATH="")
    assert "found no compiler: tried $CXX, c++, g++ and clang++" in result.stdout + result.stderr


def test_wheel_serves_every_python(checkout: Path) -> None:
    result = build(checkout, "bdist_wheel")
    assert result.returncode == 0, result.stderr
    wheel = next((checkout / "dist").glob("*.whl"))
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    assert "pennyweight/kernels/libpennyweight_cpu.so" in zipfile.ZipFile(wheel).namelist()
