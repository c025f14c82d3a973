"""The page in headless Chromium: it loads alone, and its layout holds on a phone and on a wide screen.

The page is framed by another at each width, which measures it and writes what it finds into itself.
"""

import base64
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cgt.cli import main
from cgt.report.assemble import SECTIONS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1440)
HARNESS = """<!DOCTYPE html><title>harness</title><pre id="result"></pre>
<iframe id="page" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>
const bytes = Uint8Array.from(atob("{page}"), letter => letter.charCodeAt(0));
const frame = document.getElementById("page");
frame.onload = async () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const images = [...page.images];
  for (const folded of page.querySelectorAll("details")) folded.open = true;
  {extra}
  document.getElementById("result").textContent = JSON.stringify({{
    sections: page.querySelectorAll("main > section").length,
    images: images.length,
    undecoded: images.filter(image => !image.complete || !image.naturalWidth).length,
    drawings: page.querySelectorAll("svg[role=img]").length,
    flat: [...page.querySelectorAll("svg[role=img]")].filter(svg => svg.getBoundingClientRect().height < 40)
      .length,
    width: root.clientWidth,
    content: root.scrollWidth,
    // In the frame, resources are what the page fetched beside itself.
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
    violations: window.violations || [],
  }});
}};
frame.srcdoc = new TextDecoder().decode(bytes);
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("browser") / "report.html"
    words = [str(runs / name) for name in ("source", "ours/0", "ours/1", "bsa")]
    assert main(["report", *words, "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def measured(page: str, width: int, folder: Path, extra: str = "") -> tuple[dict[str, Any], str]:
    """What the harness finds of the page at a width, and what Chromium said of it on its console."""
    assert CHROMIUM is not None
    harness = folder / "harness.html"
    encoded = base64.b64encode(page.encode()).decode()
    harness.write_text(HARNESS.format(width=width, page=encoded, extra=extra), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width + 40},1000",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    for _ in range(3):  # on a busy machine Chromium may end before the page has loaded
        browser = subprocess.run(
            [CHROMIUM, *options, harness.as_uri()], capture_output=True, text=True, check=True, timeout=120
        )
        found = re.search(r'<pre id="result">(.+?)</pre>', browser.stdout, re.DOTALL)
        if found:
            break
    assert found, browser.stderr
    console = "\n".join(line for line in browser.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(found[1])), console


@pytest.mark.parametrize("width", WIDTHS)
def test_it_loads_alone_and_its_layout_holds(page: str, width: int, tmp_path: Path) -> None:
    found, console = measured(page, width, tmp_path)
    assert console == ""
    assert found["fetched"] == []
    assert found["sections"] == SECTIONS
    assert found["images"] > 20
    assert found["undecoded"] == 0
    assert found["drawings"] > 5
    assert found["flat"] == 0
    assert found["content"] <= found["width"]


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        ('<img src="data:image/png;base64,AAAA" alt="x">', "undecoded"),
        ('<img src="https://example.org/x.png" alt="x">', "fetched"),
        ("<script>console.error('wrong')</script>", "console"),
        ('<p style="width: 3000px">x</p>', "content"),
    ],
)
def test_what_would_be_wrong_is_noticed(page: str, fault: str, key: str, tmp_path: Path) -> None:
    found, console = measured(page.replace("<footer>", f"{fault}<footer>"), WIDTHS[0], tmp_path)
    noticed = {
        "undecoded": found["undecoded"] > 0,
        "fetched": found["fetched"] != [],
        "console": "wrong" in console,
        "content": found["content"] > found["width"],
    }
    assert noticed[key]


@pytest.mark.slow
def test_axe_finds_nothing_serious(page: str, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm here")
    words = [npm, "install", "--prefix", str(tmp_path), "--no-audit", "--no-fund", "axe-core@4"]
    quiet = os.environ | {"npm_config_fetch_retries": "0"}
    installed = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=quiet)
    if installed.returncode:
        pytest.skip("npm can't install axe-core here")
    axe = (tmp_path / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    encoded = base64.b64encode(axe.encode()).decode()
    extra = f"""
  const script = page.createElement("script");
  script.textContent = new TextDecoder().decode(Uint8Array.from(atob("{encoded}"), c => c.charCodeAt(0)));
  page.head.append(script);
  const result = await frame.contentWindow.axe.run(page, {{resultTypes: ["violations"]}});
  window.violations = result.violations.map(v => [v.id, v.impact, v.nodes.slice(0, 3).map(n => n.html)]);
"""
    for width in WIDTHS:
        found, _ = measured(page, width, tmp_path, extra)
        assert [v for v in found["violations"] if v[1] in ("serious", "critical")] == []
