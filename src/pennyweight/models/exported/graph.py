"""`build_module`: an archive's graph as a module that calls torch's layers, with the model's own names."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pennyweight.errors import RecipeError
from pennyweight.models.exported.archive import DTYPES, Archive
from pennyweight.models.exported.layers import LayerCall, Lifted, layer_call
from pennyweight.models.exported.module import ExportedModule
from pennyweight.models.exported.operators import CHECKS, DROPOUTS, aten_name, call_of
from pennyweight.models.exported.state import changes_state, require_no_state_change

_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_PLAIN = frozenset({"as_int", "as_float", "as_bool", "as_ints", "as_floats", "as_bools", "as_string"})
_SYMBOLS = frozenset({"as_sym_int", "as_sym_float", "as_sym_bool"})
_KEYWORD = 2


def build_module(archive: Archive) -> nn.Module:
    """The model in evaluation mode: operators with weights are torch's layers, named as in the model exported.

    Deviations: dropout is gone, and so are checks of what the example inputs showed.

    Raises:
        RecipeError: the batch is fixed, the program has state or control flow, calls what is not known, or has not one
            linear or convolutional layer or embedding.
    """
    return _Builder(archive).build()


class _Builder:
    """Goes through the graph twice: for the layers and their names, then for the calls."""

    def __init__(self, archive: Archive) -> None:
        self._tensors = archive.tensors
        self._nodes: list[Mapping[str, Any]] = archive.graph["nodes"]
        self._shapes: Mapping[str, Any] = archive.graph["tensor_values"]
        self._inputs, self._lifted, self._persistent = _inputs(archive)
        self._constants = _constants(archive.signature)
        self._outputs = _outputs(archive)
        self._graph = fx.Graph()
        self._root = ExportedModule()
        self._values: dict[str, Any] = {}  # of inputs and calls, by the program's names
        self._held: dict[str, fx.Node] = {}  # loose parameters, buffers and constants, by the model's names

    def build(self) -> nn.Module:
        """The module."""
        calls = {index: call for index, node in enumerate(self._nodes) if (call := self._layer(node)) is not None}
        require_no_state_change(self._nodes, self._lifted)
        names = self._names(calls)
        made = {names[index]: call for index, call in calls.items()}
        for name, call in sorted(made.items(), key=lambda item: item[0].count(".")):
            self._place(name, call.make(self._tensors))
        for name in self._inputs:
            self._values[name] = self._graph.placeholder(name)
        for index, node in enumerate(self._nodes):
            if (call := calls.get(index)) is not None:
                x = self._node_of(call.x)
                self._put(node, self._graph.call_module(names[index], (x,)))
            else:
                self._call(node)
        # Only now: what the program should not call has been named before.
        if not any(isinstance(t, nn.Parameter) and t.dim() >= 2 for c in calls.values() for t in self._own(c)):
            raise RecipeError(
                "it has no linear or convolutional layer or embedding: export the model with torch.export.export, and "
                "do not decompose or quantize it before saving"
            )
        self._place_unread(calls)
        results = [self._node_of(self._argument(value)) for value in self._outputs]
        self._graph.output(results[0] if len(results) == 1 else tuple(results))
        self._root.graph = self._graph
        return self._root.eval()

    def _own(self, call: LayerCall) -> list[Tensor]:
        return [self._tensors[lifted.fqn] for _, lifted in call.tensors if lifted is not None]

    def _layer(self, node: Mapping[str, Any]) -> LayerCall | None:
        name = aten_name(node["target"])
        given = {entry["name"]: self._argument(entry["arg"], names_only=True) for entry in node["inputs"]}
        return layer_call(name, given, self._tensors, lambda value: len(self._shapes[value.name]["sizes"]))

    def _names(self, calls: Mapping[int, LayerCall]) -> dict[int, str]:
        """Names of the calls' layers: calls of one layer in one module have one name, and others never the same."""
        names: dict[int, str] = {}
        taken: dict[str, Any] = {}
        for index, call in calls.items():
            # A tied weight has one name in the program and several in the model, of which the module called has one.
            module = _module_name(self._nodes[index])
            owners = [name.rpartition(".")[0] for name in self._aliases(call)]
            options = [name for name in (module if module in owners else "", call.fqn, *owners, module) if name]
            options += [call.kind.__name__.lower(), f"{call.kind.__name__.lower()}_{index}"]
            names[index] = next(name for name in options if taken.setdefault(name, call.key) == call.key)
        return names

    def _aliases(self, call: LayerCall) -> list[str]:
        """All names the model has for the layer's first tensor."""
        first = self._tensors[next(lifted.fqn for _, lifted in call.tensors if lifted is not None)]
        return [name for name in self._persistent if self._tensors[name] is first]

    def _place_unread(self, calls: Mapping[int, LayerCall]) -> None:
        """Weights that the program never reads, or reads by another name, so that state dicts have the model's keys."""
        read = {lifted.fqn for call in calls.values() for _, lifted in call.tensors if lifted is not None}
        for name in self._persistent:
            if name not in read and name not in self._held:
                self._place(name, self._tensors[name])

    def _place(self, name: str, value: nn.Module | Tensor) -> None:
        """Put a module, parameter or buffer where its name says; what stands there already is the same one."""
        *path, last = name.split(".")
        owner: nn.Module = self._root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if isinstance(value, nn.Module):
            owner.add_module(last, value)
        elif getattr(owner, last, None) is not value:
            if isinstance(value, nn.Parameter):
                owner.register_parameter(last, value)
            else:
                owner.register_buffer(last, value, persistent=name in self._persistent)

    def _call(self, node: Mapping[str, Any]) -> None:
        name = aten_name(node["target"])
        base = name.partition(".")[0]
        if base in CHECKS:
            return
        args = [self._node_of(self._argument(e["arg"])) for e in node["inputs"] if e["kind"] != _KEYWORD]
        kwargs = {e["name"]: self._node_of(self._argument(e["arg"])) for e in node["inputs"] if e["kind"] == _KEYWORD}
        if base in DROPOUTS:
            if args[2]:
                raise RecipeError("it was exported in training mode: export model.eval()")
            self._put(node, args[0])
            return
        result = self._graph.create_node(*call_of(node["target"], args, kwargs))
        self._put(node, result)
        if base.endswith("_") and "as_tensor" in node["inputs"][0]["arg"]:
            # It has changed its first argument: who reads that from now on reads the result, as the graph should show.
            self._values[node["inputs"][0]["arg"]["as_tensor"]["name"]] = result

    def _put(self, node: Mapping[str, Any], result: Any) -> None:
        """Give a call's results their names."""
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self._values[_name_of(outputs[0])] = result
            return
        listed = [{"as_tensor": t} for t in outputs[0]["as_tensors"]] if len(outputs) == 1 else outputs
        for index, output in enumerate(listed):
            if "as_none" not in output:
                self._values[_name_of(output)] = self._graph.call_function(operator.getitem, (result, index))

    def _argument(self, value: Mapping[str, Any], *, names_only: bool = False) -> Any:
        """An argument; values of other nodes are `_Named` until they are looked up."""
        ((kind, content),) = value.items()
        if kind in _PLAIN:
            return content
        if kind == "as_none":
            return None
        if kind == "as_tensor" or (kind in _SYMBOLS and "as_name" in content):
            name = content["name"] if kind == "as_tensor" else content["as_name"]
            return Lifted(self._lifted[name]) if name in self._lifted else _Named(name)
        if kind in _SYMBOLS:
            return next(iter(content.values()))
        if kind == "as_tensors":
            return [self._argument({"as_tensor": item}) for item in content]
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._argument({kind[:-1]: item}) for item in content]
        if kind in ("as_optional_tensor", "as_optional_tensors"):
            return self._argument(content) if kind == "as_optional_tensor" else [self._argument(i) for i in content]
        if kind == "as_scalar_type":
            return DTYPES[content]
        if kind == "as_memory_format":
            return _FORMATS[content]
        if kind == "as_layout" and content == 7:
            return torch.strided
        if kind == "as_device":
            return torch.device(content["type"], content["index"])
        if names_only:
            return None
        raise RecipeError(
            f"it holds an argument of kind {kind.removeprefix('as_')!r}, as control flow and custom objects have: put "
            f"the model into a Python file instead, net.py:make_net"
        )

    def _node_of(self, value: Any) -> Any:
        """Arguments with the nodes that names stand for."""
        if isinstance(value, _Named):
            return self._constants[value.name] if value.name in self._constants else self._values[value.name]
        if isinstance(value, Lifted):
            if value.fqn not in self._held:
                self._place(value.fqn, self._tensors[value.fqn])
                with self._graph.inserting_before(next(iter(self._graph.nodes))):
                    self._held[value.fqn] = self._graph.get_attr(value.fqn)
            return self._held[value.fqn]
        return [self._node_of(item) for item in value] if isinstance(value, list) else value


