"""What a Raspberry Pi 5 would take for one scan: MODELLED from published runs of other networks."""

from dataclasses import dataclass

CORES, HERTZ = 4, 2.4e9

# A Cortex-A76 begins two vector instructions a cycle (Arm, Cortex-A76 Software Optimization Guide): an SDOT
# multiplies and adds 16 pairs of int8, an FMLA 4 pairs of float32.
INT8_PEAK = CORES * HERTZ * 2 * 16  # multiply-accumulates a second
FLOAT_PEAK = CORES * HERTZ * 2 * 4


@dataclass(frozen=True)
class PublishedRun:
    """An int8 network that somebody timed on a Pi 5: one picture of 224 x 224, all four cores.

    Attributes:
        network: its name.
        macs: multiply-accumulates, as torchvision states them.
        engine: what ran it.
        seconds: the median, or the mean where only that is published.
        source: where it is published.
    """

    network: str
    macs: float
    engine: str
    seconds: float
    source: str

    @property
    def efficiency(self) -> float:
        """Share of `INT8_PEAK` that it reached, 0 to 1."""
        return self.macs / self.seconds / INT8_PEAK


_XNNPACK, _ARM = "ExecuTorch, XNNPACK", "https://huggingface.co/Arm"

# The first gives the value: the network most like ours, bottlenecks of ResNet V1.5.
PUBLISHED = (
    PublishedRun("ResNet-50", 4.089e9, _XNNPACK, 0.02064, f"{_ARM}/resnet-50-int8-xnnpack-executorch"),
    PublishedRun("ResNet-18", 1.814e9, _XNNPACK, 0.008751, f"{_ARM}/resnet-18-int8-xnnpack-executorch"),
    PublishedRun(
        "Wide ResNet-50-2",
        11.398e9,
        _XNNPACK,
        0.04943,
        f"{_ARM}/wideresnet50-int8-xnnpack-executorch-raspberrypi5",
    ),
    PublishedRun(
        "ResNet-50", 4.089e9, "ncnn", 0.0408, "https://github.com/Tencent/ncnn/tree/master/benchmark"
    ),
)

IGNORED = "memory, layers too small to fill the vector units, and starting up, all of which make it slower"


@dataclass(frozen=True)
class Modelled:
    """A modelled latency in milliseconds; low and high are those of the most and the least efficient run."""

    value: float
    low: float
    high: float


def modelled_latency(int8_macs: float, float_macs: float) -> Modelled:
    """Return the multiply-accumulates of one scan over the peak and a published efficiency.

    Integers and floats take turns; what a float network reaches of its peak is taken to be what an integer
    one does. The model knows nothing of `IGNORED`: small networks run below the efficiency of large ones,
    and may take longer than `high`.

    Args:
        int8_macs: multiply-accumulates of int8, 0 or more.
        float_macs: of float32, 0 or more.
    """
    at_peak = 1e3 * (int8_macs / INT8_PEAK + float_macs / FLOAT_PEAK)
    shares = [run.efficiency for run in PUBLISHED]
    return Modelled(at_peak / shares[0], at_peak / max(shares), at_peak / min(shares))
