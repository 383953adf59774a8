"""What is changed in a tuned model: its intruders, a control in their place, or what another remedy changes."""

from .budget import Budget
from .dg_hard import DGHard
from .directions import Directions
from .doses import Doses
from .drop import Drop
from .fapm import FAPM
from .flatten import Flatten
from .heads import Heads
from .interpolate import Interpolate
from .layers import Layers
from .lines import Lines
from .project import Project
from .surgery import Surgery
from .trim import Trim
from .truncate import Truncate

__all__ = [
    "FAPM",
    "Budget",
    "DGHard",
    "Directions",
    "Doses",
    "Drop",
    "Flatten",
    "Heads",
    "Interpolate",
    "Layers",
    "Lines",
    "Project",
    "Surgery",
    "Trim",
    "Truncate",
]
