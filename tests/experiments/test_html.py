"""report.html: its structure, its answer, and that it loads nothing and escapes everything."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from experiments.reports import cell_table
from experiments.reports.answer import NOTHING, PARTIAL, answer, question
from experiments.reports.report import build, summary_of
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store import environment
from experiments.store import faults as stored_faults
from experiments.store.faults import Fault
from tests.experiments.common import REFERENCE, frame
from tests.experiments.test_link_map import SECONDS
from tests.experiments.test_link_map import measured as over_links

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

LAYER = [Cell(name) for name in ("none", "rpyc", "rpyc-tuned", "grpc")]
HOSTILE = '</title><script>alert("1")</script> & <img src="https://example.org/x.png"> é'
VOID = {"meta", "br", "link", "img", "hr", "input"}


@dataclass
class Parsed(HTMLParser):
    """What a page holds. Fails for an end tag without its start."""

    text: str
    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: dict[str, list[str]] = field(default_factory=dict)
    """Tag -> the text of each of its elements."""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice"
        if tag not in VOID:
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.words[tag][-1] += data

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def html(folder: Path) -> str:
    return (build(folder).parent / "report.html").read_text(encoding="utf-8")


def answer_of(text: str) -> str:
    found = re.search(r'id="answer">(.*?)</section>', text, re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


def check(text: str) -> Parsed:
    """The parsed page. Fails unless the page is well-formed, loads nothing and has no identifier twice."""
    page = Parsed(text)
    assert [tag for tag, _ in page.tags[:3]] == ["html", "head", "meta"]
    assert all(link.startswith(("#", "data:")) for name in ("src", "href", "xlink:href") for link in page.all(name))
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\([\"']?([^)]*)", text))
    assert len(set(page.all("id"))) == len(page.all("id"))
    assert {link[1:] for link in page.all("xlink:href") if link.startswith("#")} <= set(page.all("id"))
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.all("id"))
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert len(page.words["table"]) == len(page.words["caption"])
    assert len(page.words["script"]) == 1
    return page


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*/report.html")), ids=lambda page: page.parent.name)
def test_a_reference_is_one_small_page_that_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    check(text)
    assert len(text.encode()) <= 3_000_000


def test_every_cell_is_in_the_table_once_and_the_fastest_is_first(make_results: Maker) -> None:
    page = check(html(make_results(LAYER)))
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td>', page.text)
    assert rows == [
        *(("Local", "1"), ("None", "1.2500"), ("gRPC", "3.1250")),
        *(("RPyC tuned", "3.4375"), ("RPyC", "5.6250")),
    ]
    heads = dict(re.findall(r'aria-sort="(\w+)"><button type="button">(.*?)<', page.text))
    assert heads["ascending"] == "x / Local"
    assert page.text.count('<td class="strip"><svg role="img"') == len(rows)
    assert "<p>All cells: layer, nested, eager engine, raw codec, batch 1, 5 servers.</p>" in page.text


def test_the_page_has_its_parts_in_order(make_results: Maker) -> None:
    text = html(make_results(LAYER, complete=False, failure="server 3 went away"))
    parts = (
        *("<h1>", "<strong>INCOMPLETE</strong>: server 3 went away", 'class="question"', 'id="answer"', "<figure"),
        *('id="cells"', "<details><summary><h2>Environment", "<details><summary><h2>How to read this"),
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_names_of_a_run_are_escaped(make_results: Maker) -> None:
    cells = [replace(Cell(), label=label) for label in ("a", '<b title="x">&amp;')]
    folder = make_results(cells, failure=HOSTILE, complete=False, warning=HOSTILE, command=[HOSTILE])
    record = environment.read(folder)["experiment"] | {"title": HOSTILE, "model": HOSTILE}
    environment.update(folder, experiment=record)
    page = check(html(folder))
    assert page.words["title"][0] == page.words["h1"][0] == HOSTILE
    assert HOSTILE in page.words["p"][1] or any(HOSTILE in text for text in page.words["p"])
    assert any('label <b title="x">&amp;' in text for text in page.words["th"])
    assert not any(tag == "img" for tag, _ in page.tags)


def test_the_same_samples_give_the_same_bytes(make_results: Maker) -> None:
    folder = make_results(LAYER)
    assert html(folder) == html(folder)


def test_without_matplotlib_the_page_says_so(make_results: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = check(html(make_results(LAYER)))
    assert "No chart: it needs matplotlib" in page.text
    assert "<figure" not in page.text
    assert 'id="cells"' in page.text


def answered(folder: Path, seconds: dict[Cell, Sequence[float]], complete: bool = True, rounds: bool = True) -> str:
    samples = frame(folder, seconds, block=5, rounds=rounds)
    experiment = Experiment(tuple(seconds))
    return " ".join(answer(experiment, samples, summary_of(samples, 0), {}, complete))


def steps(mean: float, runs: int = 50, spread: float = 0.01) -> list[float]:
    """Seconds around `mean`. The pattern of the deviations is the same in each cell."""
    return [mean * (1 + spread * (run // 5 % 5 - 2)) for run in range(runs)]


def test_a_clear_winner(tmp_path: Path) -> None:
    one, two, three = (Cell(name) for name in ("grpc", "rpyc", "none"))
    text = answered(tmp_path, {local_of(one): steps(0.1), one: steps(0.2), two: steps(0.3), three: steps(0.11)})
    assert text == (
        "gRPC is the fastest of 2 cells with a transport: a request takes 2.000 times as long as with the local model "
        "(95 % interval 2.000 to 2.000), 200 ms on average. The next, RPyC, takes 1.500 times as long as that (1.500 "
        "to 1.500)."
    )


def test_a_tie(tmp_path: Path) -> None:
    one, two = Cell("grpc"), Cell("rpyc")
    text = answered(tmp_path, {local_of(one): steps(0.1), one: steps(0.2), two: steps(0.2001, spread=-0.01)})
    assert "gRPC is the fastest of 2 cells" in text
    assert text.endswith(
        "No difference beyond noise from RPyC: the 95 % interval of the ratio of their times contains 1."
    )


def test_a_sentence_for_each_batch_and_few_rounds(tmp_path: Path) -> None:
    cells = [Cell(name, batch=batch) for batch in (1, 8) for name in ("grpc", "rpyc")]
    seconds = {local_of(cell): steps(0.1 * cell.batch, 10) for cell in cells}
    text = answered(
        tmp_path, seconds | {cell: steps((0.2 if cell.transport == "grpc" else 0.3) * cell.batch, 10) for cell in cells}
    )
    assert text.startswith("With batch 1: gRPC, batch 1 is the fastest of 2 cells")
    assert "With batch 8: " in text
    assert text.count("Too few rounds were measured for intervals, so its lead may be noise.") == 2


def test_an_incomplete_run_and_one_without_samples(tmp_path: Path, make_results: Maker) -> None:
    assert answered(tmp_path, {local_of(Cell()): steps(0.1), Cell(): steps(0.2)}, complete=False).endswith(PARTIAL)
    page = check(html(make_results([Cell()], runs=0, complete=False, failure="it never began")))
    assert answer_of(page.text) == f"Answer {NOTHING}"
    assert 'id="cells"' not in page.text


def test_only_the_local_model_or_none_at_all(tmp_path: Path) -> None:
    for name in ("local", "other"):
        (tmp_path / name).mkdir()
    assert answered(tmp_path / "local", {local_of(Cell()): steps(0.1)}) == (
        "Only the local model was measured: a request takes 0.100 s on average."
    )
    assert answered(tmp_path / "other", {Cell(): steps(0.1)}) == (
        "gRPC: a request takes 100 ms on average; its local model was not measured."
    )


def test_several_links_have_a_winner_each(tmp_path: Path) -> None:
    experiment, samples = over_links(tmp_path, SECONDS)
    near, far = answer(experiment, samples, summary_of(samples, 0), {}, True)
    assert near.startswith("Cut a (TCP) is the fastest over rtt:1ms, bandwidth:1000Mbit: 0.923 times as long as whole")
    assert far.startswith("Whole on edge (TCP) is the fastest over rtt:200ms, bandwidth:5Mbit: 0.0783 times as long as")
    environment.begin(tmp_path, experiment, [])
    environment.finish(tmp_path)
    page = check(html(tmp_path))
    assert "Where to cut over which link" in page.text
    assert "link edge&lt;-&gt;cloud rtt:1ms,bandwidth:1000Mbit" in page.text
    assert page.text.count("<figure") == 2  # the map, and the distributions


def test_kills_are_answered_with_the_outage(make_results: Maker) -> None:
    cells = [Cell(), Cell("rpyc")]
    folder = make_results(cells, kill="node-1@20")
    samples = pd.read_csv(folder / "samples.csv").assign(start=lambda rows: rows["run"] * 1.0)
    samples.to_csv(folder / "samples.csv", index=False)
    with stored_faults.writer(folder) as writer:
        for cell in cells:
            writer.append(Fault(cell, 20, 20.0, 0.0, "kill", "node-1"))
            writer.append(Fault(cell, 20, 19.9, 0.5, "failed", "NodeLost"))
    page = check(html(folder))
    text = answer_of(page.text)
    assert "2 nodes were killed; 2 requests failed, and 0 were repeated." in text
    assert "The first answer came" in text
    assert "soonest with gRPC" in text
    assert "x / Local" not in text
    assert 'id="cells"' not in page.text


def test_the_question_names_what_differs() -> None:
    experiment = Experiment((Cell(), Cell("rpyc", flow="hub")), model="m.keras")
    assert question(experiment, {}) == (
        "How long does a request to m.keras (random weights) take, beside the local model, in 2 cells: transport gRPC, "
        "RPyC; flow nested, hub?"
    )


def test_many_cells_have_no_pictures_of_samples(make_results: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_table, "STRIPS", 2)
    page = check(html(make_results(LAYER)))
    assert 'class="strip"' not in page.text
    assert 'scope="col">Samples' not in page.text
