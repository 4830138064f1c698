"""The figures in sentences of README.md and docs/ agree with the results, or say where they are from."""

from __future__ import annotations

import pytest

from tools import docs_figures, docs_tables

FIGURED = {page.name: page.read_text(encoding="utf-8") for page in docs_tables.pages()}
SENTENCES = [(page, number) for page, derive in docs_figures.DERIVED.items() for number in range(len(derive()))]


@pytest.mark.parametrize("page", FIGURED)
def test_every_figure_in_a_sentence_is_that_of_the_results_or_says_where_it_is_from(page: str) -> None:
    text = FIGURED[page]
    assert docs_figures.fill(page, text) == text, "run: python -m tools.docs_tables"
    assert docs_figures.uncovered(page, text) == []
    for sentence in docs_figures.STATED.get(page, ()):
        assert docs_figures.pattern(sentence).search(text), sentence


@pytest.mark.parametrize(("page", "number"), SENTENCES)
def test_a_stale_figure_is_found(page: str, number: int) -> None:
    sentence, values = docs_figures.DERIVED[page]()[number]
    found = docs_figures.pattern(sentence).search(FIGURED[page])
    assert found
    for place, value in enumerate(values, 1):
        start, end = found.span(place)
        stale = f"{FIGURED[page][:start]}{float(found[place]) + 1:g}{FIGURED[page][end:]}"
        assert docs_figures.fill(page, stale) != stale, value


def test_a_figure_without_a_source_and_a_lost_sentence_are_found() -> None:
    text = FIGURED["results.md"]
    added = "gRPC takes 12 ms, 3.5 times local, or 4 % of `5 ms`, with 8 messages of `--max 3.5`."
    found = docs_figures.uncovered("results.md", f"{text}\n{added}\n")
    assert [figure for figure, _ in found] == ["12", "3.5", "4"]
    assert "gRPC takes 12 ms, 3.5 times local" in found[0][1]
    with pytest.raises(LookupError, match="lacks the sentence 'gRPC falls from"):
        docs_figures.fill("results.md", text.replace("gRPC falls from", "gRPC fell from"))
