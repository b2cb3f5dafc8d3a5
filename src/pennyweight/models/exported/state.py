"""Whether a program changes what it holds: a buffer that counts, or the statistics of a batch norm in training."""

from collections.abc import Mapping, Sequence
from typing import Any

from pennyweight.errors import RecipeError
from pennyweight.models.exported.operators import aten_name, operator_of


def require_no_state_change(nodes: Sequence[Mapping[str, Any]], lifted: Mapping[str, str]) -> None:
    """Go through the operators that write to an argument, as torch itself declares them.

    Args:
        nodes: of the graph, in order.
        lifted: parameters, buffers and constants by the names of the inputs that hold them.

    Raises:
        RecipeError: a parameter, buffer or constant is written to, itself or through a view of it.
    """
    held = dict(lifted)  # and views of them
    for node in nodes:
        found = operator_of(aten_name(node["target"]))
        declared = {} if found is None else {a.name: a.alias_info for a in found._schema.arguments}
        for argument in node["inputs"]:
            alias, source = declared.get(argument["name"]), held.get(_tensor_name(argument["arg"]))
            if alias is None or source is None:
                continue
            if alias.is_write:
                raise changes_state(source)
            held.update(dict.fromkeys(_result_names(node), source))


def changes_state(name: str) -> RecipeError:
    """The error for a program that changes what it holds."""
    return RecipeError(
        f"its forward changes state, {name!r}: export model.eval(), and a model that changes itself even then has to "
        f"come from a Python file, net.py:make_net"
    )


def _tensor_name(argument: Mapping[str, Any]) -> str:
    return str(argument["as_tensor"]["name"]) if "as_tensor" in argument else ""


def _result_names(node: Mapping[str, Any]) -> list[str]:
    """Names of the tensors a node gives, alone or in a list."""
    return [
        tensor["name"]
        for output in node["outputs"]
        for tensor in output.get("as_tensors", [output["as_tensor"]] if "as_tensor" in output else [])
    ]
