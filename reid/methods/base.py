"""What every method is: named branches on images, their losses, and the embedding that is ranked."""

import torch
from torch import Tensor, nn

from reid.distributed import whole
from reid.losses import MetricLoss, cross_entropy
from reid.parts.heads import BranchOutput

__all__ = ["OWN", "BranchOutput", "Method", "side_by_side"]

OWN = ""  # the name of a method's own embedding among all that can be ranked


class Method(nn.Module):
    """Base of the methods. A subclass says what its `branches` are; it overrides the losses where its paper differs.

    Args:
        label_smoothing: of the identification loss of every branch.
        metric_loss: on the feature of every branch; None for none.

    Attributes:
        embedding_dim: size D of the embedding; set by the subclass.
    """

    embedding_dim: int

    def __init__(self, *, label_smoothing: float, metric_loss: MetricLoss | None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.metric_loss = metric_loss

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The method itself: normalised images [B, 3, H, W] to the named outputs of its branches, in a fixed order.

        Args:
            images: float, normalised.
            labels: [B], in 0 to num_ids - 1; given in training alone, for methods that look at them.
        """
        raise NotImplementedError

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named scalar losses whose sum is minimised: `id/<branch>` and, with a metric loss, `triplet/<branch>`."""
        losses, identities = {}, whole(labels)
        for name, output in self.branches(images, labels).items():
            logits = whole(output.logits)
            losses[f"id/{name}"] = cross_entropy(logits, identities, label_smoothing=self.label_smoothing)
            if self.metric_loss is not None:
                losses[f"triplet/{name}"] = self.metric_loss(whole(output.feature), identities)
        return losses

    def probes(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalars to record beside the losses, computed before the update and without a gradient; here none."""
        return {}

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses; torch's wrapper for several processes hooks in here."""
        return self.losses(images, labels)

    def embed(self, images: Tensor) -> Tensor:
        """What is ranked, [B, embedding_dim]: the embeddings of all branches side by side."""
        return self.embeddings(images)[OWN]

    def embeddings(self, images: Tensor) -> dict[str, Tensor]:
        """All that can be ranked, [B, D] each, from one forward: `OWN`, and where there are several branches, each."""
        return side_by_side({name: output.embedding for name, output in self.branches(images).items()})


def side_by_side(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedding made of all parts, as `OWN`, and where there are several, each of them."""
    return {OWN: torch.cat(list(parts.values()), 1)} | (parts if len(parts) > 1 else {})
