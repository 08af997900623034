"""A small LiteRT file, written operation by operation, and the same network in numpy."""

import numpy as np
from numpy.typing import NDArray

from octlet.export.tflite import Writer
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


def litert_file(*, image: str = "image", embedding: str = "embedding") -> bytes:
    """The network as a .tflite file with one signature, whose input and last output can be misnamed."""
    w, side = Writer(), SIZE // CELL
    kernel, bias = (w.constant("", each) for each in weights())
    last, order, axes = (
        w.constant("", np.array(each, np.int32)) for each in ((1, SIZE, SIZE, 1), (0, 3, 1, 2), (2, 3))
    )
    scan, cam = w.tensor("image", (1, 1, SIZE, SIZE)), w.tensor("cam", (1, 4, side, side))
    shown = w.operation("RESHAPE", [scan, last], w.tensor("last", (1, SIZE, SIZE, 1)))
    cells = w.operation(
        "CONV_2D",
        [shown, kernel, bias],
        w.tensor("cells", (1, side, side, 4)),
        options="Conv2DOptions",
        strideH=CELL,
        strideW=CELL,
        padding=w.schema.Padding.VALID,
    )
    w.operation("TRANSPOSE", [cells, order], cam, options="TransposeOptions")
    logits, maxima = (
        w.operation(kind, [cam, axes], w.tensor(kind, (1, 4)), options="ReducerOptions")
        for kind in ("MEAN", "REDUCE_MAX")
    )
    return w.finish({image: scan}, {"logits": logits, "cam": cam, embedding: maxima})
