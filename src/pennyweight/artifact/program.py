"""A traced model as plain data: a list of steps that names only modules and functions from a fixed table.

What is not in the tables cannot be exported, and what is not in the tables cannot be run: loading an artifact executes
no code it brings along. How modules and their tensors are written is the business of `artifact.modules`.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pennyweight.errors import ArtifactError, PennyweightError, did_you_mean
from pennyweight.nn.tracing import trace

Step = dict[str, Any]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "neg": operator.neg,
    "getitem": operator.getitem,
    "torch.add": torch.add,
    "torch.cat": torch.cat,
    "torch.flatten": torch.flatten,
    "torch.matmul": torch.matmul,
    "torch.mean": torch.mean,
    "torch.relu": torch.relu,
    "torch.sigmoid": torch.sigmoid,
    "torch.tanh": torch.tanh,
    "F.adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "F.avg_pool2d": F.avg_pool2d,
    "F.gelu": F.gelu,
    "F.hardtanh": F.hardtanh,
    "F.hardswish": F.hardswish,
    "F.interpolate": F.interpolate,
    "F.leaky_relu": F.leaky_relu,
    "F.log_softmax": F.log_softmax,
    "F.max_pool2d": F.max_pool2d,
    "F.pad": F.pad,
    "F.relu": F.relu,
    "F.relu6": F.relu6,
    "F.scaled_dot_product_attention": F.scaled_dot_product_attention,
    "F.silu": F.silu,
    "F.softmax": F.softmax,
}
# operator.iadd and friends: the traced graph reads the result, so the pure form serves
_ALIASES: dict[Any, str] = {operator.iadd: "add", operator.imul: "mul", operator.isub: "sub"}
_NAMES: dict[Any, str] = {function: name for name, function in FUNCTIONS.items()} | _ALIASES
_DROPOUTS = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout})
_IN_PLACE = {"relu_": "relu", "sigmoid_": "sigmoid", "tanh_": "tanh"}
METHODS = frozenset({
    "contiguous", "flatten", "mean", "permute", "relu", "reshape", "sigmoid", "size", "softmax", "squeeze", "sum",
    "tanh", "transpose", "unflatten", "unsqueeze", "view",
})  # fmt: skip


def capture(model: nn.Module) -> tuple[str, list[Step], Any]:
    """Trace a model into steps.

    Returns:
        The input's name, the steps in order, and the encoded output.

    Raises:
        ArtifactError: the model cannot be traced, takes several inputs, or calls something outside the tables.
    """
    graph = trace(model)
    _write_out_of_place_(graph)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        names = [node.name for node in inputs]
        raise ArtifactError(f"the model takes {len(inputs)} inputs {names}; an artifact takes exactly one tensor")
    steps: list[Step] = []
    output: Any = None
    for node in graph.nodes:
        if node.op == "output":
            output = _encode(node.args[0], node)
        elif node.op != "placeholder":
            steps.append(_step(node))
    return inputs[0].name, steps, output


def _write_out_of_place_(graph: fx.Graph) -> None:
    """`x.relu_()` as `x.relu()`: whatever reads x later reads the result instead."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node, index in order.items():
        if node.op == "call_method" and str(node.target) in _IN_PLACE:
            changed = node.args[0]
            assert isinstance(changed, fx.Node)
            changed.replace_all_uses_with(node, delete_user_cb=lambda user, index=index: order[user] > index)  # type: ignore[misc]
            node.target = _IN_PLACE[str(node.target)]


def _step(node: fx.Node) -> Step:
    step: Step = {
        "name": node.name,
        "args": _encode(node.args, node),
        "kwargs": _encode(dict(node.kwargs), node),
    }
    if node.op == "call_module":
        return step | {"op": "module", "target": str(node.target)}
    if node.op == "call_function" and node.target in _DROPOUTS:
        return step | {"op": "method", "target": "contiguous", **_without_dropout(node)}
    if node.op == "call_function" and node.target in _NAMES:
        return step | {"op": "function", "target": _NAMES[node.target]}
    if node.op == "call_method" and node.target in METHODS:
        return step | {"op": "method", "target": str(node.target)}
    what = getattr(node.target, "__name__", node.target)
    if node.op == "get_attr":
        way_out = "move the parameter into a module of its own"
    else:
        way_out = f"use a torch module instead, or one of {', '.join(sorted(FUNCTIONS))}"
    raise ArtifactError(f"{node.op} {what!r} (node {node.name!r}) cannot be exported: {way_out}")


def _without_dropout(node: fx.Node) -> Step:
    """The arguments of a step that hands on what dropout would get.

    Raises:
        ArtifactError: it drops in evaluation mode too.
    """
    training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
    if training is not False:
        raise ArtifactError(
            f"dropout (node {node.name!r}) drops in evaluation mode too: call F.dropout(..., training=self.training)"
        )
    x = node.args[0] if node.args else node.kwargs["input"]
    return {"args": _encode((x,), node), "kwargs": _encode({}, node)}


def _encode(value: Any, node: fx.Node) -> Any:
    """Arguments as JSON values; references, slices and tuples become one-key objects."""
    if isinstance(value, fx.Node):
        return {"ref": value.name}
    if isinstance(value, slice):
        return {"slice": [_encode(part, node) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, node) for item in value]}
    if isinstance(value, list):
        return [_encode(item, node) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(key): _encode(item, node) for key, item in value.items()}}
    if value is Ellipsis:
        return {"ellipsis": True}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArtifactError(
        f"argument {value!r} of node {node.name!r} is a {type(value).__name__}, which is not plain data"
    )


