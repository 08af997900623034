"""What a request asks of its scans: reading an upload, and a prediction as a document."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from PIL import Image

from octlet.clinical.read import CLINICAL_SUFFIXES, is_dicom, read_volumes
from octlet.clinical.volume import Volume
from octlet.core.errors import InputError, UsageError
from octlet.core.image import Gray, Prepared
from octlet.core.prediction import Prediction
from octlet.runtime.heatmap import coarse, overlay_png
from octlet.runtime.predictor import Grid, Predictor, Scores
from octlet.runtime.verify import GoldenVector
from octlet.serve.limits import HEATMAP_PIXELS
from octlet.serve.upload import Upload

PNG_LEVEL = 1  # the usual 6 takes as long as the network


@dataclass(frozen=True)
class Query:
    """What a request for predictions may ask for besides.

    Attributes:
        heatmap: whose class activation map is wanted over each scan: the predicted label's, or a label's.
        map: whether the coarse maps of all classes are wanted as numbers, for who draws them.
        scan: whether each scan is wanted as a picture, since no browser shows a clinical file.
        slices: which B-scans of a volume are wanted, "3" or "1-8", counted from 1; "" is all of them.
    """

    heatmap: Literal["none", "predicted", "CNV", "DME", "DRUSEN", "NORMAL"] = "none"
    map: Literal["none", "all"] = "none"
    scan: Literal["none", "png"] = "none"
    slices: str = ""

    def __post_init__(self) -> None:
        if self.slices and not (
            re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?", self.slices) and self._ends()[0] > 0
        ):
            raise UsageError("query.slices is no range of B-scans", remedy="for example slices=1-8")

    @property
    def draws(self) -> bool:
        """Whether pictures are wanted."""
        return self.heatmap != "none" or self.scan != "none"

    def picked(self, count: int) -> range:
        """Return the indices, from 0, of the B-scans that are wanted of a volume of so many."""
        first, last = self._ends() if self.slices else (1, count)
        return range(first - 1, min(last, count))

    def _ends(self) -> tuple[int, int]:
        first, _, last = self.slices.partition("-")
        return int(first), int(last or first)


def is_volume(upload: Upload) -> bool:
    """Return whether an upload is read as a clinical file: by its name, or DICOM by its first bytes."""
    return PurePath(upload.name).suffix.lower() in CLINICAL_SUFFIXES or is_dicom(upload.data[:132])


def read_upload(upload: Upload) -> list[Volume]:
    """Decode a clinical file; raises InputError, naming it."""
    return read_volumes(upload.name, data=upload.data)


def check_drawn(gray: Gray, name: str, query: Query) -> None:
    """Raise InputError where pictures of a scan are wanted and it is too large for them."""
    if query.draws and gray.size > HEATMAP_PIXELS:
        rule = f"the scan has over {HEATMAP_PIXELS // 1_000_000} million pixels, too many for a heatmap"
        raise InputError(rule, path=name, remedy="ask without one, or send a single B-scan")


def document_of(
    prediction: Prediction, gray: Gray, scores: Scores, row: int, grid: Grid, query: Query
) -> dict[str, Any]:
    """Return a prediction as a document with what the query asks for; pictures are PNG in base64.

    Args:
        prediction: what the model says of the scan.
        gray: the scan, uint8 (H, W).
        scores: of the batch that it was in.
        row: its place there.
        grid: where the cells of its maps lie.
        query: what is wanted.
    """
    cam, box = scores.cam[row], scores.boxes[row]
    document = prediction.as_dict()
    if query.heatmap != "none":
        label = prediction.label if query.heatmap == "predicted" else query.heatmap
        png = overlay_png(gray, cam, grid, box, label, PNG_LEVEL)
        document["heatmap"] = {"label": label, "png": base64.b64encode(png).decode()}
    if query.map == "all":
        document["map"] = coarse(gray, cam, grid, box)
    if query.scan == "png":
        document["scan"] = base64.b64encode(_png(gray)).decode()
    return document


def _png(gray: Gray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def finds_label(predictor: Predictor, vector: GoldenVector) -> bool:
    """Return whether the engine still finds a golden vector's label: the self-check of a running server."""
    whole = Prepared(vector.pixels, (0, 0, predictor.size, predictor.size))
    logits = predictor.compute([whole]).logits
    return bool(logits.argmax() == vector.outputs.logits.argmax())
