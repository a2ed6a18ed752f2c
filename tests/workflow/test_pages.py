"""The pages of runs: what they say, what they escape, and how they behave in a browser."""

from __future__ import annotations

import html
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import screenshots
import yaml
from finished_run import STEPS, write_project, write_run

from glacier_utils.workflow import pages, runs
from glacier_utils.workflow.comparison import compare_runs

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>window.hit=1</script>"
IMAGE = "<img src=x onerror=window.hit=1>"
DEFAULTS = {"run": "default", "dataset": "sample", "steps": 600, "train_dates": ["2023-08"]}


class Page(HTMLParser):
    """Links, pictures and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures: list[dict] = []
        self.scripts = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        self.links += [about[name] for name in ("href", "src") if about.get(name)]
        self.ids |= {about["id"]} if about.get("id") else set()
        self.pictures += [about] if tag == "img" else []
        self.scripts += tag == "script"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path) -> Path:
    return write_project(tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A project with a finished run and all its pages."""
    root = write_project(tmp_path_factory.mktemp("exported"))
    pages.write_index(write_run(root, exported=True), DEFAULTS)
    return root


@pytest.fixture
def run(exported, project) -> runs.Run:
    """An own copy of that run."""
    shutil.copytree(exported / "reports", project / "reports")
    return runs.Run(project / "reports" / "default")


@pytest.fixture
def hostile(project) -> runs.Run:
    """A run in which whatever users name is a script or a picture that runs one."""
    made = write_run(project, area=f"north{SCRIPT}", word=SCRIPT, exported=True)
    made.record(dataset=IMAGE, provenance={"commit": SCRIPT, "started": IMAGE})
    for folder, name in ((made.metrics, "a<b>#1.csv"), (made.maps, "a&b.tif"),
                         (made.figures, "x<i>.png")):  # fmt: skip
        (folder / name).touch()
    pages.write_index(made, DEFAULTS)
    return made


# What they say


def test_the_page_of_a_run_opens_with_its_headline(run):
    text = text_of(run.folder / "index.html")
    head = re.sub(r"<[^>]*>", "", text.partition("<h2>Notebooks")[0].partition("<h1>")[2])
    head = " ".join(head.split())
    for said in (
        "Run default finished",
        "Data set sample (synthetic: made, not observed). Trained on train, 2023-08; tested on "
        "test, 2023-08.",
        "Best model, chosen on validation unet".replace("validation ", "validation"),
        "IoU against the labels, test, 2023-080.80 (0.76 to 0.85)",
        "IoU against the truth, test, 2023-080.78 (0.74 to 0.83)",
        "Mapped area, test, 2023-08252 km² (237 to 268)",
        "(237 to 268)+20&nbsp;% against the labels+20&nbsp;% against the truth",
        "Lead over threshold, the best baseline, in IoU against the truth: +0.060 (−0.010 to "
        "+0.130): not distinguishable.",
        "test_2023-08: unlike the training",
        "What may not be concluded",
    ):
        assert said in head, head
    assert 'src="figures/map_test.png"' in text.partition("<h2>Notebooks")[0]


def test_each_notebook_has_its_picture_and_a_sentence(run):
    text = text_of(run.folder / "index.html")
    cards = text.partition("<h2>Notebooks")[2].partition("<h2>")[0].split("<article>")[1:]
    assert len(cards) == 3
    training, spatial, mosaics = cards
    assert "figures/learning_curves.png" in training
    assert "Best network: unet." in training
    assert "figures/test_picture.png" in spatial
    assert "unet maps test." in spatial
    assert "figures/map_test.png" in mosaics


def test_tables_stand_by_their_notebook_with_what_they_show(run):
    text = text_of(run.folder / "index.html")
    groups = text.partition("<h2>Figures and tables")[2].split("<h3>")
    spatial = next(group for group in groups if group.startswith("04"))
    assert re.search(r"spatial\.csv</a></dt><dd>Scores with 95 % intervals", spatial)
    # Nothing knows of notebook 05 here: its tables are told all the same.
    assert "temporal.csv" in next(group for group in groups if group.startswith("Other"))


def test_parameters_that_differ_are_shown(project):
    run = write_run(project, steps=1500)
    text = text_of(pages.write_index(run, DEFAULTS))
    assert "<pre>steps: 1500\n</pre>" in text


