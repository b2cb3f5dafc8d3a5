"""`pennyweight info`: what this machine has, and which kernels run on it."""

from typing import Any


def info() -> None:
    """Show machine, versions, kernels and where data is looked for."""
    from pennyweight import ops
    from pennyweight.data.roots import candidate_roots
    from pennyweight.numerics.measure import machine, versions

    _section("machine", machine())
    _section("versions", versions())
    print("kernels:")
    for line in str(ops.explain()).splitlines():
        print(f"  {line}")
    print("data:")
    for root in candidate_roots(None):
        print(f"  {root}{'' if root.is_dir() else '  (not there)'}")


def _section(name: str, values: dict[str, Any]) -> None:
    print(f"{name}:")
    for key, value in values.items():
        shown = ", ".join(str(item) for item in value) if isinstance(value, list) else value
        print(f"  {key:<18} {shown}")
