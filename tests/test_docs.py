"""What the pages in docs say of the methods and the data sets is true of the code."""

import re

import pytest

from reid import methods
from reid.config import TrialConfig
from reid.data.readers import readers
from reid.rehearsal import rehearse
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "methods.md").read_text()
DATA_SETS = (ROOT / "docs" / "data-sets.md").read_text()


def section(title: str) -> str:
    """The part of the page under a heading."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("method", methods.names())
def test_every_method_and_every_variant_is_on_the_page(method: str) -> None:
    (listed,) = re.findall(rf"^\| `{method}` \| ((?:`\w+`(?:, )?)+) \|$", section("Variants"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed) == list(methods.variants(method))


@pytest.mark.parametrize("method", methods.names())
def test_every_embedding_is_on_the_page(method: str) -> None:
    config = TrialConfig(method=method, model=methods.config(method), recipe=methods.recipe(method))
    found = [name for name in rehearse(config) if name]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section("One training, several scores"), re.MULTILINE))
    listed = re.findall(r"`(\w+)`", rows.get(method, ""))
    assert listed == ([found[0], found[-1]] if method == "han" else found)


def test_settings_that_the_page_says_can_be_tuned_exist() -> None:
    named = re.findall(r"`model\.(\w+)`", section("What is tuned"))
    fields = {field for method in methods.names() for field in methods.config(method).__dataclass_fields__}
    assert len(named) >= 10
    assert set(named) <= fields


def test_every_data_set_is_on_the_page() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", DATA_SETS, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(readers())


@pytest.mark.parametrize("page", [PAGE, DATA_SETS])
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
