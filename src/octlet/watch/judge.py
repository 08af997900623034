"""From a file's content to what the model says of it: of one scan, or of a volume and its eyes."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from octlet.clinical.eye import EyePrediction, JudgedVolume, eyes_of
from octlet.clinical.read import CLINICAL_SUFFIXES, read_volumes
from octlet.clinical.volume import Volume
from octlet.core.errors import InputError
from octlet.core.image import IMAGE_SUFFIXES
from octlet.core.prediction import Prediction
from octlet.runtime.predictor import Predictor
from octlet.watch.content import Content, check_size, decode_image

_DICOM = frozenset({".dcm", ".dicom"})


@dataclass(frozen=True)
class Judged:
    """What is said of a file.

    Attributes:
        predictions: of each B-scan that can be judged, at least one, in the file's order.
        eyes: what the B-scans of volumes say together, the most pressing first; empty for an image.
    """

    predictions: tuple[Prediction, ...]
    eyes: tuple[EyePrediction, ...] = ()

    @property
    def urgency(self) -> str:
        """That of the most pressing eye."""
        return self.eyes[0].urgency if self.eyes else self.predictions[0].urgency


def watched_suffixes() -> frozenset[str]:
    """Return which files are taken; DICOM only where it can be read, lest it be told unreadable for good."""
    known = IMAGE_SUFFIXES | CLINICAL_SUFFIXES
    return known if importlib.util.find_spec("pydicom") else known - _DICOM


def judge(predictor: Predictor, content: Content, name: str, beat: Callable[[], None]) -> Judged:
    """Decode and predict a file, scan by scan, calling `beat` after each of a volume.

    Raises InputError for what cannot be decoded, or where no B-scan can be judged; ModelFileError as
    `Predictor.predict`.
    """
    check_size(content, name)
    suffix = PurePath(name).suffix.lower()
    volumes = read_volumes(name, data=content.data) if suffix in CLINICAL_SUFFIXES else []
    if not volumes or volumes[0].picture:
        gray = volumes[0].scans[0] if volumes else decode_image(content, name)
        return Judged(tuple(predictor.predict([gray], [name])))
    judged = [_judge_volume(predictor, volume, beat) for volume in volumes]
    predictions = tuple(each for volume in judged for each in volume.predictions)
    if not predictions:
        raise InputError("none of its B-scans can be judged", path=name, remedy="export the volume again")
    return Judged(predictions, tuple(eyes_of(judged)))


def _judge_volume(predictor: Predictor, volume: Volume, beat: Callable[[], None]) -> JudgedVolume:
    said: list[Prediction] = []
    for index, gray in enumerate(volume.scans):
        try:
            said += predictor.predict([gray], [volume.name_of(index)])
        except InputError:
            continue  # white throughout: it is counted as left out
        finally:
            beat()
    return JudgedVolume.of(volume, said, len(volume.scans))
