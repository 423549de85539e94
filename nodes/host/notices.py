"""Sentences for the artist that stop nothing: in the log, and as text on the node that runs."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)

# The run of a node that has told something last, and its sentences: the front end shows one text on a node.
_told: tuple[tuple | None, list[str]] = (None, [])


def tell(sentence: str, logged: bool = True) -> None:
    """Show a sentence on the node that runs now.

    Args:
        logged: write it to the log too.
    """
    if logged:
        log.warning("%s", sentence)
    running = get_executing_context()
    if running is not None:
        sentences = told()
        if sentence not in sentences:
            sentences.append(sentence)
        say_on_node("\n".join(sentences), running.node_id)


def told() -> list[str]:
    """What has been told on the node that runs now, in this run of it."""
    global _told
    running = get_executing_context()
    run = (running.prompt_id, running.node_id) if running else None
    if run is None or _told[0] != run:
        _told = (run, [])
    return _told[1]


def say_on_node(sentence: str, node_id: str | None) -> None:
    """Text on a node, until that node runs again; nothing outside of a prompt."""
    if node_id is None:
        return
    from server import PromptServer

    if (server := getattr(PromptServer, "instance", None)) is not None:
        server.send_progress_text(sentence, node_id)
        # web/told.js keeps texts of this event on their nodes: the host does not say whose a text is.
        server.send_sync("blip-diffusion-subjects.told", {"node": str(node_id), "text": sentence})
