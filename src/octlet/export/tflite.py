"""A LiteRT file, formerly TensorFlow Lite: tensors, operations and one signature, as one flatbuffer.

Written with the schema that the engine itself brings, so that no converter is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 16  # bytes, of constants: the schema's force_align, which its Python code leaves out
_SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Grid:
    """The reals that integers stand for: scale x (integer - zero).

    Attributes:
        scales: float32, (1,) for a tensor, (C,) for one scale a channel.
        zeros: int64, of the same shape, in the range of int8.
        axis: of the channels.
    """

    scales: NDArray[np.float32]
    zeros: NDArray[np.int64]
    axis: int = 0

    def equals(self, other: "Grid") -> bool:
        """Tell whether two grids give every integer the same meaning."""
        return bool(
            self.axis == other.axis
            and np.array_equal(self.scales, other.scales)
            and np.array_equal(self.zeros, other.zeros)
        )


class Writer:
    """Collects one graph; tensors are named by their place in it."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.counts: dict[str, int] = {}
        self._model, self._graph = schema.ModelT(), schema.SubGraphT()
        self._model.version = _SCHEMA_VERSION
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []
        self._graph.tensors, self._graph.operators = [], []
        self._codes: dict[tuple[str, int], int] = {}

    def tensor(self, name: str, shape: Sequence[int], grid: Grid | None = None) -> int:
        """Add a tensor that is computed: int8 where a grid says what its integers mean, else float32."""
        kind = np.dtype(np.float32 if grid is None else np.int8)
        return self._tensor(name, shape, kind, grid)

    def constant(self, name: str, values: NDArray[Any], grid: Grid | None = None) -> int:
        """Add a constant: float32, int32 or int8."""
        index = self._tensor(name, values.shape, values.dtype, grid)
        buffer, data = self.schema.BufferT(), np.ascontiguousarray(values).tobytes()
        buffer.Pack = lambda builder: _pack_constant(self.schema, builder, data)
        self._model.buffers.append(buffer)
        self._graph.tensors[index].buffer = len(self._model.buffers) - 1
        return index

    def _tensor(self, name: str, shape: Sequence[int], kind: Any, grid: Grid | None) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, np.array(shape, np.int32)
        tensor.type = getattr(self.schema.TensorType, np.dtype(kind).name.upper())
        if grid is not None:
            how = tensor.quantization = self.schema.QuantizationParametersT()
            how.scale, how.zeroPoint, how.quantizedDimension = grid.scales, grid.zeros, grid.axis
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operation(
        self,
        name: str,
        inputs: Sequence[int],
        output: int,
        *,
        version: int = 1,
        options: str = "",
        **fields: int | bool,
    ) -> int:
        """Add an operation and return `output`.

        Args:
            name: of the schema's BuiltinOperator.
            inputs: tensors.
            output: the tensor that it writes.
            version: of the operation: the first that takes these types.
            options: the schema's class of options, without its T; `fields` are set in it.
            fields: the options.
        """
        node = self.schema.OperatorT()
        node.opcodeIndex = self._code(name, version)
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options:
            node.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            node.builtinOptions = getattr(self.schema, f"{options}T")()
            for key, value in fields.items():
                setattr(node.builtinOptions, key, value)
        self._graph.operators.append(node)
        self.counts[name] = self.counts.get(name, 0) + 1
        return output

    def _code(self, name: str, version: int) -> int:
        if (name, version) not in self._codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # what readers of before 2020 look at
            code.version = version
            self._codes[name, version] = len(self._codes)
            self._model.operatorCodes.append(code)
        return self._codes[name, version]

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> bytes:
        """Return the file's bytes, with one signature of these names."""
        import flatbuffers  # type: ignore[import-untyped]

        signature = self.schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs, signature.outputs = self._named(inputs), self._named(outputs)
        self._graph.inputs = np.array(list(inputs.values()), np.int32)
        self._graph.outputs = np.array(list(outputs.values()), np.int32)
        self._model.subgraphs, self._model.signatureDefs = [self._graph], [signature]
        builder = flatbuffers.Builder(2**20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _named(self, tensors: Mapping[str, int]) -> list[Any]:
        entries = []
        for name, index in tensors.items():
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            entries.append(entry)
        return entries


def _pack_constant(schema: Any, builder: Any, data: bytes) -> int:
    """Write a constant where the engine may read it in place; return the place of its table."""
    builder.StartVector(1, len(data), _ALIGNMENT)
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    vector = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, vector)
    place: int = schema.BufferEnd(builder)
    return place