def test_each_figure_and_table_of_the_notebooks_is_described():
    about = yaml.safe_load(text_of(ROOT / "glacier_utils" / "assets" / "contents.yaml"))
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        for kind, call in (("figures", "save_figure"), ("metrics", "save_(?:table|text)")):
            found = re.findall(rf'{call}\(.*?,\s+f?"([^"]+)"\s*[,)]', "\n".join(code), re.DOTALL)
            names = {Path(re.sub(r"{.*?}", "*", name)).stem for name in found}
            assert names == set(about[path.name[:2]][kind]), path.name
        thumbnail = about[path.name[:2]]["thumbnail"]
        assert thumbnail in about[path.name[:2]]["figures"]


@pytest.mark.parametrize("status", ["failed", "running"])
def test_a_run_that_is_not_finished_never_passes_for_one(run, status):
    run.record(status=status, failure="cell [4] failed")
    pages.write_index(run, DEFAULTS)
    state = "failed" if status == "failed" else "unfinished"
    assert f"<title>Run default: {state}</title>" in text_of(run.folder / "index.html")
    for path in (run.folder / "index.html", run.folder.parent / "index.html"):
        text = text_of(path).partition("<h2>")[0]
        assert f">{state}<" in text
        assert ">finished<" not in text
        assert "0.80" not in text
        assert "252" not in text
    assert ("cell [4] failed" in text) == (status == "failed")


def test_findings_of_a_notebook_that_is_not_done_any_more_are_not_told(run):
    steps = run.read_record()["steps"]
    run.record(status="failed", failure="cell [4] failed", steps={STEPS[0]: steps[STEPS[0]]})
    text = text_of(pages.write_index(run, DEFAULTS))
    cards = text.partition("<h2>Notebooks")[2].partition("<h2>")[0]
    assert "Best network: unet." in cards
    assert "unet maps test." not in cards
    assert cards.count("Not done.") == 2
    assert text.count("Not done: these are of an earlier state") == 2


def test_notebooks_that_are_to_come_are_named(project):
    run = runs.open_run("new", project)
    cards = text_of(pages.write_index(run, DEFAULTS)).partition("<h2>Notebooks")[2]
    assert cards.count("Not done.") == 3


def test_the_page_of_all_runs_has_a_row_for_each_whatever_its_state(run, project):
    write_run(project, "second")
    (write_run(project, "broken").folder / "run.json").write_text("{")
    text = text_of(pages.write_overview(project / "reports"))
    rows = text.partition("<tbody>")[2].split("<tr>")[1:]
    states = {re.search(r'href="(\w+)/', row)[1]: row for row in rows}
    assert set(states) == {"default", "second", "broken"}
    assert "not valid JSON" in states["broken"]
    assert ">failed<" in states["broken"]
    assert ">finished<" in states["second"]


def test_the_page_of_all_runs_has_no_column_for_a_truth_that_none_knows(run, project):
    assert "IoU, truth" in text_of(pages.write_overview(project / "reports"))
    scores = run.read_table("spatial")
    run.save_table(scores[scores["reference"] == "labels"], "spatial")
    text = text_of(pages.write_overview(project / "reports"))
    assert "IoU, labels" in text
    assert "truth" not in text.partition("<table")[2]
    head, body = text.partition("<thead>")[2].split("<tbody>")
    assert head.count("<th") == body.count("<td")


# What they escape


def test_what_users_name_is_text(hostile):
    for path in (hostile.folder / "index.html", hostile.folder.parent / "index.html"):
        page = Page(path)
        assert page.scripts == 1, "ours"
        assert "<img src=x" not in text_of(path)
        assert "<i>" not in text_of(path)
    text = text_of(hostile.folder / "index.html")
    assert "&lt;script&gt;" in text
    assert 'href="metrics/a%3Cb%3E%231.csv">a&lt;b&gt;#1.csv<' in text
    assert 'src="figures/x%3Ci%3E.png"' in text


def test_a_comparison_escapes_too(hostile, project, tmp_path):
    page = tmp_path / "a.html"
    pages.write_comparison(page, compare_runs([hostile, write_run(project, "second")]))
    assert Page(page).scripts == 1
    assert "&lt;script&gt;" in text_of(page)


# Notebooks


