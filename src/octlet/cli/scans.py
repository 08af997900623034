"""What the paths on a command line hold: images and the B-scans of volumes, each as it is to be shown.

With a salt nothing of a file's name is shown, since it may hold a patient's: a volume is called by its
subject, eye and number, an image by a keyed hash of its content, and a file that cannot be read by its
place in the list.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from octlet.clinical.read import is_clinical, read_volumes
from octlet.clinical.volume import Keys, Volume
from octlet.core.errors import InputError
from octlet.core.files import printable, sha256_of
from octlet.core.image import IMAGE_SUFFIXES, Gray, read_scan
from octlet.runtime.heatmap import overlay_names


@dataclass(frozen=True)
class Scan:
    """One B-scan.

    Attributes:
        name: as it is shown; "FILE#3" in a volume.
        heatmap: where its heatmap goes, below the folder that was asked for.
        gray: uint8 (H, W).
        volume: its index in `ScanFiles.volumes`; None for an image.
    """

    name: str
    heatmap: Path
    gray: Gray
    volume: int | None = None


class ScanFiles:
    """The files of a command line, read one after another.

    Attributes:
        files: those that are read, folders walked in the order of their names.
        errors: what could not be read, so far.
        volumes: those that were read so far, as they are shown, without their scans.
    """

    def __init__(self, paths: Sequence[Path], salt: bytes | None = None) -> None:
        self._keys = Keys(salt)
        self._used: Counter[str] = Counter()
        self.errors: list[InputError] = []
        self.volumes: list[Volume] = []
        self.sizes: list[int] = []
        self.files = list(self._walk(paths))
        named = overlay_names(printable(file) for file in self.files)
        self._stems = [name.removesuffix(".heatmap.png") for name in named]

    def _walk(self, paths: Sequence[Path]) -> Iterator[Path]:
        """Yield every file to predict; a folder without one is an error of its own."""
        for number, path in enumerate(paths, start=1):
            if not path.is_dir():
                yield path
                continue
            found = 0
            for folder, folders, files in os.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(files):
                    if not name.startswith(".") and _is_scan(Path(folder, name)):
                        found += 1
                        yield Path(folder, name)
            if not found:
                shown = f"argument-{number}" if self._keys.salt else printable(path)
                self.errors.append(InputError("no image in this folder", path=shown, remedy="check the path"))

    def read(self, index: int) -> Iterator[Scan]:
        """Yield the B-scans of a file; what is wrong with it goes to `errors`."""
        file = self.files[index]
        try:
            volumes = read_volumes(file, salt=self._keys.salt) if is_clinical(file) else []
            if not volumes or volumes[0].picture:
                gray = volumes[0].scans[0] if volumes else read_scan(file)
                name, stem = self._named(index, None)
                yield Scan(name, Path(f"{stem}.heatmap.png"), gray)
                return
        except InputError as error:
            self.fail(f"input-{index + 1}" if self._keys.salt else printable(file), error)
            return
        while volumes:
            yield from self._scans(index, volumes.pop(0))

    def _scans(self, index: int, volume: Volume) -> Iterator[Scan]:
        name, stem = self._named(index, volume)
        number = len(self.volumes)
        self.volumes.append(replace(volume, file=name, scans=()))
        self.sizes.append(len(volume.scans))
        for k, gray in enumerate(volume.scans, start=1):
            yield Scan(f"{name}#{k}", Path(stem, f"{k:04d}.heatmap.png"), gray, number)

    def fail(self, name: str, error: InputError) -> None:
        """Keep an error, under the name that its scan is shown by."""
        self.errors.append(InputError(error.rule, path=name, remedy=error.remedy))

    def _named(self, index: int, volume: Volume | None) -> tuple[str, str]:
        """Return how an image or a volume is shown, and the stem of its heatmaps' names."""
        file = self.files[index]
        if self._keys.salt is None:
            shown = printable(file) if volume is None else volume.file
            return shown, self._stems[index] + shown[len(printable(file)) :]
        if volume is not None and volume.subject is not None:
            base = f"{volume.subject}-{volume.eye or 'U'}"
        else:
            base = f"scan-{self._keys.content(sha256_of(file))}"
        self._used[base] += 1
        name = f"{base}-{self._used[base]}"
        return name, name


def _is_scan(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES or is_clinical(file)