def decode(value: Any, environment: Mapping[str, Any]) -> Any:
    """An encoded argument with its references looked up."""
    if isinstance(value, list):
        return [decode(item, environment) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "ref":
        return environment[content]
    if kind == "slice":
        return slice(*(decode(part, environment) for part in content))
    if kind == "tuple":
        return tuple(decode(item, environment) for item in content)
    if kind == "dict":
        return {key: decode(item, environment) for key, item in content.items()}
    assert kind == "ellipsis", kind
    return Ellipsis


_RAW_ERRORS = (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError, AssertionError)
"""What torch raises when an input does not fit; our own errors are ValueErrors too and are let through."""


class Program(nn.Module):
    """Runs steps, one after the other, and forgets each value after its last use.

    Args:
        input_name: name the input goes by.
        steps: as `capture` returns them.
        output: the encoded output.
        modules: module for each target a step names.
    """

    def __init__(self, input_name: str, steps: list[Step], output: Any, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.input_name = input_name
        self.steps = steps
        self.output = output
        self.calls = nn.ModuleDict({_key(target): module for target, module in modules.items()})
        self._last_use = _last_uses(steps, output)

    def forward(self, x: Tensor) -> Any:
        """Run the program on one input batch."""
        environment: dict[str, Any] = {self.input_name: x}
        for index, step in enumerate(self.steps):
            args, kwargs = decode(step["args"], environment), decode(step["kwargs"], environment)
            try:
                environment[step["name"]] = self._call(step, args, kwargs)
            except PennyweightError:
                raise
            except _RAW_ERRORS as error:
                raise ArtifactError(
                    f"step {step['name']!r} ({step['op']} {step['target']!r}) cannot run on input of shape "
                    f"{tuple(x.shape)}, {x.dtype}: {' '.join(str(error).split())[:200]}"
                ) from error
            for name in self._last_use.get(index, ()):
                del environment[name]
        return decode(self.output, environment)

    def _call(self, step: Step, args: Any, kwargs: Any) -> Any:
        if step["op"] == "module":
            return self.calls[_key(step["target"])](*args, **kwargs)
        if step["op"] == "function":
            return FUNCTIONS[step["target"]](*args, **kwargs)
        return getattr(args[0], step["target"])(*args[1:], **kwargs)


def _key(target: str) -> str:
    return target.replace(".", "/")  # ModuleDict refuses dots


def references(value: Any) -> set[str]:
    """Names of all values an encoded argument refers to."""
    if isinstance(value, list):
        return {name for item in value for name in references(item)}
    if isinstance(value, dict):
        if "ref" in value:
            return {value["ref"]}
        return {name for item in value.values() for name in references(item)}
    return set()


def _last_uses(steps: list[Step], output: Any) -> dict[int, list[str]]:
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in references(step["args"]) | references(step["kwargs"]) | {step["name"]}:
            last[name] = index
    for name in references(output):
        last.pop(name, None)
    uses: dict[int, list[str]] = {}
    for name, index in last.items():
        uses.setdefault(index, []).append(name)
    return uses


def check(input_name: str, steps: Any, output: Any, targets: Mapping[str, Any]) -> None:
    """Refuse a program that names anything outside the tables or refers to what does not exist yet.

    Raises:
        ArtifactError: naming the step.
    """
    known = {input_name}
    if not isinstance(steps, list):
        raise ArtifactError("the manifest's program is not a list of steps: the file is damaged or not ours")
    for step in steps:
        if not isinstance(step, dict) or set(step) != {"name", "op", "target", "args", "kwargs"}:
            raise ArtifactError(f"the program holds a malformed step: {str(step)[:200]}")
        tables: dict[str, Any] = {"module": targets, "function": FUNCTIONS, "method": METHODS}
        table = tables.get(step["op"])
        if table is None or step["target"] not in table:
            hint = did_you_mean(str(step["target"]), table or tables)
            raise ArtifactError(f"step {step['name']!r} calls unknown {step['op']} {step['target']!r}; {hint}")
        _check_encoding(step["args"])
        _check_encoding(step["kwargs"])
        if not _is_call(step):
            raise ArtifactError(
                f"step {step['name']!r} has arguments that are no call: the file is damaged or not ours"
            )
        missing = (references(step["args"]) | references(step["kwargs"])) - known
        if missing:
            raise ArtifactError(f"step {step['name']!r} reads {sorted(missing)}, which no earlier step makes")
        known.add(step["name"])
    _check_encoding(output)
    if references(output) - known:
        raise ArtifactError(f"the output reads {sorted(references(output) - known)}, which no step makes")


def _is_call(step: Step) -> bool:
    """Arguments are a tuple, keywords a mapping, and a method has something to be called on."""
    args, kwargs = step["args"], step["kwargs"]
    if not isinstance(step["name"], str) or not isinstance(args, dict) or not isinstance(kwargs, dict):
        return False
    if not isinstance(args.get("tuple"), list) or not isinstance(kwargs.get("dict"), dict):
        return False
    return step["op"] != "method" or bool(args["tuple"] and isinstance(args["tuple"][0], dict))


def _check_encoding(value: Any, depth: int = 0) -> None:
    if depth > 20:
        raise ArtifactError("the program nests arguments more than 20 deep: the file is damaged or hostile")
    if isinstance(value, list):
        for item in value:
            _check_encoding(item, depth + 1)
    elif isinstance(value, dict):
        if len(value) != 1 or next(iter(value)) not in ("ref", "slice", "tuple", "dict", "ellipsis"):
            raise ArtifactError(f"the program holds a malformed argument: {str(value)[:200]}")
        content = next(iter(value.values()))
        for item in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
            _check_encoding(item, depth + 1)
