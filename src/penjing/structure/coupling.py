"""Which channels, neurons and heads live and die together: the groups of a captured model."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.structure.atoms import KEPT, Ids, Label
from penjing.structure.capture import Captured, capture
from penjing.structure.labelling import Labelling, label_graph
from penjing.structure.rules import Count, Labels, Position, Shape, Shapes, each_shape, is_shape

Units: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """What a group owns of one parameter or buffer: unit u occupies `index[u]` ([size, block]) along `dim`."""

    parameter: str
    dim: int
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Units that can be removed: each owns one slice of every member.

    `exact`: removing a unit equals zeroing its slices; else it also changes a statistic, and `reason` names it.
    `prunable`: whether units may be removed at all; else `reason` says why not.
    """

    name: str
    members: tuple[Member, ...]
    size: int
    exact: bool
    prunable: bool
    reason: str
    ids: Ids = field(repr=False)


@dataclass(frozen=True)
class Frozen:
    """A dimension of a parameter of which `count` of `size` indices cannot be removed, and why."""

    parameter: str
    dim: int
    reason: str
    count: int
    size: int

    def __str__(self) -> str:
        """A sentence for the user.

        >>> str(Frozen("fc.weight", 0, "it is an output of the model", 10, 10))
        'fc.weight keeps all 10 indices of dimension 0: it is an output of the model'
        """
        how_many = f"all {self.size}" if self.count == self.size else f"{self.count} of {self.size}"
        return f"{self.parameter} keeps {how_many} indices of dimension {self.dim}: {self.reason}"


class Removal:
    """The units that go, seen from any label of the graph."""

    def __init__(self, labelling: Labelling, removed: Mapping[str, Units], ids: Ids) -> None:
        self.removed = removed
        self._labelling = labelling
        self._gone = np.zeros(labelling.atoms.count, dtype=np.bool_)
        self._gone[ids] = True

    def kept(self, label: Label) -> NDArray[np.bool_] | None:
        """Which indices of a dimension stay: bool [size], or None where all do."""
        if label is None:
            return None
        gone = np.any(self._gone[self._labelling.expanded(label)], axis=1)
        return ~gone if gone.any() else None

    def count(self, label: Label, size: int) -> int:
        """How many of the `size` indices of a dimension stay."""
        kept = self.kept(label)
        return size if kept is None else int(kept.sum())

    def touches(self, labels: Sequence[Label]) -> bool:
        """Whether any dimension loses an index."""
        return any(self.kept(label) is not None for label in labels)

    def evaluate(self, constant: Any) -> Any:
        """A constant of a ruling as a number."""
        if isinstance(constant, Count):
            return self.count(constant.label, constant.size)
        if isinstance(constant, Position):
            return self.count(None if constant.label is None else constant.label[: constant.index], constant.index)
        if isinstance(constant, list | tuple) and not is_shape(constant):
            return type(constant)(self.evaluate(item) for item in constant)
        return constant

    def shapes(self, labels: Sequence[Labels], shapes: Shapes) -> Shapes:
        """The shapes of a node's outputs after the cut."""
        if shapes is None or not labels:
            return shapes
        after = tuple(map(self._shape, labels, each_shape(shapes)))
        return after[0] if is_shape(shapes) else after

    def _shape(self, labels: Labels, shape: Shape | None) -> Shape | None:
        return None if shape is None else tuple(map(self.count, labels, shape))