@pytest.fixture(scope="module")
def notebook_page(tmp_path_factory) -> Path:
    """A notebook with every kind of output as HTML."""
    path = tmp_path_factory.mktemp("page") / "01_look.ipynb"
    new = nbformat.v4
    outputs = [
        new.new_output("stream", text=f"{SCRIPT}\n"),
        new.new_output("stream", name="stderr", text="\r 10% of it\r100% of it\n"),
        new.new_output("execute_result", {"text/plain": f"'{SCRIPT}'"}),
        new.new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}),
        new.new_output("display_data", {"text/markdown": f"area {SCRIPT} {IMAGE}"}),
    ]
    source = f'word = {SCRIPT!r}\nreport.save_figure(plot(a, b), "scenes")'
    cells = [
        new.new_markdown_cell("# Look & <i>see</i>"),
        new.new_markdown_cell("## One & two\n\n[docs](../docs/x.md), [map](maps/a.html)"),
        new.new_code_cell(source, outputs=outputs),
        new.new_markdown_cell("## Three"),
        new.new_markdown_cell("## Appendix\n\n### More\n\nOf little weight."),
        new.new_code_cell("1", outputs=[new.new_output("stream", text="one more figure\n")]),
        new.new_markdown_cell("## Four\n\nBehind the appendix."),
    ]
    notebook = new.new_notebook(cells=cells)
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nbformat.write(notebook, path)
    return pages.export_html(path)


def test_a_notebook_escapes_outputs_and_its_title(notebook_page):
    text = text_of(notebook_page)
    assert "<title>Look &amp; &lt;i&gt;see&lt;/i&gt;</title>" in text
    assert "&lt;script&gt;window.hit=1" in text
    # Markdown may hold any HTML: the browser is told to run nothing but the page's own script.
    policy = re.search(r'http-equiv="Content-Security-Policy"', text)
    assert policy.start() < text.index("<script")


def test_a_notebook_loads_nothing(notebook_page):
    page = Page(notebook_page)
    assert "data:image/png;base64,iVBORw0KGgo=" in page.links
    assert not [link for link in page.links if re.match("(https?:)?//", link)]
    assert not re.findall(
        r"""(?:src\s*=|import|url\()\s*["'(]*(?:https?:)?//""", text_of(notebook_page)
    )


def test_a_notebook_has_contents_and_says_what_its_figures_show(notebook_page):
    page = Page(notebook_page)
    contents = text_of(notebook_page).partition('id="contents"')[2].partition("</ol>")[0]
    assert re.findall(r">([^<]+)</a>", contents) == ["One &amp; two", "Three", "Appendix", "Four"]
    for link in re.findall(r'href="#([^"]+)"', contents):
        assert html.unescape(link) in page.ids
    figure = next(one for one in page.pictures if one["src"].startswith("data:"))
    assert figure["alt"].startswith("The areas with two stretches")
    assert "../../docs/x.md" in page.links
    assert "maps/a.html" in page.links


def test_a_notebook_shows_the_end_of_a_progress_bar(notebook_page):
    text = text_of(notebook_page)
    assert "100% of it" in text
    assert " 10% of it" not in text


# In the browser


@pytest.fixture
def chromium():
    """Skip where there is no browser."""
    found, reason = screenshots.find_browser()
    if found is None:
        pytest.skip(reason)


def all_pages(run: runs.Run) -> list[Path]:
    return [run.folder.parent / "index.html", *sorted(run.folder.glob("*.html"))]


CONTRAST = """() => {
    const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = (c) => {
        const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (!/rgba\\(.*, 0\\)/.test(c)) return c;
        }
        return "rgb(255, 255, 255)";
    };
    const low = [];
    for (const e of document.querySelectorAll("main *")) {
        if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
        if (!e.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push(`${e.tagName} ${ratio.toFixed(1)} ${e.textContent}`);
    }
    return low;
}"""


@contextmanager
def one_after_the_other(paths: list[Path], width: int = 1200) -> Iterator:
    """Open pages in one browser: yields pairs of name and page."""
    with screenshots.open_page(paths[0], width=width, touch=width < 500) as page:

        def visits():
            for path in paths:
                page.goto(path.as_uri())
                page.evaluate(screenshots.DRAWN)
                yield path.name, page

        yield visits()


