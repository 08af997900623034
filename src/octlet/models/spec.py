"""A network as plain data: every channel count is written down, so that a pruned network rebuilds from it."""

from dataclasses import asdict, dataclass
from typing import Any

from octlet.core.errors import ModelFileError, UsageError


@dataclass(frozen=True)
class UnitSpec:
    """One residual unit.

    Attributes:
        widths: output channels of its convolutions: (3x3, 3x3) for a basic unit, (1x1, 3x3, 1x1) for a
            bottleneck.
        stride: of the 3x3 convolution that shrinks the image (V1.5), and of the identity.
        projection: whether the identity passes through a 1x1 convolution.
    """

    widths: tuple[int, ...]
    stride: int
    projection: bool


@dataclass(frozen=True)
class NetSpec:
    """A residual network.

    Attributes:
        family: "v1.5" (He et al. 2016, stride in the 3x3) or "v2" (pre-activation, He et al. 2016b).
        stem: output channels of the 7x7 convolution.
        stages: the units of each stage.
        classes: number of outputs.
        channels: input channels.
    """

    family: str
    stem: int
    stages: tuple[tuple[UnitSpec, ...], ...]
    classes: int = 4
    channels: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "NetSpec":
        """Rebuild from `as_dict`'s result; ModelFileError if it has another form."""
        try:
            stages = tuple(
                tuple(UnitSpec(tuple(u["widths"]), u["stride"], u["projection"]) for u in stage)
                for stage in plain["stages"]
            )
            return cls(plain["family"], plain["stem"], stages, plain["classes"], plain["channels"])
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"not a network specification: {error!r}") from error


_DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet101v2": (3, 4, 23),
    "resnet101v2-stage4": (3, 4, 23, 3),
}
MODELS = tuple(_DEPTHS)


def named_spec(name: str, *, classes: int = 4, channels: int = 1) -> NetSpec:
    """Return the specification of a network in `MODELS`; UsageError for another name.

    "resnet101v2" ends after stage 3, where the ImageNet weights that exist for it end; "-stage4" adds the
    last stage, fresh.
    """
    if name not in _DEPTHS:
        raise UsageError(f"unknown model '{name}'", remedy=f"one of {', '.join(MODELS)}")
    v2 = "v2" in name
    basic = name in ("resnet18", "resnet34")
    stages = []
    for i, depth in enumerate(_DEPTHS[name]):
        width = 64 * 2**i
        widths = (width, width) if basic else (width, width, 4 * width)
        stages.append(tuple(_unit(widths, i, u, depth, v2, basic) for u in range(depth)))
    return NetSpec("v2" if v2 else "v1.5", 64, tuple(stages), classes, channels)


def _unit(widths: tuple[int, ...], stage: int, unit: int, depth: int, v2: bool, basic: bool) -> UnitSpec:
    if v2:  # TF-slim strides at the LAST unit of every stage but the fourth
        return UnitSpec(widths, 2 if unit == depth - 1 and stage < 3 else 1, unit == 0)
    stride = 2 if unit == 0 and stage > 0 else 1
    return UnitSpec(widths, stride, unit == 0 and not (basic and stage == 0))
