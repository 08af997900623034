"""A network as plain data: every channel count is written down, so that a pruned network rebuilds from it."""

from dataclasses import asdict, dataclass
from typing import Any

from octlet.core.errors import ModelFileError, UsageError

FAMILIES = ("v1.5", "v2", "lite")


@dataclass(frozen=True)
class UnitSpec:
    """One residual unit.

    Attributes:
        widths: output channels of its convolutions: (3x3, 3x3) for a basic unit, (1x1, 3x3, 1x1) for a
            bottleneck. Of an inverted unit ("lite") those of its 1x1 convolutions: (expansion, output), or
            (output,) where nothing is expanded; its depthwise convolution has as many as it reads.
        stride: of the 3x3 (V1.5) or depthwise convolution that shrinks the image, and of the identity.
        projection: whether the identity passes through a 1x1 convolution; an inverted unit then has none.
        kernel: side of the depthwise convolution of an inverted unit.
    """

    widths: tuple[int, ...]
    stride: int
    projection: bool
    kernel: int = 3


@dataclass(frozen=True)
class NetSpec:
    """A residual network.

    Attributes:
        family: "v1.5" (He et al. 2016, stride in the 3x3), "v2" (pre-activation, He et al. 2016b) or "lite"
            (EfficientNet-Lite: inverted units, Sandler et al. 2018, Tan and Le 2019).
        stem: output channels of the first convolution, 7x7, or 3x3 in "lite".
        stages: the units of each stage.
        classes: number of outputs.
        channels: input channels.
        last: output channels of the 1x1 convolution behind the last stage, which only "lite" has.
    """

    family: str
    stem: int
    stages: tuple[tuple[UnitSpec, ...], ...]
    classes: int = 4
    channels: int = 1
    last: int = 0

    @property
    def embedding(self) -> int:
        """Channels of the last feature map."""
        return self.last or self.stages[-1][-1].widths[-1]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "NetSpec":
        """Rebuild from `as_dict`'s result, or an older one's; ModelFileError if it has another form."""
        try:
            stages = tuple(
                tuple(
                    UnitSpec(tuple(u["widths"]), u["stride"], u["projection"], u.get("kernel", 3))
                    for u in stage
                )
                for stage in plain["stages"]
            )
            family, last = plain["family"], plain.get("last", 0)
            found = cls(family, plain["stem"], stages, plain["classes"], plain["channels"], last)
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"not a network specification: {error!r}") from error
        if family not in FAMILIES:
            raise ModelFileError(f"a network of an unknown family, '{family}'", remedy="update octlet")
        return found


_DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet101v2": (3, 4, 23),
    "resnet101v2-stage4": (3, 4, 23, 3),
}
# of each stage: how far its units expand, the side of their depthwise kernels, the first one's stride, output
# channels and depth (the public EfficientNet-Lite builder of TensorFlow; B0 of Tan and Le 2019, table 1)
_LITE0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
MODELS = (*_DEPTHS, "efficientnet-lite0")


def named_spec(name: str, *, classes: int = 4, channels: int = 1) -> NetSpec:
    """Return the specification of a network in `MODELS`; UsageError for another name.

    "resnet101v2" ends after stage 3, where the ImageNet weights that exist for it end; "-stage4" adds the
    last stage, fresh.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model '{name}'", remedy=f"one of {', '.join(MODELS)}")
    if name == "efficientnet-lite0":
        return NetSpec("lite", 32, _lite_stages(32), classes, channels, last=1280)
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


def _lite_stages(before: int) -> tuple[tuple[UnitSpec, ...], ...]:
    stages = []
    for expand, kernel, stride, width, depth in _LITE0:
        units = []
        for u in range(depth):
            widths = (width,) if expand == 1 else (expand * before, width)
            units.append(UnitSpec(widths, 1 if u else stride, u == 0, kernel))
            before = width
        stages.append(tuple(units))
    return tuple(stages)
