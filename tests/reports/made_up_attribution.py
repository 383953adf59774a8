"""An attribution that is made up, of matrices alone or with tuned norms beside them."""

import math

from intruders.experiments.attribution import Attribution, MatrixShare, MeasuredRise, Share
from intruders.measures.intervals import Interval

# By layer, and of all norms together, in nats per token; numbers that binary fractions hold.
PARTS, OF_NORMS = (0.25, 0.5, -0.125), 0.0625


def of_one_document(value: float) -> Interval:
    """A part whose spread is not known."""
    return Interval(value, -math.inf, math.inf, 1)


def made_up_attribution(of_norms: float | None = OF_NORMS) -> Attribution:
    """The parts of a matrix in each of three layers, of one document, which gives no interval."""
    rise = sum(PARTS) + (of_norms or 0.0)
    told = MeasuredRise(
        "text", "text", "cross-entropy", 1, 100, 3.0, 3 + rise, of_one_document(rise), rise, 5
    )
    matrices = [
        MatrixShare(f"model.layers.{layer}.mlp.up_proj.weight", {"text": of_one_document(part)}, intruders=1)
        for layer, part in enumerate(PARTS)
    ]
    layers = [Share(str(layer), {"text": of_one_document(part)}) for layer, part in enumerate(PARTS)]
    kinds = [Share("up_proj", {"text": of_one_document(sum(PARTS))}, len(PARTS))]
    others = None if of_norms is None else Share("elsewhere", {"text": of_one_document(of_norms)}, 0)
    return Attribution("base", "tuned", [told], matrices, layers, kinds, others, [], {}, {})