class _Named:
    """A value that an input or an earlier node gives."""

    def __init__(self, name: str) -> None:
        self.name = name


def _name_of(output: Mapping[str, Any]) -> str:
    ((_, content),) = output.items()
    return str(content["as_name"] if "as_name" in content else content["name"])


def _module_name(node: Mapping[str, Any]) -> str:
    """Path of the innermost module the operator came from, as the metadata tells it; "" where it does not."""
    stack = node["metadata"].get("nn_module_stack", "")
    path = stack.rpartition(";")[2].split(",")[1:2]
    return path[0] if path and all(part.isidentifier() or part.isdigit() for part in path[0].split(".")) else ""


def _inputs(archive: Archive) -> tuple[list[str], dict[str, str], list[str]]:
    """Names of the user's inputs, what the other inputs hold, and which of that a state dict has."""
    user: list[str] = []
    lifted: dict[str, str] = {}
    persistent: list[str] = []
    fields = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    for spec in archive.signature["input_specs"]:
        ((kind, content),) = spec.items()
        if kind in fields:
            name = lifted[content["arg"]["name"]] = content[fields[kind]]
            if kind == "parameter" or content.get("persistent"):
                persistent.append(name)
        elif kind == "user_input":
            if "as_tensor" not in content["arg"]:
                raise RecipeError("one of its inputs is no tensor: export the model with tensors alone")
            user.append(content["arg"]["as_tensor"]["name"])
        elif kind != "constant_input":
            raise RecipeError(f"it takes an input of kind {kind!r}: put the model into a Python file, net.py:make_net")
    for name in user:
        sizes = archive.graph["tensor_values"][name]["sizes"]
        if not sizes or "as_int" in sizes[0]:
            raise RecipeError(
                f"its batch is fixed: input {name!r} has {sizes[0]['as_int'] if sizes else 'no'} samples; export with "
                f"dynamic_shapes={{{name!r}: {{0: torch.export.Dim('batch')}}}}"
            )
    return user, lifted, persistent


def _constants(signature: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that were plain values when the model was exported, and stay what they were."""
    found = [spec["constant_input"] for spec in signature["input_specs"] if "constant_input" in spec]
    return {spec["name"]: None if "as_none" in spec["value"] else next(iter(spec["value"].values())) for spec in found}


def _outputs(archive: Archive) -> list[Mapping[str, Any]]:
    for spec in archive.signature["output_specs"]:
        ((kind, content),) = spec.items()
        if kind != "user_output":
            raise changes_state(content.get("buffer_name", kind))
    outputs: list[Mapping[str, Any]] = archive.graph["outputs"]
    return outputs
