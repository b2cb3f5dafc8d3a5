"""Builds the C++ kernels into one shared library that Python loads by ctypes; everything else is in pyproject.toml.

The library needs neither torch nor Python headers, so one wheel (py3-none-<platform>) serves every Python version.
Each instruction-set path is a file of its own with its own compiler flags, never -march=native, and the library picks a
path at run time. A compiler too old for a path's flags drops that path and nothing else. `CXX` names the compiler.
"""

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("src/pennyweight/kernels/cpu")
COMMON = (
    "portable",
    "registry",
    "self_test",
    "pool",
    "api",
    "chain",
    "images",
    "bitplanes",
    "philox",
    "nm_masks",
    "transposable",
)
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall")
AVX512 = ("-mavx2", "-mpopcnt", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
# file, macro, flags; a path builds on the ones before it, so the first that fails ends the list
X86_PATHS = (
    ("avx2", "PW_HAVE_AVX2", ("-mavx2", "-mpopcnt")),
    ("avx512bw", "PW_HAVE_AVX512BW", AVX512),
    ("avx512vpopcnt", "PW_HAVE_AVX512VPOPCNT", (*AVX512, "-mavx512vpopcntdq")),
)
ARM_PATHS = (("neon", "PW_HAVE_NEON", ()),)


def compiler() -> list[str]:
    """The C++ compiler: $CXX, or the first of c++, g++ and clang++ on the path."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise CompileError(
        "pennyweight builds a small C++ library and found no compiler: tried $CXX, c++, g++ and clang++. "
        "Install one (Debian or Ubuntu: apt-get install g++; macOS: xcode-select --install) or set CXX."
    )


def target_paths(command: list[str]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """The instruction-set paths of the machine the compiler builds for."""
    try:
        asked = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=False)
        machine = asked.stdout.split("-")[0].strip() or platform.machine()
    except OSError as error:
        raise CompileError(f"the C++ compiler {shlex.join(command)!r} (from $CXX) cannot be run: {error}") from None
    if machine.lower() in ("x86_64", "amd64"):
        return X86_PATHS
    return ARM_PATHS if machine.lower() in ("aarch64", "arm64") else ()


def accepts(command: list[str], flags: tuple[str, ...]) -> bool:
    """Whether the compiler knows the flags of a path."""
    probe = [*command, *flags, "-x", "c++", "-E", "-", "-o", os.devnull]
    return subprocess.run(probe, input="", capture_output=True, text=True, check=False).returncode == 0


class BuildKernels(build_ext):
    """Compiles the kernels file by file and links them; the result has no Python ABI in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)  # no PyInit_ function

    def build_extension(self, ext: Extension) -> None:
        command = compiler()
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)

        def compile_file(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
            arguments = [*command, *FLAGS, *flags, "-c", str(SOURCES / f"{name}.cpp"), "-o", str(objects / f"{name}.o")]
            return subprocess.run(arguments, capture_output=True, text=True, check=False)

        built: list[str] = []
        macros: list[str] = []
        with ThreadPoolExecutor() as workers:
            jobs = {name: workers.submit(compile_file, name) for name in COMMON if name != "registry"}
            for name, macro, flags in target_paths(command):
                if not accepts(command, flags):
                    self.warn(f"the {name} path is left out: {shlex.join(command)} does not know {shlex.join(flags)}")
                    break
                jobs[name] = workers.submit(compile_file, name, *flags)
                built.append(name)
                macros.append(f"-D{macro}=1")
            jobs["registry"] = workers.submit(compile_file, "registry", *macros)
            for name, job in jobs.items():
                if job.result().returncode != 0:
                    raise CompileError(
                        f"{shlex.join(command)} could not compile {SOURCES / name}.cpp:\n{job.result().stderr[-4000:]}"
                    )
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        linked = [str(objects / f"{name}.o") for name in (*COMMON, *built)]
        # Written beside the target and moved: a process that has the old library mapped keeps its file.
        fresh = target.with_suffix(".new")
        libraries = ["-ldl"] if platform.system() == "Linux" else []
        link = subprocess.run(
            [*command, "-shared", "-pthread", *linked, "-o", str(fresh), *libraries],
            capture_output=True,
            text=True,
            check=False,
        )
        if link.returncode != 0:
            raise CompileError(f"{shlex.join(command)} could not link {target.name}:\n{link.stderr[-4000:]}")
        fresh.replace(target)


class PlatformWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>: it holds machine code, but no Python ABI."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "pennyweight.kernels.libpennyweight_cpu",
            sources=[str(SOURCES / f"{name}.cpp") for name in COMMON],
            depends=[str(path) for path in sorted(SOURCES.glob("*"))],
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
