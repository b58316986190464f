"""What is put into a page is text, and what a page lacks is a mistake."""

import pytest
from jinja2 import UndefinedError

from diagd_cli.report.pages import render

EVIL = "</script><b>{{ 7 * 7 }}</b>{% raw %}'\"&"


def test_what_is_put_in_is_text():
    page = render("vote.html", pack={"vote": "x", "question": EVIL, "pairs": [EVIL]})
    facts = page.split('<script type="application/json" id="pack">')[1].split("</script>")[0]
    # nothing ends the element, nothing is worked out
    assert not set("<>&'") & set(facts) and r"{{ 7 * 7 }}" in facts
    assert page.count("</script>") == 2


def test_what_a_page_lacks_is_a_mistake():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render("sweep.html")
