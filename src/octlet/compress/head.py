"""The final layer where tools that look for `nn.Linear` find it."""

from torch import Tensor, nn

from octlet.models.resnet import Outputs, ResNet


class LinearHead(nn.Module):
    """A network whose final layer is computed as `nn.Linear` after the pooling, where tools find it.

    Unless it is rounded, it gives the logits of `ResNet`, whose class activation map goes through the same
    weights before the pooling.
    """

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.net = net
        self.fc: nn.Module = net.fc

    def forward(self, scans: Tensor) -> Outputs:
        """Map scans (N, 1, S, S) to `Outputs`; the map is not computed, and empty."""
        embedding = self.net.features(scans).mean((2, 3))
        return Outputs(self.fc(embedding), embedding.new_empty(0), embedding)
