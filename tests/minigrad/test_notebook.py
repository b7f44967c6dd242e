"""Notebooks show tensors, modules, graphs and reports with the right numbers, in well-formed HTML."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor, gradcheck, inspection, nn
from minigrad.notebook import outline_html


class Tags(HTMLParser):
    """Fails where a closing tag does not fit the last open one."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3), (2, 0), (2, 3, 4), (50, 60), (0, 2, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_a_tensors_numbers_are_shown(shape, dtype):
    values = (10 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    html = Tensor(values)._repr_html_()
    Tags(html)
    cells = [float(text) for text in re.findall(r"<td[^>]*>([^<]*)</td>", html)]
    shown = values.reshape(-1, *values.shape[-2:])[0] if values.ndim > 2 and len(values) else values
    shown = np.atleast_2d(shown)[:12, :12] if values.size else np.empty(0)
    assert np.allclose(cells, shown.astype(float).ravel(), rtol=1e-3)
    assert f"shape {shape}" in html and ("of them shown" in html) == (len(cells) < values.size)


def test_numbers_that_are_not_finite_do_not_hide_the_others():
    html = Tensor([np.nan, np.inf, -np.inf, -2.0])._repr_html_()
    assert all(f">{text}</td>" in html for text in ("nan", "inf", "-inf", "-2"))
    assert "rgba(176,74,20,0.60)" in html  # -2 is the largest of the finite ones


def test_a_module_is_a_tree_of_its_lines():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.LayerNorm(3)), nn.Dropout(0.1))
    html = model._repr_html_()
    assert [text for text in Tags(html).texts if text.strip()] == [line.strip() for line in repr(model).splitlines()]
    assert html.count("<details") == 2 and html.count("<details open>") == 1


def test_text_is_not_markup():
    assert "<b>" not in outline_html("a\n  <b>x</b>")


def test_a_graph_is_a_picture_and_still_its_text():
    x = Tensor(2.0, requires_grad=True)
    drawing = inspection.draw(x * x)
    assert drawing.startswith("1 op, 1 leaf") and str(drawing) == drawing
    assert ElementTree.fromstring(drawing._repr_svg_()).tag.endswith("svg")


def test_reports_are_their_tables():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    with inspection.memory() as memory, inspection.profile() as profile:
        y = (x.exp() @ x).sum()
    assert y.requires_grad
    for report in (memory, profile):
        html = report._repr_html_()
        assert "".join(Tags(html).texts) == str(report) and "Exp" in html
    checked = gradcheck(F.exp, np.array([1.0, 2.0]))
    assert "".join(Tags(checked._repr_html_()).texts) == str(checked)
