"""`pennyweight energy`: the modelled energy of one inference of an artifact, layer by layer."""

import json
from pathlib import Path
from typing import Annotated

import typer


def energy(
    artifact: Annotated[Path, typer.Argument(help="A packed artifact (.pw).")],
    data: Annotated[str, typer.Option("--data", help="Data set whose first test samples give the sizes.")] = "digits",
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the data sets.")] = None,
    context: Annotated[int, typer.Option("--context", min=1, help="Tokens a window, of a text.")] = 35,
    table: Annotated[str, typer.Option("--table", help="Energies of a process, by name.")] = "horowitz45nm",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Estimate the energy of one inference from counted operations and a named table; modelled, not measured."""
    from pennyweight.artifact import load
    from pennyweight.bench.energy import energy_of
    from pennyweight.data import TextDataset, load_dataset

    test = load_dataset(data, "test", root)
    if isinstance(test, TextDataset):
        batch = test.tokens[: 2 * (len(test) // 2)].reshape(2, -1)[:, :context]
    else:
        batch = test.normalize(test.images[:2])
    found = energy_of(load(artifact), batch, table=table)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    print(f"{artifact}: one inference, modelled, not measured; table {found.table} ({found.source})")
    print(f"{'layer':<24} {'MACs':>12} {'compute nJ':>12} {'memory nJ':>12}  arithmetic")
    for row in (*found.layers, found.total):
        nanojoules = f"{row.compute_pj / 1e3:>12.3f} {row.memory_pj / 1e3:>12.3f}"
        print(f"{row.layer:<24} {row.macs:>12,} {nanojoules}  {row.arithmetic}".rstrip())