def overflow(page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.mark.parametrize("width", [1280, 360])
def test_pages_fit_desktop_and_phone_and_their_words_stand_out(chromium, run, project, width):
    write_run(project, "bad").record(status="failed")
    write_run(project, "half").record(status="running")
    pages.write_index(run, DEFAULTS)
    with one_after_the_other(all_pages(run), width) as visits:
        for name, page in visits:
            assert page.problems == [], name
            assert overflow(page) <= 0, name
            assert page.evaluate(CONTRAST) == [], name


def test_all_links_lead_somewhere_and_pictures_have_words(run, project):
    (project / "docs").mkdir()
    (project / "docs" / "read_a_report.md").touch()
    for path in all_pages(run):
        page = Page(path)
        for link in page.links:
            if link.startswith("data:"):
                continue
            place, _, part = link.partition("#")
            target = path.parent / urllib.parse.unquote(place) if place else path
            assert target.exists(), f"{path.name}: {link}"
            if part:
                assert urllib.parse.unquote(part) in {*map(urllib.parse.unquote, page.ids)}
        for picture in page.pictures:
            # A thumbnail beside the link that says the same needs none.
            assert picture["alt"] or "index" in path.name, f"{path.name}: {picture['src'][:40]}"


def test_scripts_of_the_data_are_inert(chromium, hostile, project, tmp_path):
    comparison = tmp_path / "a.html"
    pages.write_comparison(comparison, compare_runs([hostile, write_run(project, "second")]))
    with one_after_the_other([*all_pages(hostile), comparison]) as visits:
        for name, page in visits:
            page.wait_for_timeout(100)
            assert page.evaluate("window.hit") is None, name


def test_the_notebooks_own_scripts_are_inert(chromium, notebook_page):
    with screenshots.open_page(notebook_page) as page:
        page.wait_for_timeout(100)
        assert page.evaluate("window.hit") is None
        # And ours runs.
        page.get_by_role("button", name="Show all code").click()
        assert page.get_by_role("button", name="Hide all code").count() == 1


def test_code_is_folded_behind_a_switch_and_outputs_are_not(chromium, run):
    with screenshots.open_page(run.folder / "04_spatial_evaluation.html") as page:
        code, figure = page.get_by_text("save_figure"), page.get_by_role("img").first
        assert not code.is_visible()
        assert figure.is_visible()
        page.get_by_role("button", name="Show all code").click()
        assert code.is_visible()
        page.get_by_role("button", name="Hide all code").click()
        assert not code.is_visible()
        page.locator("details.code > summary").nth(1).click()
        assert code.is_visible()
        page.get_by_role("button", name="Show all code").click()
        page.get_by_role("button", name="Hide all code").click()
        # On paper there is no switch and no folded code.
        page.emulate_media(media="print")
        assert not page.get_by_role("button", name="Show all code").is_visible()
        assert page.locator("details.code > summary:visible").count() == 0
        assert page.get_by_role("img").first.is_visible()
        assert page.get_by_role("link", name="The scores").is_visible()


def test_the_appendix_is_folded_until_somebody_goes_there_or_prints(chromium, notebook_page):
    with screenshots.open_page(notebook_page) as page:
        more = page.get_by_text(re.compile("Of little weight|one more figure"))
        assert [one.is_visible() for one in more.all()] == [False, False]
        assert page.get_by_text("Behind the appendix").is_visible()
        assert page.get_by_role("heading", name="Appendix").is_visible()
        for link in ("Four", "Appendix", "Appendix"):
            page.get_by_role("link", name=link, exact=True).click()
            page.wait_for_timeout(50)
            assert [one.is_visible() for one in more.all()] == 2 * [link == "Appendix"]
            page.evaluate("document.querySelector('.appendix').open = false")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert [one.is_visible() for one in more.all()] == [True, True]
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert [one.is_visible() for one in more.all()] == [False, False]
        assert page.problems == []


def test_all_runs_sort_by_each_column_with_what_is_not_known_last(chromium, run, project):
    second = write_run(project, "second")
    spatial = second.read_table("spatial")
    second.save_table(spatial.assign(iou=0.1 * spatial["iou"]), "spatial")
    write_run(project, "a failed one").record(status="failed", failure="cell [1] failed")
    with screenshots.open_page(pages.write_overview(project / "reports")) as page:

        def order() -> list[str]:
            return page.locator("tbody tr td:first-child").all_inner_texts()

        head = page.get_by_role("columnheader", name="IoU, labels")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert order() == ["second", "default", "a failed one"]
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert order() == ["default", "second", "a failed one"]
        page.get_by_role("columnheader", name="Run", exact=True).get_by_role("button").click()
        assert head.get_attribute("aria-sort") is None
        assert order() == ["a failed one", "default", "second"]
        assert page.problems == []
