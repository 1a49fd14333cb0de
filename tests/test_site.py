"""The site holds every page, every link of it leads somewhere, and it works from a folder without the network."""

import contextlib
import json
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from mkdocs.structure.files import File, Files
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tools import site

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
NOTEBOOKS = sorted((site.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LOADERS = "<!-- Load mathjax --><script src=''></script><!-- End of mermaid configuration -->"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site.build(folder)
    return folder


@pytest.fixture(scope="module")
def index(built):
    return json.loads((built / "search" / "search_index.json").read_text(encoding="utf-8"))


def chinese_of(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    return {run for cell in cells if cell.cell_type == "markdown" for run in site.HAN.findall(cell.source)}


def test_a_notebooks_page_has_its_pictures_and_its_chinese(built):
    for notebook in NOTEBOOKS:
        cells = nbformat.read(notebook, as_version=4).cells
        pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
        page = (built / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert page.count('src="data:image/png;base64,') == pictures, notebook
        assert "No description" not in page, "nbconvert's, where a picture has no text"
        assert all(run in page for run in chinese_of(notebook)), notebook


def test_every_link_of_the_site_leads_somewhere_and_nothing_is_loaded_from_outside(built):
    found = site.check(built)
    assert found.broken == [] and found.links > 20 * len(NOTEBOOKS)  # each page links to each other one
    rooms = {f"{room}/index.html" for room in ("data", "bench", "tests")}
    assert {"index.html", "CONTRIBUTING.html", *rooms} < {*found.pages}, "links to what is no page become text"
    assert not [path for path in built.rglob("*.html") if "cdnjs" in path.read_text(encoding="utf-8")], "loaded later"


def test_the_chinese_of_a_notebook_is_in_both_search_indices_under_its_page(built, index):
    for notebook in NOTEBOOKS:
        entries = [entry for entry in index["docs"] if entry["location"].startswith(f"notebooks/{notebook.stem}.html")]
        starts = " ".join(["", *(entry["chinese"] for entry in entries)])
        assert len(entries) > 3 and all(f" {run[: site.GRAM]}" in starts for run in chinese_of(notebook))
    offline = (built / "search" / "search_index.js").read_text(encoding="utf-8").removeprefix("var __index = ")
    assert json.loads(offline) == index


def test_each_chinese_substring_begins_a_gram_and_tags_part_them():
    entry = {"location": "a.html", "title": "微调 x", "text": "<p>一二三四五六七八九</p><p>十</p>"}
    (made,) = site.with_chinese({"config": {"fields": {}}, "docs": [entry]})["docs"]
    mark = site.MARK
    short = [f"{'二三四五六七八九'[i:]}{mark}" for i in range(1, 8)]  # seven to one character
    grams = {"一二三四五六七八", "二三四五六七八九", *short, f"十{mark}", f"微调{mark}", f"调{mark}"}
    assert set(made["chinese"].split()) == grams
    assert (made["title"], made["text"]) == (f"{mark}微调 x", f"<p>{mark}一二三四五六七八九</p><p>{mark}十</p>")


def shown(content):
    names = ("notebooks/01_a.ipynb", "notebooks/02_b.ipynb", "README.md")
    files = Files([File(name, str(site.ROOT), "/site", use_directory_urls=False) for name in names])
    return site.on_page_content(content, SimpleNamespace(file=files.get_file_from_path(names[1])), None, files)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('<a href="01_a.ipynb">x</a>', None),  # copied as it is: not a page without the plugin
        ('<a class="y" href="../README.md#tree">x</a>', '<a class="y" href="../index.html#tree">x</a>'),
        ('<a href="../scripts/reading/qa.py"><code>qa</code></a>', "<code>qa</code>"),
        ('<a href="../scripts/absent.py">x</a>', None),
        ('<a href="https://example.org/README.md">x</a>', None),
    ],
)
def test_a_link_leads_to_the_page_or_becomes_text_where_the_file_is_no_page(link, expected):
    assert shown(LOADERS + link) == (expected or link)


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.html").write_text(
        '<h1 id="top">A</h1><a href="sub/c.html#here">ok</a><a href="#top">ok</a><a href="https://example.org">out</a>'
        '<a href="mailto:a@example.org">ok</a><img src="data:image/png;base64,AA">'
    )
    (tmp_path / "sub" / "c.html").write_text('<p id="here">C</p><a href="../a%20b.html?h=x#top">ok</a>')
    return tmp_path


def test_a_whole_site_is_counted_and_its_external_links_and_what_a_style_sheet_takes_from_outside_are_listed(toy):
    assert site.check(toy) == site.Checked(["a b.html", "sub/c.html"], 3, {"https://example.org"}, [])
    (toy / "a.css").write_text('@import "https://example.org/font.css"; p { color: red }')
    assert site.check(toy).broken == [("a.css", "https://example.org/font.css", "loads from outside the site")]


@pytest.mark.parametrize(
    ("planted", "link", "why"),
    [
        ('<a href="gone.html">x</a>', "gone.html", "no such file in the site"),
        ('<a href="c.html#gone">x</a>', "c.html#gone", "no such anchor on that page"),
        ('<img srcset="gone.png 2x">', "gone.png", "no such file in the site"),
        ('<a href="/sub/c.html">x</a>', "/sub/c.html", "absolute, but the site may lie anywhere"),
        ("<style>p { background: url('//x.org/a.png') }</style>", "//x.org/a.png", "loads from outside the site"),
    ],
)
def test_a_planted_fault_is_found_and_ends_the_command_with_its_line(toy, monkeypatch, capsys, planted, link, why):
    monkeypatch.setattr(site, "build", lambda folder: (folder / "d.html").write_text(planted))
    (toy / "c.html").touch()
    assert site.main(toy) == 1
    out, err = capsys.readouterr()
    assert err == f"d.html: {link}: {why}\n"
    assert "4 pages, 4 links checked" in out and out.endswith("1 broken links\n")


@contextlib.contextmanager
def chromium(folder, *flags):
    """A headless Chromium that records its requests; `folder` keeps what it remembers."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={folder}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def requested(browser):
    """Addresses asked for since the last call, those of WebSockets too."""
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]
    return urls + [one["params"]["url"] for one in told if one["method"] == "Network.webSocketCreated"]


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways_or_asks_the_network(built, browser, width):
    device = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    browser.get("about:blank")
    requested(browser)
    widths = {}
    for path in sorted(built.rglob("*.html")):
        browser.get(path.as_uri())
        widths[path.name] = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert {name: pair for name, pair in widths.items() if pair[0] > pair[1]} == {}
    assert {pair[1] for pair in widths.values()} == {width}
    addresses = requested(browser)
    assert len(addresses) > len(widths) and all(address.startswith(("file:", "data:")) for address in addresses)


def test_the_search_finds_the_middle_of_a_chinese_word_and_only_its_pages(built, index, browser):
    having = [e for e in index["docs"] if "德" in site.TAG.sub(" ", e["title"] + " " + e["text"])]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((built / "index.html").as_uri())
    requested(browser)
    browser.execute_script("document.querySelector('#__search').click()")
    browser.find_element(By.CSS_SELECTOR, "input.md-search__input").send_keys("德")

    def hits(driver):
        links = driver.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
        addresses = [link.get_attribute("href") for link in links]
        return {address.split("?")[0].removeprefix(built.as_uri() + "/") for address in addresses}

    assert WebDriverWait(browser, 60).until(hits) == {entry["location"].split("#")[0] for entry in having}
    assert not [address for address in requested(browser) if address.startswith(("http", "ws"))]
