"""`bwexporter demo-node` and `demo-part`: the processes of the demo, which nobody calls by hand.

Turns arguments into calls. Knows: which descriptors are handed down. Does not know: how the node is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bwexporter.demo import node


@click.command("demo-node", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--listen-fd", type=int, required=True)
@click.option("--lifeline-fd", type=int, required=True)
def demo_node(folder: Path, *, listen_fd: int, lifeline_fd: int) -> None:
    """Be the inside of the demo."""
    sys.exit(node.run(folder, listen_fd=listen_fd, lifeline_fd=lifeline_fd))


@click.command("demo-part", hidden=True)
@click.argument("part", type=click.Choice(["far-end", "senders"]))
def demo_part(part: str) -> None:
    """Be one process of the demo's node."""
    {"far-end": node.far_end, "senders": node.senders}[part]()
