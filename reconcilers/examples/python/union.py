"""A reconciler in Python: a JSON array of strings, folded by union.

Lawful because a set union is: order, repeats and grouping do not matter, and the
result is sorted, so equal sets are equal bytes. Deleted only when every sibling
is. docs/guests.md says how to build it and what it costs.
"""

import json

from componentize_py_types import Err
from wit_world import exports

from wit_world.imports.types import Description, Outcome_Deleted, Outcome_Merged


def read(value: bytes) -> list[str]:
    tags = json.loads(value)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise Err("a value is a JSON array of strings")
    return tags


class Reconcile(exports.Reconcile):
    def describe(self) -> Description:
        return Description(
            summary="A set of tags: the union of all that were written",
            version="1.0.0",
            eager=False,
        )

    def fold(self, item, siblings):
        present = [sibling.value for sibling in siblings if sibling.value is not None]
        if not present:
            return Outcome_Deleted()
        union = {tag for value in present for tag in read(value)}
        return Outcome_Merged(json.dumps(sorted(union)).encode())
