"""A report as two files: report.md, and report.html, which needs no other file, no network and no JavaScript to read.

The sections of report.md become HTML here. The answer, the table of all cells and the order of sections differ from
report.md. Every text of a run is escaped, and none is put into the script. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML

from experiments.reports import markdown
from experiments.store import files

Lines = Sequence[str]

PICTURE = re.compile(r"!\[(?P<description>.*)\]\((?P<name>[\w.-]+\.svg)\)")
"""A line of report.md that shows a picture of the same folder."""
REFERENCES = re.compile(r'(\bid="|\bhref="#|url\(#)')
"""What stands before an identifier in an SVG text."""
DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
"""Parts of an SVG text that a page does not need. A style among them would apply to the whole page."""
UNUSED = ("image", "link", "autolink", "reference", "entity", "html_block", "html_inline")
"""Rules of Markdown that no section needs: with them a text of a run could load or hide something."""


MEASURED = "How it was measured"
"""The title of the notes in report.md."""
TOP = ("banner", "notes")
PICTURES = ("faults", "map", "chart", "load", "distributions", "pareto", "phases", "ladder", "depth", "topology")
COLLAPSED = ("environment", "reading")
"""Names of sections: at the top, before the table of all cells, and at the end, where a click opens them."""


@dataclass(frozen=True)
class Page:
    """The content of a report."""

    title: str
    question: str
    answer: Sequence[str]
    cells: str
    """The table of all cells, as HTML; empty if there is none."""
    parts: Mapping[str, Lines]
    """Sections by name. Sections that none of `TOP`, `PICTURES` and `COLLAPSED` names follow the table of cells."""

    def text(self, folder: Path) -> str:
        """report.html. `folder` holds the pictures that sections show."""
        style, script = (_resource(name) for name in ("report.css", "report.js"))
        banner, notes = (self.parts.get(name, ()) for name in TOP)
        others = [name for name in self.parts if name not in (*TOP, *PICTURES, *COLLAPSED)]
        parts = [
            f"<header><h1>{escape(self.title)}</h1>",
            f'<div class="banner" role="note">{_body(banner, folder)}</div>' if banner else "",
            f'<p class="question">{escape(self.question)}</p></header>',
            _answer(self.answer),
            f'<section class="notes">{_body(notes, folder)}</section>' if notes else "",
            *self._sections(PICTURES, folder),
            f"<section><h2>All cells</h2>\n{self.cells}</section>" if self.cells else "",
            *self._sections(others, folder),
            *self._sections(COLLAPSED, folder, collapsed=True),
        ]
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(part for part in parts if part)
            + f"\n</main>\n<script>{script}</script>\n</body>\n</html>\n"
        )

    def write(self, folder: Path, order: Sequence[str] = (), more: Mapping[str, Lines] = {}) -> Path:
        """Write report.md and report.html into `folder`; return the path of report.md. Raises `WriteError`.

        `order`: names of the sections of report.md; empty: all, in their order. `more`: sections of report.md alone.
        """
        notes = self.parts.get("notes")
        sections = {
            "banner": self.parts.get("banner", ()),
            "question": [markdown.line(self.question)],
            "answer": ["## Answer", *(text for sentence in self.answer for text in ("", *_listed(sentence)))],
            **self.parts,
            "notes": [f"## {MEASURED}", "", *notes] if notes else [],
            **more,
        }
        parts = [sections.get(name, ()) for name in order or sections]
        files.replace_file(folder / files.REPORT, markdown.text(self.title, parts))
        files.replace_file(folder / files.REPORT_HTML, self.text(folder))
        return folder / files.REPORT

    def _sections(self, names: Sequence[str], folder: Path, collapsed: bool = False) -> list[str]:
        found = (self.parts.get(name, ()) for name in names)
        return [section(lines, folder, collapsed) for lines in found if lines]


def section(lines: Lines, folder: Path, collapsed: bool = False) -> str:
    """A section of report.md as HTML. A `collapsed` section opens and closes by a click on its heading."""
    title = lines[0].removeprefix("## ") if lines[0].startswith("## ") else ""
    body = _body(lines[1:] if title else lines, folder, title)
    heading = f"<h2>{_MARKDOWN.renderInline(title)}</h2>" if title else ""
    if collapsed:
        return f"<details><summary>{heading}</summary>\n{body}</details>"
    return f"<section>{heading}\n{body}</section>"


def _answer(sentences: Sequence[str]) -> str:
    body = "".join(map(_sentence, sentences))
    return f'<section class="answer" id="answer"><h2>Answer</h2>\n{body}</section>'


def _listed(sentence: str) -> list[str]:
    """A sentence of the answer as Markdown: the lines after its first are a list."""
    first, *items = map(markdown.line, sentence.splitlines())
    return [first, *([""] if items else []), *(f"- {item}" for item in items)]


def _sentence(text: str) -> str:
    first, *items = map(escape, text.splitlines())
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f"<p>{first}</p>" + (f"<ul>{listed}</ul>" if items else "")


def _body(lines: Lines, folder: Path, caption: str = "") -> str:
    """The lines as HTML, each picture in its place."""
    parts: list[str] = []
    text: list[str] = []
    for line in [*lines, ""]:
        if shown := PICTURE.fullmatch(line):
            parts += [_render(text, caption), picture(folder / shown["name"], shown["description"])]
            text = []
        else:
            text.append(line)
    return "".join([*parts, _render(text, caption)])


def _render(lines: Lines, caption: str) -> str:
    return str(_MARKDOWN.render("\n".join(lines), {"caption": caption}))


def picture(path: Path, description: str) -> str:
    """The SVG file as part of a page: its identifiers begin with its name, so that they are unique."""
    drawn = DROPPED.sub("", path.read_text(encoding="utf-8"))
    drawn = re.sub(r"<[^>]+>", lambda tag: REFERENCES.sub(rf"\g<1>{path.stem}-", tag[0]), drawn)
    drawn = re.sub(r">\s+<", ">\n<", drawn).strip()
    width, height = re.findall(r"\bviewBox=\"0 0 ([\d.]+) ([\d.]+)\"", drawn)[0]
    head = f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {width} {height}" width="{width}">'
    return f'<figure class="picture scroll {path.stem}">{re.sub(r"<svg[^>]*>", head, drawn, count=1)}</figure>\n'


def _policy(script: str) -> str:
    """The page may run its own script and use its own styles, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _resource(name: str) -> str:
    return (resources.files("experiments.reports") / name).read_text(encoding="utf-8")


def _markdown() -> MarkdownIt:
    """A reader of the Markdown that sections write. Tables get captions, and their headers a scope."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(list(UNUSED))

    def opened(self: RendererHTML, tokens: Any, place: int, options: Any, env: Mapping[str, str]) -> str:
        caption = reader.renderInline(env["caption"]) if env.get("caption") else ""
        shown = f'<caption class="hidden">{caption}</caption>' if caption else ""
        return f'<div class="scroll" tabindex="0"><table>{shown}\n'

    def closed(self: RendererHTML, tokens: Any, place: int, options: Any, env: Mapping[str, str]) -> str:
        return "</table></div>\n"

    def head(self: RendererHTML, tokens: Any, place: int, options: Any, env: Any) -> str:
        tokens[place].attrSet("scope", "col")
        return self.renderToken(tokens, place, options, env)

    for name, rule in (("table_open", opened), ("table_close", closed), ("th_open", head)):
        reader.add_render_rule(name, rule)
    return reader


_MARKDOWN = _markdown()
