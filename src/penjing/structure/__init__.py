"""The heart: capture a model as a graph, find what can be cut, cut it, and prove the cut.

capture -> couple -> cut | cut_in_place -> prove -> save_graph | restore_graph
"""

from penjing.structure.capture import Captured, capture
from penjing.structure.coupling import Coupling, Frozen, Group, Member, couple
from penjing.structure.folding import Folding, fold
from penjing.structure.graph_model import GraphModel
from penjing.structure.in_place import attributes_after, cut_in_place, share, torn_by
from penjing.structure.parts import Part, capture_parts, capture_submodules
from penjing.structure.proof import Proof, prove
from penjing.structure.remap import remap_optimizer
from penjing.structure.restore import restore, restore_graph, save_graph
from penjing.structure.rules import register_rule
from penjing.structure.surgery import Cut, Surgery, cut
from penjing.structure.uses import Use, attribute_uses

__all__ = [
    "Captured",
    "Coupling",
    "Cut",
    "Folding",
    "Frozen",
    "GraphModel",
    "Group",
    "Member",
    "Part",
    "Proof",
    "Surgery",
    "Use",
    "attribute_uses",
    "attributes_after",
    "capture",
    "capture_parts",
    "capture_submodules",
    "couple",
    "cut",
    "cut_in_place",
    "fold",
    "prove",
    "register_rule",
    "remap_optimizer",
    "restore",
    "restore_graph",
    "save_graph",
    "share",
    "torn_by",
]