@dataclass(frozen=True)
class Coupling:
    """The groups of a model, and what of it cannot be cut.

    `groups` are the units that may be removed; `frozen` lists, in sentences, the dimensions that may not, and
    `unknown` the operators without a rule.
    """

    captured: Captured
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    labelling: Labelling = field(repr=False)

    @property
    def unknown(self) -> Mapping[str, str]:
        """Operators without a usable rule: name -> what happened."""
        return self.labelling.unknown

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def __getitem__(self, name: str) -> Group:
        if name not in self._by_name:
            known = ", ".join(list(self._by_name)[:12])
            raise RecipeError(f"group {name!r} is unknown; the model has {len(self.groups)} groups: {known} ...")
        return self._by_name[name]

    def removal(self, removed: Mapping[str, Sequence[int] | Units]) -> Removal:
        """Check what is to be removed: units by group name.

        Raises RecipeError for an unknown group, one that is not prunable, a unit out of range, or a group left empty.
        """
        units = {name: np.unique(np.asarray(chosen, dtype=np.int64)) for name, chosen in removed.items()}
        ids: list[Ids] = []
        for name, chosen in units.items():
            group = self[name]
            if not len(chosen):
                continue
            if not group.prunable:
                raise RecipeError(f"group {name!r} cannot be cut: {group.reason}")
            if chosen[0] < 0 or chosen[-1] >= group.size:
                raise RecipeError(f"group {name!r} has units 0 to {group.size - 1}, not {chosen[[0, -1]].tolist()}")
            if len(chosen) == group.size:
                raise RecipeError(
                    f"removing all {group.size} units of group {name!r} leaves nothing; keep at least one"
                )
            ids.append(group.ids[chosen])
        return Removal(self.labelling, units, np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64))

    def shapes_after(self, removed: Mapping[str, Sequence[int] | Units]) -> dict[str, Shapes]:
        """The shapes of every node, parameters included, once units are removed: a mapping like `Captured.shapes`."""
        removal = self.removal(removed)
        labels = self.labelling.labels
        return {name: removal.shapes(labels.get(name, ()), shapes) for name, shapes in self.captured.shapes.items()}

    def constants_after(self, removed: Mapping[str, Sequence[int] | Units]) -> dict[str, dict[str, Any]]:
        """The arguments that a cut rewrites, by node and argument name, such as {"conv2d_3": {"groups": 12}}."""
        removal = self.removal(removed)
        return {
            name: {argument: removal.evaluate(value) for argument, value in ruling.constants.items()}
            for name, ruling in self.labelling.rulings.items()
            if ruling.constants and removal.touches(self.labelling.labels_near(name))
        }

    def is_exact(self, removed: Mapping[str, Sequence[int] | Units]) -> bool:
        """Whether every group that loses a unit is exact."""
        return all(self[name].exact for name, units in removed.items() if len(units))

    def table(self) -> str:
        """The groups as text, one a line.

        >>> import torch
        >>> print(couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3)).table())
        group  units  exact  members
        0          4  yes    0.weight[0], 0.bias[0], 2.weight[1]
        """
        rows = [("group", "units", "exact", "members")]
        for group in self.groups:
            members = ", ".join(f"{member.parameter}[{member.dim}]" for member in group.members)
            exact = "yes" if group.exact else f"no: {group.reason}"
            rows.append((group.name, str(group.size), exact if group.prunable else f"kept: {group.reason}", members))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = (
            f"{name:<{widths[0]}}  {units:>{widths[1]}}  {exact:<{widths[2]}}  {members}"
            for name, units, exact, members in rows
        )
        return "\n".join(lines)

    def kept_table(self) -> str:
        """What cannot be cut as text: each reason once, with the dimensions that it holds.

        >>> import torch
        >>> print(couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3)).kept_table())
        kept because it must match a dimension of fixed size in linear of 0: 0.weight[1]
        kept because it is an output of the model: 2.weight[0], 2.bias[0]
        """
        held: dict[str, list[str]] = defaultdict(list)
        for part in self.frozen:
            some = "" if part.count == part.size else f" ({part.count} of {part.size})"
            held[part.reason].append(f"{part.parameter}[{part.dim}]{some}")
        return "\n".join(f"kept because {reason}: {', '.join(places)}" for reason, places in held.items())


def couple(
    model_or_captured: nn.Module | str | Path | Captured, example: Any = None, *, eager_safe: bool = False
) -> Coupling:
    """Find the groups of a model, a module or an .onnx file: `couple(model, example)`, or `couple(captured)`.

    `eager_safe` leaves only cuts that the code of the model's own class has a chance to survive: the halves of a chunk
    lose the same indices, attention heads go whole, and fixed positions stay where they are.

    >>> import torch
    >>> coupling = couple(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)), torch.zeros(2, 1, 4, 4))
    >>> [(member.parameter, member.dim, member.index.shape) for member in coupling.groups[0].members]
    [('0.weight', 0, (4, 1)), ('0.bias', 0, (4, 1)), ('2.weight', 1, (4, 4))]
    """
    captured = model_or_captured if isinstance(model_or_captured, Captured) else capture(model_or_captured, example)
    labelling = label_graph(captured, eager_safe=eager_safe)
    tensors = captured.tensors
    groups = tuple(_groups(labelling, tensors))
    return Coupling(captured, groups, tuple(_frozen(labelling, tensors)), labelling)


def is_number(tensor: Tensor) -> bool:
    """Whether the values of a tensor are floats, real or complex: integers are indices, masks and counters."""
    return tensor.is_floating_point() or tensor.is_complex()


def _groups(labelling: Labelling, tensors: Mapping[str, Tensor]) -> Iterator[Group]:
    atoms = labelling.atoms
    slots = [(name, dim, label) for name, labels in labelling.parameters.items() for dim, label in enumerate(labels)]
    resolved = [None if label is None else atoms.resolve(label) for _, _, label in slots]
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for slot, label in enumerate(resolved):
        if label is not None:
            ids, counts = np.unique(label, return_counts=True)
            free = atoms.is_free(ids)
            for i, count in zip(ids[free].tolist(), counts[free].tolist(), strict=True):
                places[i].append((slot, count))
    inexact = _inexact(labelling)
    used: dict[str, int] = defaultdict(int)
    for where, alike in sorted(_alike(places, _companies(labelling)), key=_place_in_model):
        if not any(is_number(tensors[slots[slot][0]]) for slot, _ in where):
            continue
        ids = _in_order(resolved[where[0][0]], alike)
        members = tuple(Member(slots[slot][0], slots[slot][1], _index(resolved[slot], ids)) for slot, _ in where)
        why = sorted({reason for i in alike for reason in inexact.get(i, ())})
        prunable = len(ids) > 1
        name = members[0].parameter.rpartition(".")[0] or members[0].parameter
        used[name] += 1
        yield Group(
            name=name if used[name] == 1 else f"{name}:{used[name]}",
            members=members,
            size=len(ids),
            exact=not why,
            prunable=prunable,
            reason="; ".join(why) if prunable else "it has a single unit",
            ids=ids,
        )


