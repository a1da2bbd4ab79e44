"""What README, CONTRIBUTING and docs name exists: files, folders, modules, classes and links."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("elbo_bench", "conf", "docs", "sweeps", "tests")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*)`", prose(page)):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`([\w.-]+\.(?:py|toml|txt|md))`", prose(page)):
        assert (ROOT / path).exists() or (ROOT / "elbo_bench" / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        slugs = {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}
        assert not heading or heading in slugs, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_and_class_exists(page: Path) -> None:
    names = re.findall(r"`(elbo_bench(?:\.\w+)+(?::\w+)?)`", prose(page))
    for name in names:
        module, _, attribute = name.replace(":", ".").rpartition(".")
        try:
            assert hasattr(importlib.import_module(module), attribute), name
        except AssertionError:
            importlib.import_module(f"{module}.{attribute}")


def test_the_map_names_every_folder_and_module_at_the_top_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "elbo_bench").iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`elbo_bench/{path.name}/`" in text, path.name
