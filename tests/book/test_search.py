"""Ten tasks of a newcomer who knows PyTorch: the site's search, given the standard term, finds an answer."""

import pytest

pytestmark = pytest.mark.slow

# What is typed into the search box, and words of which the first page that it finds has to show one.
TASKS = {
    "prefill": "generate_from",
    "resume checkpoint torchrun": "checkpoint",
    "activation checkpointing": "activation_checkpointing",
    "mel spectrogram": "synthesize",
    "bits per sample": "sashimi evaluate",
    "published weights": "sashimi_lib.official",
    "add a backbone": "check_sequence_model",
    "sampler temperature": "SamplingConfig",
    "stream in real time": "stream(",
    "several GPUs": "torchrun",
}


@pytest.mark.parametrize(("query", "answer"), TASKS.items(), ids=TASKS)
def test_the_first_page_that_search_finds_has_the_answer(visit, site_url, query, answer):
    page = visit("search").page
    page.goto(f"{site_url}search.html?q={query.replace(' ', '+')}")
    page.wait_for_selector("#search-results ul.search li a")
    first = page.query_selector("#search-results ul.search li a")
    print(query, "->", first.inner_text(), first.get_attribute("href").partition("?")[0])
    page.goto(site_url + first.get_attribute("href"))
    assert answer in page.inner_text("main")
