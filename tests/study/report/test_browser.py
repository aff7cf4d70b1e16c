"""The page in a real browser: filters, keyboard, no request, no complaint, no sideways scrolling on a phone."""

import shutil

import pytest

from geneval_reward.study.report.collect import collect
from geneval_reward.study.report.html import write_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.slow]
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
if CHROMIUM is None:
    pytest.skip("no chromium on PATH", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page; whatever it asks for or complains of is an error at the end."""
    contexts, wrong = [], []

    def asked(request):
        if not request.url.startswith(("file:", "data:")):
            wrong.append(request.url)

    def go(path, query="", **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", asked)
        page.goto(f"file://{path}{query}")
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def single(write, rows, tmp_path):
    return write_html(collect([write("a", rows[0])], draws=200), tmp_path / "one.html")


@pytest.fixture
def double(write, rows, tmp_path):
    report = collect([write("before", rows[0]), write("after", rows[1])], draws=200)
    return write_html(report, tmp_path / "two.html"), report


def shown(page):
    return page.locator("#grid > li").count()


FOCUSED = "document.activeElement.dataset.place ?? document.activeElement.id"


def focused(page):
    return page.evaluate(FOCUSED)


def wait_for_focus(page, place):
    """A browser moves the focus after the key press has returned, later still on a busy machine."""
    page.wait_for_function(f"place => ({FOCUSED}) === place", arg=place, timeout=10_000)


def test_filters(visit, single, rows):
    page = visit(single)
    assert shown(page) == len(rows[0])
    page.check("input[name=verdict][value=wrong]", force=True)
    wrong = sum(not row.correct for row in rows[0])
    assert shown(page) == wrong
    assert page.inner_text("#count") == f"{wrong} of {len(rows[0])} images"
    page.select_option("#f-tag", "position")
    assert shown(page) == sum(not row.correct for row in rows[0] if row.tag == "position")
    page.click("button[type=reset]")
    page.wait_for_function(f"document.querySelectorAll('#grid > li').length === {len(rows[0])}")
    page.fill("#f-text", rows[0][-1].prompt)
    assert shown(page) == sum(row.prompt == rows[0][-1].prompt for row in rows[0])
    page.fill("#f-text", "no such thing")
    assert shown(page) == 0
    assert "nothing passes" in page.inner_text("#count")


def test_a_reason_leads_to_its_images(visit, single, rows):
    page = visit(single)
    page.click("button[data-filter='cause=color']")
    expected = sum("; and " in row.reason for row in rows[0])
    assert shown(page) == expected > 0
    assert page.url.endswith("#cause=color")
    assert page.input_value("#f-cause") == "color"


def test_an_address_is_a_filter(visit, single, rows):
    page = visit(single, "#tag=counting&verdict=right&nonsense=1&cause=bogus")
    assert shown(page) == sum(row.correct for row in rows[0] if row.tag == "counting")


def test_keyboard_alone(visit, single, rows):
    page = visit(single)
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.className === 'skip'", timeout=10_000)
    page.keyboard.press("Enter")
    wait_for_focus(page, "gallery")
    for _ in range(12):
        if focused(page) == "0":
            break
        before = focused(page)
        page.keyboard.press("Tab")
        page.wait_for_function(f"place => ({FOCUSED}) !== place", arg=before, timeout=10_000)
    wait_for_focus(page, "0")
    page.keyboard.press("ArrowRight")
    wait_for_focus(page, "1")
    tops = page.eval_on_selector_all("#grid > li", "all => all.map(one => one.offsetTop)")
    columns = tops.count(tops[0])
    page.keyboard.press("ArrowDown")
    wait_for_focus(page, str(1 + columns))
    page.keyboard.press("End")
    wait_for_focus(page, str(len(rows[0]) - 1))
    page.keyboard.press("ArrowRight")
    wait_for_focus(page, str(len(rows[0]) - 1))
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    dialog = page.locator("#dialog")
    dialog.wait_for(state="visible")
    assert page.inner_text("#d-title") == rows[0][0].prompt
    wait_for_focus(page, "close")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#d-title") == rows[0][2].prompt
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    wait_for_focus(page, "2")


def test_names_for_those_who_listen(visit, single, rows):
    page = visit(single)
    labels = page.eval_on_selector_all("#grid button", "all => all.map(one => one.ariaLabel)")
    for label, row in zip(labels, rows[0], strict=True):
        assert row.prompt in label
        assert ("correct" if row.correct else "wrong") in label
        assert row.reason.replace("\n", ", ") in label
    assert page.evaluate("[...document.querySelectorAll('img')].every(one => one.hasAttribute('alt'))")
    assert page.evaluate("[...document.querySelectorAll('select, input')].every(one => one.labels.length > 0)")
    assert page.evaluate("[...document.querySelectorAll('#grid button[tabindex=\"0\"]')].length") == 1


def test_the_dialog_shows_what_was_seen(visit, single, rows):
    number = next(i for i, row in enumerate(rows[0]) if row.tag == "color_attr" and not row.correct)
    page = visit(single)
    page.click(f"#grid button[data-place='{number}']")
    text = page.inner_text("#d-body")
    for words in (*rows[0][number].reason.split("\n"), rows[0][number].filename, str(rows[0][number].seed)):
        assert words in text
    link = page.get_attribute("#d-body a", "href")
    assert link == f"./a/{rows[0][number].filename}"
    assert page.evaluate("document.querySelector('#d-body img').naturalWidth") > 0
    page.click("#close")
    assert not page.locator("#dialog").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["one", "two"])
def test_on_a_phone(visit, single, double, scheme, which):
    page = visit(
        single if which == "one" else double[0],
        viewport={"width": 360, "height": 700},
        is_mobile=True,
        has_touch=True,
        color_scheme=scheme,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("#grid button >> nth=1")
    assert page.evaluate("document.getElementById('dialog').scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 200) == (scheme == "dark")


def test_a_comparison(visit, double):
    path, report = double
    page = visit(path)
    right, wrong = report.changed(1)
    assert shown(page) == len(report.items)
    first = page.inner_text("#grid button >> nth=0")
    assert "newly right" in first
    page.click("button[data-filter='change=lost&other=1']")
    assert shown(page) == len(wrong)
    page.check("input[name=change][value=gained]", force=True)
    assert shown(page) == len(right)
    page.click("#grid button >> nth=0")
    text = page.inner_text("#d-body")
    assert text.count("verdict") == 2
    assert "wrong" in text
    assert "correct" in text


def test_hostile_names_do_nothing(visit, write, rows, tmp_path):
    from dataclasses import replace

    from geneval_reward.prompts import PromptSpec

    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": evil})
    names = ["javascript:alert(3)//x.png", "a.png"]
    mine = [
        replace(rows[0][0], filename=name, prompt=evil, metadata=spec.to_json(), reason=evil, correct=False)
        for name in names
    ]
    page = visit(write_html(collect([write("a", mine)], draws=200), tmp_path / "evil.html"))
    assert shown(page) == 2
    page.click("#grid button >> nth=0")
    assert page.inner_text("#d-title") == evil
    link = page.get_attribute("#d-body a", "href")
    assert link.startswith("./")
    assert ":" not in link


def test_without_a_script(browser, single):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{single}")
    text = page.inner_text("body")
    for words in (
        "overall",
        "95 % interval",
        "PARTIAL",
        "Failures by reason",
        "object missing",
        "flip",
        "sha256",
        "which does not run here",
    ):
        assert words in text
    assert page.locator("#filters").is_hidden()
    assert page.locator(".examples img").count() > 0
    context.close()
