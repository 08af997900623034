"""A small LiteRT file, written operation by operation, and the same network in numpy."""

from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from octlet.runtime.engine import Outputs

SIZE, CELL = 64, 8  # pixels


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One 8 x 8 convolution of stride 8, (4, 8, 8, 1), and its biases."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, CELL, CELL, 1)), rng.normal(size=4)
    return kernel.astype(np.float32), bias.astype(np.float32)


def expected(scan: NDArray[np.float32]) -> Outputs:
    """What the network says of one scan, float32 (1, 1, 64, 64); its embedding is the maps' maxima."""
    kernel, bias = weights()
    cells = scan[0, 0].reshape(SIZE // CELL, CELL, SIZE // CELL, CELL)
    cam = np.einsum("kyx,hywx->khw", kernel[..., 0], cells) + bias[:, None, None]
    return Outputs(cam.mean(axis=(1, 2))[None], cam[None], cam.max(axis=(1, 2))[None])


class _Writer:
    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name: str, shape: tuple[int, ...], data: NDArray[Any] | None = None) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        integers = data is not None and data.dtype == np.int32
        tensor.type = self.schema.TensorType.INT32 if integers else self.schema.TensorType.FLOAT32
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operation(self, name: str, inputs: list[int], outputs: list[int], options: str = "") -> Any:
        code, node = self.schema.OperatorCodeT(), self.schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        code.version = 1
        self.model.operatorCodes.append(code)
        node.opcodeIndex, node.inputs, node.outputs = len(self.graph.operators), inputs, outputs
        if options:
            node.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            node.builtinOptions = getattr(self.schema, f"{options}T")()
        self.graph.operators.append(node)
        return node.builtinOptions

    def named(self, name: str, index: int) -> Any:
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry


def litert_file(*, image: str = "image", embedding: str = "embedding") -> bytes:
    """The network as a .tflite file with one signature, whose input and last output can be misnamed."""
    w, side = _Writer(), SIZE // CELL
    kernel, bias = weights()
    scan, cam = w.tensor("image", (1, 1, SIZE, SIZE)), w.tensor("cam", (1, 4, side, side))
    last, cells = w.tensor("last", (1, SIZE, SIZE, 1)), w.tensor("cells", (1, side, side, 4))
    logits, maxima = w.tensor("logits", (1, 4)), w.tensor("maxima", (1, 4))
    shape = w.tensor("shape", (4,), np.array([1, SIZE, SIZE, 1], np.int32))
    order = w.tensor("order", (4,), np.array([0, 3, 1, 2], np.int32))
    axes = w.tensor("axes", (2,), np.array([2, 3], np.int32))
    w.operation("RESHAPE", [scan, shape], [last])
    given = [last, w.tensor("kernel", kernel.shape, kernel), w.tensor("bias", bias.shape, bias)]
    options = w.operation("CONV_2D", given, [cells], "Conv2DOptions")
    options.strideH = options.strideW = CELL
    options.padding = w.schema.Padding.VALID
    w.operation("TRANSPOSE", [cells, order], [cam], "TransposeOptions")
    w.operation("MEAN", [cam, axes], [logits], "ReducerOptions")
    w.operation("REDUCE_MAX", [cam, axes], [maxima], "ReducerOptions")
    w.graph.inputs, w.graph.outputs = [scan], [logits, cam, maxima]
    signature = w.schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.inputs = [w.named(image, scan)]
    signature.outputs = [w.named("logits", logits), w.named("cam", cam), w.named(embedding, maxima)]
    w.model.subgraphs, w.model.signatureDefs = [w.graph], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(w.model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
