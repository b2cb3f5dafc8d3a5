"""What importing pennyweight costs on top of torch, and how long `pennyweight --help` takes; in fresh processes.

`import pennyweight` by itself loads nearly nothing, since its names load on first use; so the figure published is for
all public names loaded, which is what a program that uses them pays. Processes are timed in turns, A B A B ..., from
start to exit, interpreter included; the overhead is the median of the paired differences. Processor seconds are given
beside wall seconds: they hardly change when others use the machine. Files are warm in the page cache (one round of each
is thrown away), byte code is compiled beforehand.

    python benchmarks/import_time.py [--quick] [--save]
"""

import argparse
import compileall
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pennyweight
from pennyweight.numerics.measure import relative_spread
from reporting import headline, save_rows

OVERHEAD_TARGET_S = 0.3
HELP_TARGET_S = 1.0

TORCH = "import torch"
LAZY = "import torch, pennyweight"
ALL_NAMES = "import pennyweight; [getattr(pennyweight, name) for name in pennyweight.__all__]"
HELP = "from pennyweight.cli.main import main; main()"
PROGRAMS = {"torch": (TORCH,), "lazy": (LAZY,), "all_names": (ALL_NAMES,), "help": (HELP, "--help")}


def seconds(program: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Wall and processor seconds of a fresh interpreter, from start to exit.

    Args:
        program: code, then its arguments.
        folder: to run in: an empty one, so that nothing there is imported by accident.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", *program], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def modules(program: tuple[str, ...], folder: str) -> set[str]:
    """What a program has imported when it ends."""
    code = f"import atexit, json, sys; atexit.register(lambda: print(json.dumps([*sys.modules]))); {program[0]}"
    done = subprocess.run([sys.executable, "-c", code, *program[1:]], cwd=folder, check=True, capture_output=True)
    return set(json.loads(done.stdout.decode().splitlines()[-1]))


def differences(longer: list[float], shorter: list[float]) -> list[float]:
    """Round by round."""
    return [a - b for a, b in zip(longer, shorter, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    options = parser.parse_args()
    rounds = 5 if options.quick else 21

    assert pennyweight.__file__ is not None
    compileall.compile_dir(Path(pennyweight.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory() as folder:
        helped, loaded = modules(PROGRAMS["help"], folder), modules(PROGRAMS["all_names"], folder)
        assert "torch" not in helped, "--help imports torch"
        assert {"torch", "pennyweight.training", "pennyweight.artifact"} <= loaded, "not all public names are loaded"
        print("correct: --help does without torch; the timed import loads every public name")
        for program in PROGRAMS.values():
            seconds(program, folder)
        walls: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        cpus: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        for _ in range(rounds):
            for name, program in PROGRAMS.items():
                wall, cpu = seconds(program, folder)
                walls[name].append(wall)
                cpus[name].append(cpu)
    figures = {
        "import_overhead_s": differences(walls["all_names"], walls["torch"]),
        "import_overhead_lazy_s": differences(walls["lazy"], walls["torch"]),
        "import_overhead_cpu_s": differences(cpus["all_names"], cpus["torch"]),
        "import_torch_s": walls["torch"],
        "help_s": walls["help"],
        "help_cpu_s": cpus["help"],
    }
    targets = {"import_overhead_s": OVERHEAD_TARGET_S, "help_s": HELP_TARGET_S}
    rows = [
        {
            "figure": name,
            "seconds": round(statistics.median(values), 4),
            "low": round(min(values), 4),
            "high": round(max(values), 4),
            "spread": round(relative_spread(values), 3),
            "n": len(values),
            "target": targets.get(name, ""),
        }
        for name, values in figures.items()
    ]
    for row in rows:
        print(f"{row['figure']:24s} {row['seconds']:7.3f} s  from {row['low']:.3f} to {row['high']:.3f}, n={row['n']}")
    if options.save:
        print(f"saved {save_rows('import_time', rows).name}")
    for name, peer in (("import_overhead_s", "import_torch"), ("help_s", "none")):
        print(headline(name, statistics.median(figures[name]), "s", rounds, relative_spread(figures[name]), peer))


if __name__ == "__main__":
    main()
