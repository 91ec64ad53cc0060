"""What belongs together: rows tied by declared groups and by sets of duplicates, through any number of steps.

In: pairs, or a competition and sets of ids. Out: connected sets, the group of each row, or its unit of resampling. The
folds keep these groups whole, the audit proves it by them, and the first look leaves out what they hold together
already. An empty group is no group: the row stands by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.competition.contract import Competition

if TYPE_CHECKING:
    import numpy as np

Sets = Sequence[Sequence[str]]
# how pandas, R and spreadsheets write a cell that holds nothing
MISSING = frozenset(("", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"))


def sets_of(n: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components of two members or more, by union-find, each sorted, in the order of their first member."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in edges:
        ra, rb = root(a), root(b)
        parent[max(ra, rb)] = min(ra, rb)
    members: dict[int, list[int]] = {}
    for i in range(n):
        members.setdefault(root(i), []).append(i)
    return [together for together in members.values() if len(together) > 1]


def merged_groups(competition: Competition, duplicates: Sets = ()) -> dict[str, str]:
    """Id to group: declared groups, joined where a set of duplicates reaches over several; "" for a row by itself."""
    node_of = {row["image_id"]: _node(row["image_id"], row.get("group")) for row in competition.train_rows}
    nodes = sorted(set(node_of.values()))
    index = {node: i for i, node in enumerate(nodes)}
    tied = [[index[node_of[image_id]] for image_id in members if image_id in node_of] for members in duplicates]
    named = {node: node[0] for node in nodes}
    taken = set(named.values())
    for members in sets_of(len(nodes), ((one[0], other) for one in tied for other in one[1:])):
        together = [nodes[i] for i in members]
        groups = [group for group, _ in together if group]
        name = _joined(groups) if groups else f"copies of {together[0][1]}"
        while len(groups) != 1 and name in taken:  # a declared group may have any name
            name += "+"
        taken.add(name)
        named |= dict.fromkeys(together, name)
    return {image_id: named[node] for image_id, node in node_of.items()}


def units(image_ids: Iterable[str], group_of: Mapping[str, str]) -> np.ndarray:
    """(N,) int, from 0: the unit that each row is resampled and shared out with, which is its group, else itself.

    group_of: image_id -> group, as the folds table has it (a declared group or a set of copies); empty, missing or
    absent for a row by itself. Rows by themselves come first, in their order, then groups in the order of their names.
    """
    import numpy as np

    groups = [_node(image_id, group_of.get(image_id))[0] for image_id in image_ids]
    alone = np.array([not group for group in groups], dtype=bool)
    codes = np.cumsum(alone) - 1
    place = {group: i for i, group in enumerate(sorted(set(groups) - {""}), int(alone.sum()))}
    codes[~alone] = [place[group] for group in groups if group]
    return codes


def _node(image_id: str, group: object) -> tuple[str, str]:
    """(group, "") or ("", image_id): what ties a row to others. pandas gives NaN where a table has nothing."""
    return (group, "") if isinstance(group, str) and group.strip() else ("", image_id)


def _joined(names: list[str]) -> str:
    return "+".join(names[:3]) + (f"+{len(names) - 3} more" if len(names) > 3 else "")
