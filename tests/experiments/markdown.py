"""Reads the tables of a Markdown text with a parser, as a reader's program does."""

from __future__ import annotations

from markdown_it import MarkdownIt


def tables_of(text: str) -> list[list[list[str]]]:
    """Every table of `text`, as rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found
