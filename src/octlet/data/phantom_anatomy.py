"""The eye that is simulated: a layered retina with a foveal pit, as thickness and reflectance tables.

Lengths are micrometres unless a name says pixels. Reflectance is given as the grey value it is displayed
with, 0 (black) to 1 (white), before noise.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import UsageError

Array = NDArray[np.float32]

AXIAL_UM: Final = 3.87  # one row of a Spectralis B-scan
LATERAL_UM: Final = {512: 11.5, 768: 11.5, 1024: 5.75, 1536: 5.75}  # one column, by width: 6 mm or 9 mm scans

# (height, width) and how often it occurs: Kermany's proportions, the same in every class.
SHAPES: Final = ((496, 512), (496, 768), (496, 1024), (496, 1536), (512, 512))
SHAPE_ODDS: Final = (0.52, 0.27, 0.02, 0.11, 0.08)


class Layer(NamedTuple):
    """One band of tissue: parafoveal thickness, displayed reflectance, and what is left of it in the pit."""

    name: str
    thickness: float
    reflectance: float
    in_pit: float


# From the vitreous down. The bands of no thickness are spaces that only a lesion opens.
LAYERS: Final = (
    Layer("RNFL", 26.0, 0.50, 0.10),
    Layer("GCL+IPL", 82.0, 0.36, 0.05),
    Layer("INL", 38.0, 0.25, 0.10),
    Layer("OPL", 28.0, 0.35, 0.45),
    Layer("ONL", 72.0, 0.21, 1.35),
    Layer("ELM", 6.0, 0.32, 1.0),
    Layer("myoid", 18.0, 0.25, 1.0),
    Layer("EZ", 14.0, 0.60, 1.0),
    Layer("OS", 20.0, 0.40, 1.4),
    Layer("subretinal fluid", 0.0, 0.11, 1.0),
    Layer("subretinal mass", 0.0, 0.48, 1.0),
    Layer("RPE", 26.0, 0.72, 1.0),
    Layer("sub-RPE", 0.0, 0.42, 1.0),
    Layer("choriocapillaris", 14.0, 0.44, 1.0),
)
INDEX: Final = {layer.name: position for position, layer in enumerate(LAYERS)}


@dataclass(frozen=True)
class Anatomy:
    """One eye: what all scans of a patient share. Drawn without knowledge of the class."""

    patient: str
    shape: tuple[int, int]
    curvature: float  # 1/um: the retina rises by curvature * x**2 away from the middle
    layer_scale: tuple[float, ...]  # of each layer's thickness
    pit_depth: float  # 0 (no pit) to 1
    pit_width: float  # standard deviation of the pit
    nasal: float  # -1 or 1: the side on which the nerve fibres thicken
    brightness: float  # gain of the displayed reflectance
    choroid: float  # depth at which the choroid has faded to 1/e
    looks: float  # independent speckle patterns averaged, the gamma distribution's shape
    floor: float  # displayed level of the noise floor


@dataclass(frozen=True)
class Section:
    """Where and how one B-scan cuts the eye."""

    offset: float  # distance of the cut from the centre of the fovea
    fovea: float  # lateral position of the fovea
    tilt: float  # um of height per um of width
    depth: float  # height of the RPE in the frame, 0 (highest that fits) to 1 (lowest that fits)


@dataclass
class Tissue:
    """One B-scan's tissue before imaging: a row per layer of `LAYERS`, a column per A-scan."""

    x: Array  # (W,) lateral position, 0 in the middle
    base: Array  # (W,) row of the choriocapillaris' lower edge, in pixels
    thickness: Array  # (layers, W)
    reflectance: Array  # (layers, W)
    fovea: float

    def boundaries(self) -> Array:
        """Return the rows (fractional) of every layer's upper edge and of the base: (layers + 1, W)."""
        upward = np.cumsum(self.thickness[::-1], axis=0)[::-1] / AXIAL_UM
        return np.concatenate([self.base - upward, self.base[None]])


