"""The documentation as a site: it builds from what is here, and shows nothing from elsewhere."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import BINARY, Browser

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; a link that leads nowhere, say, is an error."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", directory]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_nothing_of_a_page_comes_from_another_host(site):
    """Pages, and their style sheets; links, which a reader may follow, are no part of them."""
    loads = r"<(?:script|img|iframe|source|object|embed)\b[^>]*?\s(?:src|data)=\"?([^\">\s]+)"
    links = r"<link\b(?![^>]*rel=\"?(?:next|prev|canonical))[^>]*?\shref=\"?([^\">\s]+)"
    pages, sheets = [*site.rglob("*.html")], [*site.rglob("*.css")]
    assert len(pages) > 10 and sheets
    found = [(page.name, url) for page in pages for kind in (loads, links)
             for url in re.findall(kind, page.read_text())]  # fmt: skip
    styles = r"(?:url\(|@import\s)['\"]?([^'\")]+)"
    found += [(sheet.name, url) for sheet in sheets
              for url in re.findall(styles, sheet.read_text())]  # fmt: skip
    assert found and not [(name, url) for name, url in found if re.match(r"(https?:)?//", url)]


@pytest.mark.skipif(BINARY is None, reason="no Chromium")
def test_a_browser_asks_for_nothing_but_files(site):
    """At a laptop's width and at a telephone's; nothing is wider than the page."""
    with Browser() as browser:
        for page in (site / "index.html", site / "idea.html", site / "api" / "sbt.html"):
            for width in (1366, 400):
                browser.open(page, width=width)
                assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}
                assert not browser.errors
                assert browser.run("document.documentElement.scrollWidth") <= width


def test_formulas_are_drawn(site):
    text = (site / "api" / "optim.html").read_text()
    assert text.count('<svg class="formula"') > 300
    assert ":math:" not in text and 'class="arithmatex"' not in text


@pytest.mark.skipif(BINARY is None, reason="no Chromium")
def test_its_search_works_from_the_file_system(site):
    with Browser() as browser:
        browser.open(site / "index.html")
        browser.click("input.md-search__input")
        browser.type("batch norm")
        found = "document.querySelectorAll('.md-search-result__item').length"
        until = time.monotonic() + 20
        while not browser.run(found) and time.monotonic() < until:
            time.sleep(0.1)
        assert browser.run(found) and not browser.errors
