"""The built book in headless Chromium: pages work offline, formulas are drawn, and nothing is wider than a phone.

The tests need Chromium and the built book in `_build/html`, or in the folder that GDINO_BOOK_HTML names. If one of them is
missing, the tests are skipped with the reason, or fail if GDINO_REQUIRE_BROWSER is set.
"""

import functools
import http.server
import os
import re
import threading
from pathlib import Path

import pytest
from chromium import lacking

ROOT = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("GDINO_BOOK_HTML") or ROOT / "_build" / "html").resolve()
# messages of the theme on every page of any book; add no messages of ours
THEME_NOISE = re.compile(r"THEBE_JS_URL.* has already been declared|Got invalid theme mode")

SCREEN = 900  # pixels, height of the window
LONGEST_OUTPUT = 84  # characters of a printed line

pytestmark = pytest.mark.browser


def built_pages() -> list[str]:
    """Pages of the book, relative to its folder, without the pages that Sphinx adds."""
    made = {"genindex.html", "py-modindex.html", "search.html", "index.html"}
    pages = (path.relative_to(HTML).as_posix() for path in sorted(HTML.rglob("*.html")))
    return [page for page in pages if page not in made and not page.startswith(("_static/", "_modules/"))]


def chapters() -> list[str]:
    """The pages of the numbered chapters."""
    return [page for page in built_pages() if re.search(r"/\d\d[a-z]?_", page)]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    if not (HTML / "index.html").is_file():
        lacking(f"no built book at {HTML}: run `make book` first")
    handler = functools.partial(QuietHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Visit:
    """A page opened in the browser, with its requests, missing files and errors."""

    def __init__(self, browser, address: str, page: str, width: int = 1280):
        self.requests, self.missing, self.errors = [], [], []
        self.tab = browser.new_page(viewport={"width": width, "height": SCREEN})
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("response", lambda answer: self.missing.append(answer.url) if answer.status >= 400 else None)
        self.tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(f"{address}/{page}", wait_until="load")
        self.tab.evaluate("() => window.MathJax?.startup?.promise")
        self.tab.wait_for_timeout(150)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tab.close()


@pytest.mark.parametrize("page", built_pages() or ["index.html"])
def test_page(page, address, browser):
    with Visit(browser, address, page) as visit:
        outside = [url for url in visit.requests if not url.startswith((f"{address}/", "data:", "blob:"))]
        assert not outside, "requests beyond the folder"
        assert not visit.missing, "files that are not there"
        assert not [error for error in visit.errors if not THEME_NOISE.search(error)]

        math = visit.tab.locator(".math").count()
        drawn = visit.tab.locator("mjx-container").count()
        failed = visit.tab.locator("mjx-merror, [data-mjx-error]").count()
        assert drawn >= math, f"{drawn} of {math} formulas drawn"
        assert not failed, "formulas with an error"
        # no formula shows as source text outside of code
        text = visit.tab.evaluate(
            "() => { const copy = document.querySelector('article').cloneNode(true);"
            " copy.querySelectorAll('pre, code, mjx-container, script').forEach(node => node.remove());"
            " return copy.textContent; }"
        )
        assert not re.search(r"\$\$|\\\(|\\\[|\\frac|\{cite|\{doc\}", text)

        silent = visit.tab.evaluate(  # without a text, Sphinx uses the file's name
            "() => [...document.querySelectorAll('img')].filter(i => !i.alt.trim() || /\\.(png|svg)$/.test(i.alt))"
            ".map(i => i.outerHTML.slice(0, 120))"
        )
        assert not silent, "pictures without a text alternative"
        broken = visit.tab.evaluate(
            "() => Promise.all([...document.querySelectorAll('article img')].map(i => { i.loading = 'eager';"
            " return i.decode().then(() => null, () => i.src); })).then(all => all.filter(Boolean))"
        )
        assert not broken, "pictures that do not show"


@pytest.mark.parametrize("page", built_pages() or ["index.html"])
def test_fits_a_phone(page, address, browser):
    with Visit(browser, address, page, width=390) as visit:
        width = visit.tab.evaluate("() => document.scrollingElement.scrollWidth")
        wide = visit.tab.evaluate(
            "() => [...document.querySelectorAll('article *')].filter(e => { const b = e.getBoundingClientRect();"
            " if (b.right <= window.innerWidth + 1) return false;"
            " for (let p = e.parentElement; p; p = p.parentElement) {"
            "   const o = getComputedStyle(p).overflowX; if (p.tagName != 'BODY' && p.tagName != 'HTML' &&"
            "   (o == 'auto' || o == 'scroll' || o == 'hidden')) return false; }"
            " return true; }).map(e => e.tagName + '.' + e.className).slice(0, 5)"
        )
        assert width <= 390, f"the page is {width} pixels wide; {wide} stick out"
        assert not wide, "elements beyond the right edge"


@pytest.mark.parametrize("page", chapters() or ["index.html"])
class TestChapter:
    def test_printed_lines_fit_the_page(self, page, address, browser):
        with Visit(browser, address, page) as visit:
            wide = visit.tab.evaluate(  # listings of library code keep the library's width, and wrap on a phone
                f"() => [...document.querySelectorAll('.cell:not(.tag_hide-output) .cell_output pre')]"
                ".filter(e => !e.closest('.highlight-cpp, .highlight-python'))"
                f".flatMap(e => e.textContent.split('\\n')).filter(line => line.length > {LONGEST_OUTPUT})"
            )
            assert not wide

    def test_the_first_screen_shows_a_picture(self, page, address, browser):
        with Visit(browser, address, page) as visit:
            tops = visit.tab.evaluate(
                "() => [...document.querySelectorAll('article img, article figure svg, article .cell_output svg')]"
                ".map(i => i.getBoundingClientRect().top)"
            )
            assert tops
            assert min(tops) < SCREEN - 100

    def test_title_sidebar_and_exercises_carry_the_chapters_number(self, page, address, browser):
        number = re.sub("^0", "", page.rpartition("/")[2].partition("_")[0])
        with Visit(browser, address, page) as visit:
            assert re.match(rf"{number}\. \D", visit.tab.locator("article h1").inner_text())
            here = visit.tab.locator(".bd-sidebar-primary a.current.internal").inner_text()
            assert re.match(rf"{number}\. \D", here.strip())
            titles = visit.tab.locator("article .exercise > .admonition-title").all_inner_texts()
            expected = [f"Exercise {number}.{place} (" for place in range(1, len(titles) + 1)]
            assert titles
            assert [title[: len(start)] for title, start in zip(titles, expected, strict=True)] == expected

    def test_panels_stack_on_a_phone(self, page, address, browser):
        with Visit(browser, address, page, width=390) as visit:
            beside = visit.tab.evaluate(
                "() => [...document.querySelectorAll('.tag_panels .cell_output')].filter(cell => {"
                " const tops = [...cell.querySelectorAll(':scope > img')].map(i => i.offsetTop);"
                " return new Set(tops).size < tops.length; }).length"
            )
            assert beside == 0


def test_search_excerpts_come_from_the_article(address, browser):
    page = (chapters() or ["index.html"])[0]
    with Visit(browser, address, "search.html?q=detection") as visit:
        text = visit.tab.evaluate(f"() => fetch('{page}').then(answer => answer.text()).then(Search.htmlToText)")
    heading = re.search(r"<h1>(.*?)<", (HTML / page).read_text("utf-8"))
    assert text.lstrip().startswith(heading[1]), (
        "the text begins with the article, not with the labels of the theme's buttons"
    )


def test_solutions_unfold(address, browser):
    assert chapters(), "no chapter among the pages"
    with Visit(browser, address, chapters()[0]) as visit:
        solution = visit.tab.locator(".solution.dropdown").first
        assert solution.evaluate("e => e.className").find("toggle-hidden") >= 0, "solutions are folded at first"
        solution.locator("button.toggle-button").click()
        assert "toggle-hidden" not in solution.evaluate("e => e.className")
