"""What belongs together: rows tied by declared groups and by sets of duplicates, through any number of steps.

In: pairs, or a competition and sets of ids. Out: connected sets, or the group of each row. The folds keep these groups
whole, the audit proves it by them, and the first look leaves out what they hold together already.
"""

from collections.abc import Iterable, Sequence

from pipeline.competition.contract import Competition

Sets = Sequence[Sequence[str]]


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
    rows = competition.train_rows
    node_of = {row["image_id"]: row["group"] if competition.has_groups else row["image_id"] for row in rows}
    nodes = sorted(set(node_of.values()))
    index = {node: i for i, node in enumerate(nodes)}
    tied = [[index[node_of[image_id]] for image_id in members if image_id in node_of] for members in duplicates]
    named = {node: node if competition.has_groups else "" for node in nodes}
    for members in sets_of(len(nodes), ((one[0], other) for one in tied for other in one[1:])):
        names = [nodes[i] for i in members]
        named |= dict.fromkeys(names, _joined(names) if competition.has_groups else f"copies of {names[0]}")
    return {image_id: named[node] for image_id, node in node_of.items()}


def _joined(names: list[str]) -> str:
    return "+".join(names[:3]) + (f"+{len(names) - 3} more" if len(names) > 3 else "")