def draw_anatomy(
    rng: np.random.Generator, *, patient: str = "0000000", shape: tuple[int, int] | None = None
) -> Anatomy:
    """Draw an eye; `shape`, (H, W) in pixels, fixes its scans' size: UsageError if not one of `SHAPES`."""
    if shape not in (None, *SHAPES):
        raise UsageError(f"no scan is {shape} pixels in size", remedy=f"take one of {SHAPES}")
    drawn = SHAPES[rng.choice(len(SHAPES), p=SHAPE_ODDS)]
    return Anatomy(
        patient=patient,
        shape=shape or drawn,
        curvature=rng.uniform(-30.0, 130.0) / 3000.0**2,
        layer_scale=tuple((rng.uniform(0.88, 1.14) * rng.uniform(0.88, 1.14, len(LAYERS))).tolist()),
        pit_depth=rng.uniform(0.7, 1.0),
        pit_width=rng.uniform(330.0, 560.0),
        nasal=float(rng.choice((-1.0, 1.0))),
        brightness=rng.uniform(0.82, 1.15),
        choroid=rng.uniform(160.0, 420.0),
        looks=rng.uniform(1.3, 5.0),
        floor=rng.uniform(0.09, 0.22),
    )


def draw_section(rng: np.random.Generator) -> Section:
    """Draw a cut: most pass near the fovea, some miss the pit."""
    return Section(
        offset=rng.normal(0.0, 400.0),
        fovea=rng.normal(0.0, 600.0),
        tilt=rng.normal(0.0, 0.035),
        depth=rng.uniform(),
    )


def wave(x: Array, shortest: float, rng: np.random.Generator) -> Array:
    """Return a smooth random curve of root mean square 1 whose wavelengths are `shortest` to 5 times that."""
    lengths = shortest * rng.uniform(1.0, 5.0, (6, 1))
    sines = np.sin(2 * np.pi * (x / lengths + rng.uniform(size=(6, 1))))
    return np.asarray(sines.sum(axis=0) / np.sqrt(3.0), np.float32)


def cut(anatomy: Anatomy, section: Section, rng: np.random.Generator) -> Tissue:
    """Return the healthy tissue in one cut through an eye.

    The pit is a Gaussian of the distance from the fovea, cut off centre by `section.offset`, beside a wider
    and shallower rim: the difference-of-Gaussians pit of Dubis et al. 2009, Br J Ophthalmol 93:1223.
    """
    height, width = anatomy.shape
    x = (np.arange(width, dtype=np.float32) - width / 2) * np.float32(LATERAL_UM[width])
    away = ((x - section.fovea) ** 2 + section.offset**2) / anatomy.pit_width**2
    pit = anatomy.pit_depth * np.exp(-away / 2)
    rim = 1 + 0.15 * np.exp(-away / 12)
    table = np.array([layer[1:] for layer in LAYERS], np.float32)
    healthy = table[:, :1] * np.array(anatomy.layer_scale, np.float32)[:, None]
    thickness = healthy * (rim + pit * (table[:, 2:] - rim))
    thickness[INDEX["RNFL"]] *= np.clip(1 + anatomy.nasal * (x - section.fovea) / 3500, 0.5, 2.2)
    ripple = np.stack([wave(x, 700.0, rng) for _ in LAYERS])
    thickness *= 1 + 0.03 * ripple
    reflectance = table[:, 1:2] * (1 + 0.04 * np.roll(ripple, 1, axis=0))
    rise = anatomy.curvature * x**2 + section.tilt * x + 3.0 * wave(x, 1500.0, rng)
    return Tissue(
        x=x,
        base=np.asarray(_base_row(rise / AXIAL_UM, height, section.depth), np.float32),
        thickness=np.asarray(thickness, np.float32),
        reflectance=np.asarray(reflectance * anatomy.brightness, np.float32),
        fovea=section.fovea,
    )


def _base_row(rise: Array, height: int, depth: float) -> Array:
    """Place the base between 0.32 and 0.82 of the frame's height, so that retina and choroid are in it."""
    highest, lowest = 0.32 * height + rise.max(), 0.82 * height + rise.min()
    if lowest < highest:
        highest = lowest = (highest + lowest) / 2
    row: Array = highest + depth * (lowest - highest) - rise
    return row
