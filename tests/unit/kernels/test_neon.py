"""The NEON path under emulation: cross-compiled with its self-test and run by qemu. The speed says nothing."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "src" / "pennyweight" / "kernels" / "cpu"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"

DRIVER = """
#include <cstdio>
#include <cstring>
#include "registry.h"
int main() {
    const pennyweight::Kernels* kernels = pennyweight::path(0);
    if (std::strcmp(kernels->name, "neon") != 0) return 2;
    const char* fault = pennyweight::self_test(kernels);
    std::puts(fault == nullptr ? "equal" : fault);
    return fault == nullptr ? 0 : 1;
}
"""


@pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="this machine runs the NEON path itself")
@pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason="NEON under emulation needs: apt-get install g++-aarch64-linux-gnu qemu-user",
)
def test_neon_equals_portable_under_emulation(tmp_path: Path) -> None:
    driver, program = tmp_path / "driver.cpp", tmp_path / "driver"
    driver.write_text(DRIVER, encoding="utf-8")
    files = [str(SOURCES / f"{name}.cpp") for name in ("neon", "portable", "registry", "self_test")]
    command = [COMPILER, "-O2", "-std=c++17", "-static", "-Wall", "-Werror", "-DPW_HAVE_NEON=1", f"-I{SOURCES}"]
    subprocess.run([*command, str(driver), *files, "-o", str(program)], check=True, timeout=120)
    result = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "equal"), result.stderr
