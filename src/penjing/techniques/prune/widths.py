"""Limits of widths are told in channels; groups are cut in units: a head is many channels, so is a unit of a grouped
convolution.
"""

import math
from collections.abc import Sequence

import numpy as np

from penjing.structure import Coupling, Group, Member
from penjing.techniques.prune.select import Widths
from penjing.techniques.sparsify.parameters import weight_names


def widths_of(coupling: Coupling, groups: Sequence[Group], channels: Widths) -> dict[str, Widths]:
    """Turn limits in channels into limits in units, by group.

    The channels of a unit are the fewest that it has in a convolution or linear layer: a head of a packed projection,
    which makes its query, key and value, is as wide as the head that is read. Where two groups cross, as heads and the
    channels within each head do, the width is the product of both; it is a multiple of the wanted number whatever is
    cut, because the inner group is held to that multiple by itself.
    """
    weights = frozenset(weight_names(coupling.captured.module))

    def block(group: Group) -> int:
        members = [member for member in group.members if member.parameter in weights] or group.members
        if _is_strided(members[0]) and any(_cross(members[0], other) for other in groups if other is not group):
            return 1
        return math.gcd(*(member.index.shape[1] for member in members))

    return {group.name: channels.in_units(block(group)) for group in groups}


def _is_strided(member: Member) -> bool:
    """Whether the channels of a unit lie apart: one in each head, not those of one head."""
    return member.index.shape[1] > 1 and bool(member.index[0, 1] - member.index[0, 0] > 1)


def _cross(member: Member, other: Group) -> bool:
    return any(
        (member.parameter, member.dim) == (theirs.parameter, theirs.dim) and np.isin(member.index, theirs.index).any()
        for theirs in other.members
    )
