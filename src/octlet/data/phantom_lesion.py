"""What a disease does to the tissue: drusen, neovascularisation, cystoid oedema.

Each lesion edits the thickness and reflectance tables of a `Tissue` and says which layers it fills; cysts lie
within a layer and are returned as ellipses.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from octlet.data.phantom_anatomy import AXIAL_UM, INDEX, Array, Tissue, wave

THINNEST_UM: Final = 8.0  # what pressure from below leaves of the outer nuclear layer
SMOOTHED_UM: Final = 700.0  # width over which the inner retina evens out a bump below it


@dataclass(frozen=True)
class Ellipse:
    """A fluid cyst or a bright exudate: centre and half axes in pixels, displayed reflectance."""

    column: float
    row: float
    half_width: float
    half_height: float
    reflectance: float


@dataclass(frozen=True)
class Lesion:
    """What the mask of a scan is made of: layers that the disease opened, and ellipses within layers."""

    layers: tuple[str, ...] = ()
    ellipses: list[Ellipse] = field(default_factory=list)


def _bump(x: Array, centre: float, width: float, sharpness: float = 2.0) -> Array:
    return np.asarray(np.exp(-0.5 * np.abs((x - centre) / width) ** sharpness), np.float32)


def _place(tissue: Tissue, rng: np.random.Generator, spread: float) -> float:
    """Return a lateral position near the fovea and well inside the frame."""
    edge = 0.72 * float(tissue.x[-1])
    return float(np.clip(rng.normal(tissue.fovea, spread), -edge, edge))


def _press(tissue: Tissue, height: Array, share: float) -> None:
    """Thin the outer nuclear layer over something `height` high: it takes up `share` of it and all jags."""
    window = np.hanning(round(_columns(tissue, SMOOTHED_UM)))
    lift = (1 - share) * np.convolve(height, window / window.sum(), mode="same")
    layer = tissue.thickness[INDEX["ONL"]]
    layer[:] = np.maximum(layer + lift - height, np.minimum(layer, THINNEST_UM))


def drusen(tissue: Tissue, rng: np.random.Generator) -> Lesion:
    """Raise the RPE in a few small domes over the choriocapillaris, which stays where it is."""
    middle = _place(tissue, rng, 700.0)
    heights = np.zeros_like(tissue.x)
    for _ in range(rng.integers(6, 14)):
        centre = np.clip(rng.normal(middle, 1300.0), *(0.9 * tissue.x[[0, -1]]))
        dome = rng.uniform(35.0, 70.0) * _bump(
            tissue.x, centre, rng.uniform(55.0, 105.0), rng.uniform(2.0, 3.5)
        )
        heights = np.maximum(heights, dome)
    tissue.thickness[INDEX["sub-RPE"]] += heights
    tissue.reflectance[INDEX["sub-RPE"]] *= rng.uniform(0.8, 1.25)
    tissue.reflectance[[INDEX["EZ"], INDEX["OS"]]] *= 1 - 0.45 * heights / heights.max()
    _press(tissue, heights, 0.8)
    return Lesion(("sub-RPE",))


def neovascularisation(tissue: Tissue, rng: np.random.Generator) -> Lesion:
    """Grow a bright mass through a broken RPE and lift the retina off it by dark subretinal fluid."""
    centre, width = _place(tissue, rng, 800.0), rng.uniform(480.0, 950.0)
    body = _bump(tissue.x, centre, width, rng.uniform(2.0, 4.0))
    ragged = np.clip(1 + 0.25 * wave(tissue.x, 400.0, rng), 0.3, 1.7)
    mass = rng.uniform(80.0, 160.0) * body * ragged
    detachment = rng.uniform(0.0, 70.0) * _bump(tissue.x, centre, 0.8 * width) * ragged
    dome_centre, dome_width = centre + rng.uniform(-0.7, 0.7) * width, rng.uniform(1.0, 1.5) * width
    dome = rng.uniform(150.0, 270.0) * _bump(tissue.x, dome_centre, dome_width, 2.5)
    fluid = np.maximum(dome - mass - detachment, 0)
    for name, height in (("subretinal mass", mass), ("sub-RPE", detachment), ("subretinal fluid", fluid)):
        height[height < AXIAL_UM] = 0
        tissue.thickness[INDEX[name]] += height
    tissue.reflectance[INDEX["subretinal mass"]] *= rng.uniform(0.85, 1.3)
    torn = 1 - rng.uniform(0.4, 0.75) * body * np.clip(0.6 + 0.6 * wave(tissue.x, 400.0, rng), 0, 1)
    tissue.reflectance[[INDEX["EZ"], INDEX["OS"], INDEX["RPE"]]] *= torn
    _press(tissue, mass + detachment + fluid, 0.4)
    return Lesion(("subretinal fluid", "subretinal mass", "sub-RPE"))


def oedema(tissue: Tissue, rng: np.random.Generator) -> Lesion:
    """Swell the nuclear layers, which flattens the pit, open dark cysts in them and leave a few exudates."""
    centre, width = _place(tissue, rng, 700.0), rng.uniform(600.0, 1300.0)
    swelling = _bump(tissue.x, centre, width)
    inner = swelling * rng.uniform(45.0, 100.0)
    tissue.thickness[INDEX["INL"]] += inner
    tissue.thickness[INDEX["ONL"]] += swelling * rng.uniform(85.0, 200.0)
    edges = tissue.boundaries()
    cysts = [_cyst(tissue, edges, centre, width, rng) for _ in range(rng.integers(6, 16))]
    exudates = [_exudate(tissue, edges, centre, width, rng) for _ in range(rng.integers(0, 5))]
    return Lesion(ellipses=cysts + exudates)


def _columns(tissue: Tissue, length: float) -> float:
    """Return a lateral length in columns."""
    return length / float(tissue.x[1] - tissue.x[0])


def _spot(tissue: Tissue, edges: Array, layer: str, where: float) -> tuple[int, float, float]:
    """Return the column at lateral position `where`, and the middle row and half height of `layer` there."""
    column = int(np.clip(np.searchsorted(tissue.x, where), 0, len(tissue.x) - 1))
    top, bottom = edges[INDEX[layer] : INDEX[layer] + 2, column]
    return column, float(top + bottom) / 2, float(bottom - top) / 2


def _cyst(tissue: Tissue, edges: Array, centre: float, width: float, rng: np.random.Generator) -> Ellipse:
    layer = "ONL" if rng.uniform() < 0.6 else "INL"
    column, row, room = _spot(tissue, edges, layer, rng.normal(centre, 0.6 * width))
    half = room * rng.uniform(0.6, 1.0)
    row += rng.uniform(-0.5, 0.5) * (room - half)
    half_width = _columns(tissue, half * AXIAL_UM * rng.uniform(1.2, 3.2))
    return Ellipse(column, row, half_width, half, rng.uniform(0.04, 0.11))


def _exudate(tissue: Tissue, edges: Array, centre: float, width: float, rng: np.random.Generator) -> Ellipse:
    column, row, room = _spot(tissue, edges, "OPL", rng.normal(centre, 0.8 * width))
    half = rng.uniform(8.0, 20.0)
    row += rng.uniform(-room, room)
    return Ellipse(column, row, _columns(tissue, 2 * half), half / AXIAL_UM, rng.uniform(0.5, 0.75))


def healthy(tissue: Tissue, rng: np.random.Generator) -> Lesion:
    """Leave the tissue as it is."""
    return Lesion()


LESIONS: Final[dict[str, Callable[[Tissue, np.random.Generator], Lesion]]] = {
    "CNV": neovascularisation,
    "DME": oedema,
    "DRUSEN": drusen,
    "NORMAL": healthy,
}
