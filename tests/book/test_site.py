"""Every page of the built site in a real browser: complete, quiet, self-contained, readable, alive."""

import re

import pytest

pytestmark = pytest.mark.slow

DECODE = """async (audio) => {
  const bytes = await (await fetch(audio.src)).arrayBuffer();
  const decoded = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes);
  audio.load();
  await new Promise((done) => {
    audio.oncanplay = audio.onerror = done;
    if (audio.readyState >= 2) done();
    setTimeout(done, 10000);
  });
  const card = audio.closest("figure");
  return { error: audio.error?.message ?? null, shown: audio.duration, decoded: decoded.duration,
           text: card ? card.innerText : "" };
}"""

# What a reader sees of a stepper: the selected page's HTML, and whether all its pictures have been decoded.
SEEN = """(box) => {
  const pages = [...box.querySelectorAll(".widget-html-content")].filter((e) => e.offsetParent !== null);
  const pictures = pages.flatMap((e) => [...e.querySelectorAll("img")]);
  return { html: pages.map((e) => e.innerHTML).join(""),
           complete: pictures.every((i) => i.complete && i.naturalWidth > 0) };
}"""

# Contrast of every visible text in the article against the nearest background colour behind it.
FAINT = """() => {
  const rgb = (c) => (c.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.querySelector(".bd-article"), NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement, text = node.textContent.trim();
    if (!text || !e.checkVisibility({ opacityProperty: true })) continue;
    if (e.closest("script, style, mjx-assistive-mml, svg, .headerlink")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 3) faint.push(`${text.slice(0, 40)} (${getComputedStyle(e).color})`);
  }
  return [...new Set(faint)].slice(0, 10);
}"""


def check_players(scope):
    """Decode every player below a page or element; return how many there are."""
    players = scope.query_selector_all("audio")
    for player in players:
        found = player.evaluate(DECODE)
        assert found["error"] is None
        assert found["decoded"] > 0
        assert found["shown"] == pytest.approx(found["decoded"], abs=0.1)
        stated = re.search(r"(\d+\.\d\d) s,", found["text"])
        if stated:
            assert found["shown"] == pytest.approx(float(stated[1]), abs=0.1)
    return len(players)


def look(box, page):
    """Return what a stepper shows, once its pictures have been decoded."""
    for _ in range(100):
        seen = box.evaluate(SEEN)
        if seen["complete"]:
            return seen["html"]
        page.wait_for_timeout(20)
    raise AssertionError("a picture of a stepper cannot be shown")


def test_page_loads_without_errors_or_requests_outside_the_site(visit, page_name):
    seen = visit(page_name)
    broken = (
        "[...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src.slice(0, 99))"
    )
    assert seen.problems == []
    assert seen.page.evaluate(broken) == []
    assert seen.page.query_selector_all("mjx-merror, [data-mjx-error]") == []
    assert seen.page.query_selector_all("h1")


def test_every_player_decodes_and_has_its_duration(visit, chapter):
    seen = visit(chapter.stem)
    assert check_players(seen.page) > 0, "a chapter without a sound"
    assert seen.problems == []


def test_every_slider_changes_its_picture_without_a_kernel(visit, chapter):
    seen = visit(chapter.stem)
    for handle in seen.page.query_selector_all('.widget-subarea [role="slider"]'):
        box = handle.evaluate_handle("(e) => e.closest('.widget-subarea')").as_element()
        start = handle.get_attribute("aria-valuenow")
        handle.press("Home")
        shown = {handle.get_attribute("aria-valuenow"): look(box, seen.page)}
        for _ in range(200):
            handle.press("ArrowRight")
            position = handle.get_attribute("aria-valuenow")
            if position in shown:
                break
            shown[position] = look(box, seen.page)
            check_players(box)
        assert start in shown
        assert len(shown) > 1, "a slider that cannot be moved"
        assert len(set(shown.values())) == len(shown), "two positions of a slider show the same"
    assert seen.problems == []


def test_every_play_button_starts(visit, chapter):
    seen = visit(chapter.stem)
    for button in seen.page.query_selector_all(".widget-play button:first-child"):
        box = button.evaluate_handle("(e) => e.closest('.widget-subarea')").as_element()
        slider = box.query_selector('[role="slider"]')
        slider.press("Home")
        before = look(box, seen.page)
        button.click()
        seen.page.wait_for_timeout(2000)
        assert look(box, seen.page) != before
    assert seen.problems == []


def test_page_fits_and_can_be_read_on_desktop_and_phone_light_and_dark(visit, page_name, keep_screenshot):
    page = visit(page_name).page
    for device, width, height in [("desktop", 1360, 900), ("phone", 390, 844)]:
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
            page.wait_for_timeout(300)  # colours fade over
            keep_screenshot(page, f"{page_name}-{device}-{theme}")
            too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(too_wide) <= 0, device
            if page.query_selector(".bd-article"):
                assert page.evaluate(FAINT) == [], f"{device}, {theme}"
