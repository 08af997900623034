"""One upload to one prediction: what the worker's thread does."""

import base64
from dataclasses import dataclass
from typing import Any, Literal

from octlet.core.errors import InputError
from octlet.core.image import Prepared, decode
from octlet.core.prediction import Prediction
from octlet.runtime.heatmap import overlay_png
from octlet.runtime.predictor import Predictor
from octlet.runtime.verify import GoldenVector
from octlet.serve.limits import HEATMAP_PIXELS
from octlet.serve.upload import Upload

PNG_LEVEL = 1  # the usual 6 takes as long as the network


@dataclass(frozen=True)
class Query:
    """What a request for predictions may ask for besides.

    Attributes:
        heatmap: whose class activation map is wanted over each scan: the predicted label's, or a label's.
    """

    heatmap: Literal["none", "predicted", "CNV", "DME", "DRUSEN", "NORMAL"] = "none"


def predict_scan(predictor: Predictor, upload: Upload, query: Query) -> dict[str, Any]:
    """Return what `octlet predict --json` says of a scan; with a heatmap, its label and PNG in base64.

    Raises InputError, naming the scan, and ModelFileError where the network cannot be computed.
    """
    gray = decode(upload.data, upload.name)
    if query.heatmap != "none" and gray.size > HEATMAP_PIXELS:
        rule = f"the scan has over {HEATMAP_PIXELS // 1_000_000} million pixels, too many for a heatmap"
        raise InputError(rule, path=upload.name, remedy="ask without one, or send a single B-scan")
    scores = predictor.score([predictor.prepare(gray, upload.name)])
    prediction = Prediction.of(upload.name, scores.probabilities[0])
    document = prediction.as_dict()
    if query.heatmap != "none":
        label = prediction.label if query.heatmap == "predicted" else query.heatmap
        png = overlay_png(gray, scores.cam[0], predictor.size, scores.boxes[0], label, PNG_LEVEL)
        document["heatmap"] = {"label": label, "png": base64.b64encode(png).decode()}
    return document


def finds_label(predictor: Predictor, vector: GoldenVector) -> bool:
    """Return whether the engine still finds a golden vector's label: the self-check of a running server."""
    whole = Prepared(vector.pixels, (0, 0, predictor.size, predictor.size))
    logits = predictor.compute([whole]).logits
    return bool(logits.argmax() == vector.outputs.logits.argmax())
