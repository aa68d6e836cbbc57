"""The report in a browser without a network: on a wide screen and a phone, light and dark."""

import shutil
from itertools import pairwise

import pytest
from playwright.sync_api import sync_playwright

from tests.support.report_study import Results

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONE, WIDE = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on the path; install it with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(quantized_study, tmp_path_factory):
    """A finished report's address."""
    results = Results(tmp_path_factory.mktemp("results"), quantized_study.quant_config, quantized_study.statistics)
    results.write()
    results.change("fid.json", lambda fid: fid["variants"]["w4a8"].update(title="<script>document.title='x'</script>"))
    results.render()
    return (results.folder / "report.html").as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the report as a function of the screen; at the end nothing may have been asked for or gone wrong."""
    contexts, asked, wrong = [], [], []

    def guard(route):
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    def open_it(viewport=WIDE, **settings):
        contexts.append(browser.new_context(viewport=viewport, **settings))
        page = contexts[-1].new_page()
        page.route("**/*", guard)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert (asked, wrong) == ([], [])


def read_column(page, table, column):
    return page.locator(f"#{table} tbody tr:visible > :nth-child({column})").all_inner_texts()


def test_every_picture_is_loaded_even_in_folded_sections(open_page):
    page = open_page()
    pictures = page.evaluate("[...document.images].map((image) => [image.naturalWidth, image.alt])")
    assert len(pictures) == 19
    assert all(width > 0 and alt for width, alt in pictures)


def test_a_name_that_contains_a_script_is_text(open_page):
    page = open_page()
    assert page.title() == "Quantization of embedded"
    assert "<script>" in page.locator("#quality").inner_text()


def test_a_column_head_sorts_by_number_in_both_directions(open_page):
    page = open_page()
    head = page.locator("#weights th", has_text="KB")
    assert head.get_attribute("aria-sort") == "none"
    place = page.locator("#weights thead th").all_inner_texts().index("KB") + 1
    head.locator("button").click()
    values = [float(text) for text in read_column(page, "weights", place)]
    assert values == sorted(values)
    assert sorted(map(str, values)) != [str(value) for value in values]  # not the order of text
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert [float(text) for text in read_column(page, "weights", place)] == values[::-1]
    assert head.get_attribute("aria-sort") == "descending"


def test_exact_sorts_above_numbers_and_unknown_values_stay_last(open_page):
    page = open_page()
    place = page.locator("#weights thead th").all_inner_texts().index("Own bits, dB") + 1
    button = page.locator("#weights thead button", has_text="Own bits, dB")
    for first, last in ((0, "exact"), (-1, "exact")):
        button.click()
        texts = read_column(page, "weights", place)
        known = [text for text in texts if text != "–"]
        assert texts[len(known) :] == ["–"] * (len(texts) - len(known))
        assert known[-1 if first == 0 else 0] == last


def test_one_column_is_sorted_at_a_time_and_by_keyboard_too(open_page):
    page = open_page()
    buttons = page.locator("#inputs thead button")
    buttons.nth(0).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    states = [head.get_attribute("aria-sort") for head in page.locator("#inputs thead th").all()]
    assert states == ["none", "ascending", *["none"] * (len(states) - 2)]
    assert page.locator("#weights [aria-sort=ascending]").count() == 0


def test_the_search_hides_rows_and_shows_the_number_left(open_page):
    page = open_page()
    search, output = page.get_by_label("Search").nth(0), page.locator("#weights output")
    total = page.locator("#weights tbody tr").count()
    assert output.inner_text() == f"{total} layers"
    search.fill("FC2  image")
    names = read_column(page, "weights", 1)
    assert names == [f"mm_{block:02d}.image.mlp.fc2" for block in range(5)]
    assert output.inner_text() == f"5 of {total} layers"
    search.fill("no such layer")
    assert output.inner_text() == f"0 of {total} layers"
    search.fill("")
    assert output.inner_text() == f"{total} layers"


def test_a_phone_scrolls_tables_and_not_the_page(open_page):
    page = open_page(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    wide = page.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.querySelector('#weights .scroll'))"
    )
    assert wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_schemes(open_page, scheme):
    page = open_page(color_scheme=scheme)
    colours = page.evaluate(CONTRASTS)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 3 * 128) == (scheme == "dark")
    assert colours
    assert {place: ratio for place, ratio in colours.items() if ratio < 4.5} == {}


def test_headings_are_in_order_and_every_table_has_a_name(open_page):
    page = open_page()
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((head) => Number(head.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.evaluate("[...document.querySelectorAll('table')].every((table) => table.caption)")
    assert page.evaluate("[...document.querySelectorAll('th')].every((head) => head.scope)")
    links = page.evaluate("[...document.querySelectorAll('nav a')].map((a) => document.querySelector(a.hash) !== null)")
    assert links == [True] * 7


def test_printing_shows_folded_sections(open_page):
    page = open_page()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.plot:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.plot[open]").count() == 1


# The contrast (WCAG 2.2) of the text of one element of each kind with the nearest ground below it.
CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => parse(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return parse(colour)[3] === 0 ? ground(node.parentElement) : colour;
  };
  const found = {};
  for (const place of ["h1", ".reading", ".caution", "nav a", ".tiles small", "thead th", "thead button", "td small",
      "td.worst", ".subject th", ".subject small", ".search output", "dt", "dd", "figcaption", "summary",
      ".group th"]) {
    const node = document.querySelector(place);
    const [low, high] = [getComputedStyle(node).color, ground(node)].map(luminance).sort((a, b) => a - b);
    found[place] = (high + 0.05) / (low + 0.05);
  }
  return found;
}"""
