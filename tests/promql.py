"""Questions about PromQL expressions: what they read, and which labels come out.

Turns text into a tree (promql_parser) and walks it. Knows: which labels each metric of ours has, and what operators
leave of them. Does not know: rules, dashboards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import promql_parser
from promql_parser import LabelModifierType, VectorMatchCardinality

from bwexporter.metrics.catalogue import every_family
from bwexporter.metrics.families import Kind
from bwexporter.metrics.instruments import process_registry

TARGET = frozenset({"job", "instance"})
COUNTER_FUNCTIONS = frozenset({"rate", "irate", "increase", "resets"})
_AGGREGATES_THAT_KEEP = ("topk", "bottomk")
_SETS = ("and", "or", "unless")
_COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")


@dataclass(frozen=True)
class Selected:
    """One selector of an expression, and how it is read."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]  # label, operator, value
    functions: tuple[str, ...]  # the functions around it, innermost first
    range: timedelta | None


def exposed() -> dict[str, frozenset[str]]:
    """Return every series that a scrape gives, with its labels, those of the target included."""
    found: dict[str, frozenset[str]] = {"up": TARGET}
    for family in every_family():
        labels = TARGET | set(family.labels)
        found[family.name] = labels
        if family.kind is Kind.HISTOGRAM:
            found |= {f"{family.name}_bucket": labels | {"le"}, f"{family.name}_sum": labels}
            found[f"{family.name}_count"] = labels
    for own in process_registry().collect():
        for sample in own.samples:
            found[sample.name] = TARGET | set(sample.labels)
    return found


def children(node: Any) -> Iterator[Any]:
    """Yield the expressions right below one."""
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        below = getattr(node, name, None)
        if isinstance(below, promql_parser.Expr):
            yield below
    yield from getattr(node, "args", ())


def selected(node: Any, functions: tuple[str, ...] = (), span: timedelta | None = None) -> Iterator[Selected]:
    """Yield every selector of an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        matchers = tuple((one.name, _operator(one.op), one.value) for one in node.matchers.matchers)
        yield Selected(node.name, matchers, functions, span)
        return
    if isinstance(node, promql_parser.Call):
        functions = (node.func.name, *functions)
    for below in children(node):
        yield from selected(below, functions, getattr(node, "range", span))


def every(node: Any) -> Iterator[Any]:
    """Yield an expression and all below it."""
    yield node
    for below in children(node):
        yield from every(below)


def compares(node: Any) -> bool:
    """Say whether something is compared in an expression."""
    return any(isinstance(one, promql_parser.BinaryExpr) and str(one.op) in _COMPARISONS for one in every(node))


def labels(node: Any, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the labels that the series of an expression can have, given those of its metrics."""
    if isinstance(node, promql_parser.VectorSelector):
        return known[node.name]
    if isinstance(node, promql_parser.AggregateExpr):
        return _of_aggregate(node, labels(node.expr, known))
    if isinstance(node, promql_parser.BinaryExpr):
        return _of_binary(node, labels(node.lhs, known), labels(node.rhs, known))
    if isinstance(node, promql_parser.Call) and node.func.name == "absent":
        return frozenset(label for one in selected(node) for label, operator, _ in one.matchers if operator == "=")
    return frozenset().union(*(labels(below, known) for below in children(node)))


def _of_aggregate(node: Any, inside: frozenset[str]) -> frozenset[str]:
    if str(node.op) in _AGGREGATES_THAT_KEEP:
        return inside
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    return inside - named if "Without" in str(node.modifier.type) else inside & named


def _of_binary(node: Any, left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    modifier, operator = node.modifier, str(node.op)
    if operator == "or":
        return left | right
    if operator in _SETS or modifier is None or modifier.matching is None:
        return left or right
    if modifier.card == VectorMatchCardinality.ManyToOne:
        return left | (frozenset(modifier.group_labels) & right)
    if modifier.card == VectorMatchCardinality.OneToMany:
        return right | (frozenset(modifier.group_labels) & left)
    named = frozenset(modifier.matching.labels)
    return left & named if modifier.matching.type == LabelModifierType.Include else left - named


def _operator(found: Any) -> str:
    return {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}[str(found).rpartition(".")[2]]
