"""`load` and `Artifact`: a packed model read back, with what it weighs and how it computes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pennyweight.artifact import manifest as container
from pennyweight.artifact import modules, program, runtime
from pennyweight.artifact.accumulators import decode_accumulator
from pennyweight.artifact.recurrent import put_gates_
from pennyweight.errors import ArtifactError

_GARBLED = (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError, AssertionError)


@dataclass(frozen=True)
class LayerRow:
    """One weighted layer of an artifact, for the per-layer table.

    Args:
        fqn: the layer's name.
        kind: "linear", "conv2d", ...
        weights: format of the weights, such as "binary" or "int4".
        inputs: format of what enters the product, "float32" when nothing quantizes it.
        weight_bits: bits a weight takes, scales left out.
        shape: of the weight.
        size_bytes: of everything stored for the layer: codes, scales, bias.
        sums: accumulator of few bits in which its products are summed; "" for one that is wide enough.
        execution: "executed" on a kernel of its own arithmetic, "simulated" in float32, or plain "float".
    """

    fqn: str
    kind: str
    weights: str
    inputs: str
    weight_bits: int
    shape: tuple[int, ...]
    size_bytes: int
    execution: str
    sums: str = ""


@dataclass(frozen=True)
class Artifact:
    """A packed model in a file.

    Args:
        path: the file.
        manifest: its manifest, verified.
        tensors: its tensors, packed as stored.
    """

    path: Path
    manifest: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)
    size_bytes: int

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def model(self, *, packed: bool = True) -> nn.Module:
        """The model, ready to call on float input.

        Args:
            packed: run chains of binary layers on packed words; False runs every layer as a torch module, which is
                slower and gives the same numbers.
        """
        specs, steps, output = self.manifest["modules"], self.manifest["program"], self.manifest["output"]
        built = {target: modules.decode(target, spec, self.tensors) for target, spec in specs.items()}
        put_gates_(built)
        if packed:
            try:
                lowered = runtime.lower(self.manifest["input"], steps, output, specs, built)
            except _GARBLED as error:
                raise ArtifactError(
                    f"the layers of {self.path} do not fit together ({error}): export it again"
                ) from error
        else:
            lowered = program.Program(self.manifest["input"], steps, output, built)
        for parameter in lowered.parameters():
            parameter.requires_grad_(False)
        return lowered.eval()

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """The weighted layers in order."""
        specs = self.manifest["modules"]
        executed = runtime.executed_layers(self.manifest["program"], specs, self.manifest["output"])
        return tuple(
            self._row(fqn, spec, fqn in executed) for fqn, spec in specs.items() if spec["kind"] in modules.WEIGHTED
        )

    def _row(self, fqn: str, spec: Mapping[str, Any], executed: bool) -> LayerRow:
        weights, inputs = spec["weight"]["format"], spec.get("input", {}).get("format", "float32")
        settings = {key: modules.unplain(value) for key, value in spec["settings"].items()}
        if spec["kind"] == "linear":
            shape: tuple[int, ...] = (settings["out_features"], settings["in_features"])
        elif spec["kind"] == "embedding":
            shape = (settings["num_embeddings"], settings["embedding_dim"])
        else:
            per_group = settings["in_channels"] // settings["groups"]
            shape = (settings["out_channels"], per_group, *settings["kernel_size"])
        stored = [tensor for name, tensor in self.tensors.items() if name.startswith(f"{fqn}.")]
        sums = str(decode_accumulator(spec["accumulator"]).spec) if "accumulator" in spec else ""
        is_float = weights.startswith(("float", "bfloat")) and inputs == "float32" and not sums
        return LayerRow(
            fqn=fqn,
            kind=spec["kind"],
            weights=weights,
            inputs=inputs,
            weight_bits=modules.weight_bits(weights),
            shape=shape,
            size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
            sums=sums,
            execution="executed" if executed else "float" if is_float else "simulated",
        )

    @property
    def size_breakdown(self) -> dict[str, int]:
        """Bytes on disk by role: weight codes, scales and zero points, other parameters, and the manifest."""
        roles = {"codes": 0, "scales": 0, "parameters": 0}
        for name, tensor in self.tensors.items():
            size = tensor.numel() * tensor.element_size()
            if name.endswith((".weight.codes", ".weight.signs")):
                roles["codes"] += size
            elif name.endswith((".scale", ".zero_point", ".absmax")):
                roles["scales"] += size
            else:
                roles["parameters"] += size
        return {**roles, "manifest": self.size_bytes - sum(roles.values())}

    @property
    def numerics(self) -> str:
        """How the weighted layers compute, in a few words: what is executed and what is simulated."""
        rows = self.layers
        kinds = {row.execution for row in rows}
        quantized = [row for row in rows if row.execution != "float"]
        sums = {row: f", sums {row.sums}" if row.sums else "" for row in quantized}
        formats = sorted({f"W {row.weights}, A {row.inputs}{sums[row]}" for row in quantized})
        if kinds <= {"float"}:
            return "float32 executed"
        if len(kinds) == 1:
            return f"{'; '.join(formats)}: {kinds.pop()}"
        counts = [f"{sum(row.execution == kind for row in rows)} {kind}" for kind in sorted(kinds)]
        return f"{'; '.join(formats)}: {', '.join(counts)} of {len(rows)} layers"


def load(path: str | Path) -> Artifact:
    """Read an artifact. Nothing in the file is executed, and nothing is unpickled.

    Raises:
        ArtifactError: the file is missing, truncated, tampered with, of another kind or version, or its program
            names anything outside the tables.
    """
    path = Path(path)
    manifest, tensors = container.read(path)
    try:
        specs = manifest["modules"]
        odd = [name for name, spec in specs.items() if spec["kind"] not in modules.KINDS]
        if odd:
            raise ArtifactError(f"{path} holds module {odd[0]!r} of unknown kind {specs[odd[0]]['kind']!r}")
        program.check(manifest["input"], manifest["program"], manifest["output"], specs)
        artifact = Artifact(path, manifest, tensors, path.stat().st_size)
        # Whoever edits a file can renew its digests: what later calls read must make sense now.
        artifact.model(packed=False)
        artifact.numerics  # noqa: B018  reading is the check
    except ArtifactError:
        raise
    except _GARBLED as error:
        raise ArtifactError(f"the manifest of {path} lacks or garbles {error}: export it again") from error
    return artifact