Places: TypeAlias = tuple[tuple[int, int], ...]


def _alike(
    places: Mapping[int, list[tuple[int, int]]], companies: NDArray[np.int64]
) -> Iterator[tuple[Places, list[int]]]:
    """Ids are units of one group when they occupy the same dimensions equally often, and go everywhere together."""
    alike: dict[tuple[Places, int], list[int]] = defaultdict(list)
    for i, where in places.items():
        alike[tuple(where), int(companies[i])].append(i)
    return ((where, ids) for (where, _), ids in alike.items())


def _companies(labelling: Labelling) -> NDArray[np.int64]:
    """For each id the number of its company: free ids of one company share every dimension of the graph, or none.

    Two halves of one weight that a split sends different ways are thus two groups: neither half may vanish. Nor may a
    factor of a product: the groups of a group norm and the channels within are two companies, be they equally many.
    """
    seen: dict[int, Ids] = {}
    met: set[tuple[int, bytes]] = set()
    company = np.zeros(labelling.atoms.count, dtype=np.int64)
    count = 1
    for labels in labelling.labels.values():
        for label in (label for each in labels for label in each):
            if label is None or id(label) in seen:
                continue
            seen[id(label)] = label
            rows = labelling.atoms.free_rows(label)
            ids = np.unique(rows[rows != KEPT])
            if len(ids) and (rows.shape[1], ids.tobytes()) not in met:
                met.add((rows.shape[1], ids.tobytes()))
                # Those of a company that are met here part from those that are not, and factors from each other.
                parts = np.stack([company[ids], _factor_of(rows, ids)], axis=1)
                before, parted = np.unique(parts, axis=0, return_inverse=True)
                company[ids] = count + parted.reshape(-1)
                count += len(before)
    return company


def _factor_of(rows: Ids, ids: Ids) -> NDArray[np.int64]:
    """Which factor of the products in `rows` [size, factors] each of the sorted ids is: ids of one row always differ.

    >>> _factor_of(np.array([[1, 3], [1, 4], [2, 3], [2, 4]]), np.array([1, 2, 3, 4])).tolist()
    [0, 0, 1, 1]
    """
    factor = np.zeros(len(ids), dtype=np.int64)
    pairs = [rows[:, [i, j]] for i in range(rows.shape[1]) for j in range(i)]
    meeting = np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)
    meeting = np.unique(meeting[(meeting != KEPT).all(axis=1) & (meeting[:, 0] != meeting[:, 1])], axis=0)
    partners: dict[int, list[int]] = defaultdict(list)
    for i, j in np.searchsorted(ids, meeting).tolist():
        partners[max(i, j)].append(min(i, j))
    for i in sorted(partners):
        taken = set(factor[partners[i]].tolist())
        factor[i] = next(number for number in range(len(taken) + 1) if number not in taken)
    return factor


def _place_in_model(found: tuple[Places, list[int]]) -> tuple[int, int]:
    """Groups in the order of their first parameter; within it the larger blocks first, as heads before their width."""
    first, times = found[0][0]
    return first, -times


def _in_order(label: Ids | None, ids: Sequence[int]) -> Ids:
    """Ids in the order of their first index along a dimension."""
    assert label is not None
    found, first = np.unique(label, return_index=True)
    first_of = dict(zip(found.tolist(), first.tolist(), strict=True))
    return np.array(sorted(ids, key=lambda i: first_of[i]), dtype=np.int64)


def _index(label: Ids | None, ids: Ids) -> NDArray[np.int64]:
    """Where along a dimension each id occurs: [ids, block]."""
    assert label is not None
    rank = np.full(int(max(label.max(), ids.max())) + 1, -1)
    rank[ids] = np.arange(len(ids))
    rows, columns = np.nonzero(rank[label] >= 0)
    order = np.argsort(rank[label[rows, columns]], kind="stable")
    return np.asarray(rows[order].reshape(len(ids), -1), dtype=np.int64)


def _inexact(labelling: Labelling) -> dict[int, set[str]]:
    """The statistics that each free id passes."""
    found: dict[int, set[str]] = defaultdict(set)
    for node, ruling in labelling.rulings.items():
        for statistic in ruling.inexact:
            for i in labelling.atoms.free(statistic.label).tolist():
                owner = labelling.node_module.get(node)
                found[i].add(f"{statistic.why} of {owner}" if owner else statistic.why)
    return found


def _frozen(labelling: Labelling, tensors: Mapping[str, Tensor]) -> Iterator[Frozen]:
    for name, labels in labelling.parameters.items():
        if not is_number(tensors[name]):
            continue
        for dim, label in enumerate(labels):
            if label is not None:
                for reason, count in Counter(filter(None, labelling.atoms.reasons(label))).items():
                    yield Frozen(name, dim, reason, count, len(label))
