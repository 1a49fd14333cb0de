"""`make site`: README, notebooks and guides as a static site in outputs/site, and a check of all its links.

    python -m tools.site

mkdocs builds it from mkdocs.yml, which names this file as its hooks. They take the pages from where they lie, so that
nothing is kept twice, and see to what the plugins don't: no script from a CDN, links between notebooks, Chinese in the
search. The notebooks are shown with their committed outputs; none is executed. They hold no TeX, which would stay raw.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote, urlsplit

import nbformat
from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File

from tools.runner import NO_TEXT, described

ROOT = Path(__file__).resolve().parents[1]
HOME = ("README.md", "README.zh-CN.md")
GUIDES = (
    "docs/two_machines.md",
    "docs/run_mechanics.md",
    "docs/recent_behaviour.md",
    "data/README.md",
    "bench/README.md",
    "tests/README.md",
    "CONTRIBUTING.md",
)

# What nbconvert puts before a notebook to load MathJax and Mermaid from a CDN.
CDN = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mermaid configuration -->", re.DOTALL)
LINK = re.compile(r'<a\b[^>]*?\bhref="(?P<href>[^"]*)"[^>]*>(?P<text>.*?)</a>', re.DOTALL)
# The word "Copied!", the code once more for the copy button, the sign behind a heading.
UNSEARCHED = re.compile(
    r'<clipboard-copy.*?</clipboard-copy>|<div [^>]*class="clipboard-copy-txt".*?</div>|<a class="anchor-link".*?</a>',
    re.DOTALL,
)
TAG, DIV = re.compile(r"<[^>]*>"), re.compile(r"</?div\b[^>]*>")
HAN = re.compile("[\u3400-\u9fff]+")
GRAM = 8  # characters; a longer query is cut into pieces of this length
MARK = "\u2060"  # a word joiner, which is invisible


# --- hooks: mkdocs calls them by their names


def chapters() -> list[str]:
    """The notebooks in their order, relative to the repository."""
    return [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


def on_config(config):
    """Pages and their order. No 404.html: its links are absolute, and the site may lie anywhere."""
    home, guides = ([name for name in names if (ROOT / name).exists()] for names in (HOME, GUIDES))
    config.nav = [{"Home": HOME[0]}, *home[1:], {"Chapters": chapters()}, {"Guides": guides}]
    config.theme.static_templates.clear()
    return config


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files, config):
    """Pages under their paths in the repository, so that the links between them hold; their pictures too."""
    found = sorted((*ROOT.glob("docs/*.png"), *ROOT.glob("notebooks/figures/*.svg")))
    pictures = [path.relative_to(ROOT).as_posix() for path in found]
    for name in (*HOME, *chapters(), *GUIDES, *pictures):
        if (ROOT / name).exists():
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(content, page, config, files):
    """Without what comes from a CDN, with links that lead to pages and texts for the figures.

    A link to a file of the repository that is no page, such as a module, becomes plain text.
    Raises ValueError when nbconvert no longer marks what is to be cut out.
    """
    notebook = page.file.src_uri.endswith(".ipynb")
    if notebook:
        content, cut = CDN.subn("", content)
        if cut != 1:
            raise ValueError(f"{page.file.src_uri}: nbconvert's MathJax and Mermaid found {cut} times, not once")
        if NO_TEXT in content:
            content = described(content, nbformat.read(page.file.abs_src_path, as_version=4))

    def mended(match: re.Match) -> str:
        url = urlsplit(html.unescape(match["href"]))
        if url.scheme or url.netloc or not url.path:
            return match[0]
        source = normpath(PurePosixPath(page.file.src_uri).parent / unquote(url.path))
        target = files.get_file_from_path(source)
        if target is None:
            return match["text"] if (ROOT / source).exists() else match[0]
        fragment = f"#{url.fragment}" if url.fragment else ""
        new = target.url_relative_to(page.file) + fragment
        return match[0].replace(f'href="{match["href"]}"', f'href="{html.escape(new)}"')

    return LINK.sub(mended, content)


@event_priority(50)  # before the search plugin reads the page
def _flatten(context, page, config, nav):
    # It takes a section to end with the element that holds its heading: in a notebook, with the cell.
    page.shown, page.content = page.content, DIV.sub(" ", UNSEARCHED.sub("", page.content))


@event_priority(-50)
def _restore(context, page, config, nav):
    page.content = page.shown


on_page_context = CombinedEvent(_flatten, _restore)


@event_priority(-50)  # after the search plugin has written its index, before the offline plugin copies it
def on_post_build(config):
    """Add to the search index what Chinese text can be found by."""
    path = Path(config.site_dir, "search", "search_index.json")
    index = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(with_chinese(index), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def with_chinese(index: dict) -> dict:
    """The search index with a field that holds, for each Chinese character, itself and the seven that follow.

    The search finds words by their beginnings, and Chinese has no spaces: so each substring of up to GRAM characters
    is the beginning of something. The theme cuts a query at words that it finds in the index; MARK keeps it from
    finding shorter ones, which would make it look for less than was typed.
    """
    index["config"]["fields"]["chinese"] = {"boost": 1.0}
    for entry in index["docs"]:
        runs = HAN.findall(TAG.sub(" ", f"{entry['title']} {entry['text']}"))
        grams = {run[i : i + GRAM] for run in runs for i in range(len(run))}
        entry["chinese"] = " ".join(sorted(gram if len(gram) == GRAM else gram + MARK for gram in grams))
        for name in ("title", "text"):
            entry[name] = HAN.sub(rf"{MARK}\g<0>", entry[name])
    return index


# --- links


@dataclass
class Checked:
    """What `check` found in a built site."""

    pages: list[str] = field(default_factory=list)
    links: int = 0  # that stay inside the site
    external: set[str] = field(default_factory=set)  # where a reader may go, not fetched
    broken: list[tuple[str, str, str]] = field(default_factory=list)  # page, link, what is wrong


class _Page(HTMLParser):
    """The anchors of a page and all it refers to."""

    LOADING = ("src", "href", "poster", "data")

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []  # tag, address
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = {name: value for name, value in attrs if value is not None}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        self.links += [(tag, values[name]) for name in self.LOADING if name in values and tag != "base"]
        self.links += [(tag, part.split()[0]) for part in values.get("srcset", "").split(",") if part.strip()]

    def handle_data(self, data):
        if self.lasttag == "style":
            self.links += style_links(data)


def style_links(text: str) -> list[tuple[str, str]]:
    """What a style sheet loads."""
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [("style", a or b) for a, b in found]


def check(folder: Path) -> Checked:
    """Every link and resource of every page and style sheet in `folder`, without the network.

    A link inside the site must lead to a file, and to an element when it has a fragment. Only a reader's link may lead
    outside: a script, picture or style sheet from there is broken.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    found = Checked(pages=[path.relative_to(folder).as_posix() for path in pages])
    sources = {path: page.links for path, page in pages.items()}
    sources |= {path: style_links(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.css"))}
    for path, links in sources.items():
        for tag, address in links:
            url = urlsplit(address)
            if url.scheme in ("data", "mailto", "javascript"):
                continue
            if (url.scheme or url.netloc) and tag == "a":
                found.external.add(address)
                continue
            found.links += 1
            if wrong := _wrong(url, path, folder, pages):
                found.broken.append((path.relative_to(folder).as_posix(), address, wrong))
    return found


def _wrong(url, path: Path, folder: Path, pages: dict[Path, _Page]) -> str:
    if url.scheme or url.netloc:
        return "loads from outside the site"
    if url.path.startswith("/"):
        return "absolute, but the site may lie anywhere"
    target = Path(normpath(path.parent / unquote(url.path))) if url.path else path
    if not target.is_relative_to(folder) or not target.is_file():
        return "no such file in the site"
    fragment = unquote(url.fragment)
    if fragment and target in pages and fragment not in pages[target].ids:
        return "no such anchor on that page"
    return ""


# --- command


def build(site_dir: Path) -> None:
    """The whole site, in `site_dir`, whose contents are deleted first."""
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # the theme's advertisement
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(site_dir))
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs_build(config)
    config.plugins.on_shutdown()


def main(site_dir: Path = ROOT / "outputs" / "site") -> int:
    """Build and check; 0 when every link holds, else 1 after a list of those that don't."""
    start = time.perf_counter()
    build(site_dir)
    found = check(site_dir)
    print("\n".join(found.pages))
    print(f"{len(found.pages)} pages, {found.links} links checked, {time.perf_counter() - start:.0f} s")
    print("".join(f"not fetched: {address}\n" for address in sorted(found.external)), end="")
    for page, link, wrong in found.broken:
        print(f"{page}: {link}: {wrong}", file=sys.stderr)
    print(f"open {site_dir / 'index.html'}" if not found.broken else f"{len(found.broken)} broken links")
    return bool(found.broken)


if __name__ == "__main__":
    raise SystemExit(main())
