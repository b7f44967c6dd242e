"""draw(): the text line by line, and the picture by its geometry: no box on another, no arrow through a box."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad.functional as F
from gpt import GPT, GPTConfig
from minigrad import Tensor, manual_seed, nn
from minigrad.inspection import draw

SVG = "{http://www.w3.org/2000/svg}"


def leaf(value):
    return Tensor(value, requires_grad=True)


def micrograd_example():
    a, b, c, f = leaf(2.0), leaf(-3.0), leaf(10.0), leaf(-2.0)
    e = a * b
    d = e + c
    return {"a": a, "b": b, "c": c, "f": f, "e": e, "d": d, "L": d * f}


def small_gpt():
    """A GPT's loss and the GPT: about 100 nodes with residual connections, several outputs and a tied weight."""
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=11, block_size=4, n_layer=4, n_head=2, n_embd=8))
    ids = np.arange(8).reshape(2, 4)
    return model.loss(ids, ids), model


# --- text ---


def test_text_after_backward_has_names_values_and_gradients():
    made = micrograd_example()
    made["e"].retain_grad()
    made["L"].backward()
    assert draw(made["L"], names={tensor: name for name, tensor in made.items()}).splitlines() == [
        "3 ops, 4 leaves; forward reads down, backward up (it has run)",
        "a  leaf           () float32   value 2   grad 6",
        "b  leaf           () float32   value -3   grad -4",
        "e  Mul(x=a, y=b)  () float32   value -6   grad -2",
        "c  leaf           () float32   value 10   grad -2",
        "d  Add(x=e, y=c)  () float32   value 4",
        "f  leaf           () float32   value -2   grad 4",
        "L  Mul(x=d, y=f)  () float32   value -8",
    ]


def test_a_shared_node_is_shown_once_and_referred_to():
    x = leaf([1.0, 2.0])
    shared = x * x
    text = draw((shared + shared.exp()).sum())
    assert text.count("Mul(x=leaf1, y=leaf1)") == 1 and "Exp(%1)" in text and "Add(x=%1, y=%2)" in text
    assert text.count("\nleaf1") == 1


def test_gradients_of_arrays_are_shown_by_their_norm():
    x = leaf([3.0, 4.0])
    y = x * 0.5
    y.retain_grad()
    out = (y * y).sum()
    out.backward()
    assert draw(x, names={x: "x"}).splitlines()[1] == "x  leaf  (2,) float32   |grad| 2.5"
    assert [line.endswith("|grad| 5") for line in draw(out).splitlines() if "Mul(x=leaf1)" in line] == [True]


def test_each_of_several_outputs_is_told_apart():
    x = leaf(np.ones((2, 6)))
    first, second = F.split(x, [2, 4], dim=1)
    text = draw(first.sum() + second.sum())
    assert "Split(leaf1)" in text and "(2, 2) float64, (2, 4) float64" in text
    assert "Sum(%1[0])" in text and "Sum(%1[1])" in text
    assert "3 x (2, 2) float64" in draw(F.split(x, 2, dim=1)[0])
    values, _ = F.max(x, 1)
    assert "(2,) float64, (2,) int64" in draw(values)


def test_a_module_gives_the_names_of_its_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2, bias=False))
    text = draw(model(Tensor(np.ones((5, 3), np.float32))).sum(), names=model)
    assert "weight=0.weight, bias=0.bias" in text and re.search(r"\n2\.weight +leaf +\(2, 4\) float32", text)


def test_a_leaf_alone():
    assert draw(Tensor([1.0, 2.0])).splitlines() == [
        "0 ops, 1 leaf; forward reads down, backward up",
        "leaf1  leaf  (2,) float32",
    ]


def test_an_op_in_mixed_precision_keeps_its_names():
    from minigrad.precision import autocast

    with autocast():
        out = F.linear(leaf(np.ones((2, 3), np.float32)), leaf(np.ones((4, 3), np.float32)))
    assert "Linear(x=leaf1, weight=leaf2)" in draw(out)


# --- files ---


def test_files_are_utf8_with_unix_line_ends(tmp_path):
    x = leaf([1.0])
    for name in ("graph.txt", "graph.svg", "GRAPH.SVG"):
        drawn = draw(x * x, tmp_path / name, names={x: "größe"})
        content = (tmp_path / name).read_bytes()
        assert content.decode("utf-8") == drawn + "\n" and b"\r" not in content
    assert (tmp_path / "graph.txt").read_text(encoding="utf-8").startswith("1 op, 1 leaf;")


def test_another_ending_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.svg \(a picture\) or \.txt, got '.*graph\.png'"):
        draw(leaf(1.0) * 2, tmp_path / "graph.png")
    assert list(tmp_path.iterdir()) == []


# --- the picture ---


def picture(tensor, tmp_path, **options):
    """The parsed picture: size, {class: boxes as (left, top, right, bottom)}, arrows as lists of points."""
    root = ET.fromstring(draw(tensor, tmp_path / "graph.svg", **options))
    boxes = {kind: [] for kind in ("op-node", "leaf-node", "rest-node")}
    for group in root.iter(SVG + "g"):
        if group.get("class"):
            rect = group.find(SVG + "rect")
            x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            boxes[group.get("class")].append((x, y, x + width, y + height))
    arrows = [points(path.get("d")) for path in root.iter(SVG + "path") if path.get("class") == "edge"]
    return root, boxes, arrows


def points(path):
    """Points along a path of M, L and C commands, close to each other."""
    found = []
    for command, numbers in re.findall(r"([MLC])([-\d. ]+)", path):
        values = np.array(numbers.split(), float).reshape(-1, 2)
        if command == "M":
            found.append(values[0])
        else:
            start, t = found[-1], np.linspace(0, 1, 25)[1:, None]
            if command == "L":
                found += list(start + t * (values[0] - start))
            else:
                one, two, end = values
                curve = (1 - t) ** 3 * start + 3 * t * (1 - t) ** 2 * one + 3 * t * t * (1 - t) * two + t**3 * end
                found += list(curve)
    return np.array(found)


def check_geometry(root, boxes, arrows):
    every = [box for kind in boxes.values() for box in kind]
    for i, (left, top, right, bottom) in enumerate(every):
        for other_left, other_top, other_right, other_bottom in every[:i]:
            apart = right < other_left or other_right < left or bottom < other_top or other_bottom < top
            assert apart, "two boxes overlap"
    assert all(left >= 0 and right <= float(root.get("width")) for left, _, right, _ in every)
    assert all(top >= 0 and bottom <= float(root.get("height")) for _, top, _, bottom in every)
    tolerance = 0.2  # numbers in the picture have one digit after the point
    for arrow in arrows:
        (start_x, start_y), (end_x, end_y) = arrow[0], arrow[-1]
        assert any(left < start_x < right and abs(start_y - bottom) < tolerance for left, _, right, bottom in every)
        assert any(left < end_x < right and abs(end_y - top) < tolerance for left, top, right, _ in every)
        assert (np.diff(arrow[:, 1]) > -tolerance).all(), "an arrow goes up"
        for left, top, right, bottom in every:
            inside = (left < arrow[:, 0]) & (arrow[:, 0] < right)
            inside &= (top + tolerance < arrow[:, 1]) & (arrow[:, 1] < bottom - tolerance)
            assert not inside.any(), "an arrow crosses a box"


@pytest.mark.parametrize("after_backward", [False, True])
def test_the_picture_of_a_gpt(tmp_path, after_backward):
    loss, model = small_gpt()
    parameters = list(model.parameters())
    if after_backward:
        loss.backward()
    root, boxes, arrows = picture(loss, tmp_path, names=model)
    text = draw(loss, names=model).splitlines()[1:]
    "".join(text).encode("cp1252")  # for a terminal of Windows
    calls = [re.sub(r" {2,}.*", "", line.split("  ", 1)[1].strip()) for line in text]
    assert len(boxes["op-node"]) + len(boxes["leaf-node"]) == len(text) > 80
    assert len(boxes["leaf-node"]) == len(parameters) == calls.count("leaf")
    edges = sum(call.count(",") + 1 for call in calls if call != "leaf")
    assert len(arrows) == edges > 90
    check_geometry(root, boxes, arrows)
    titles = [title.text for title in root.iter(SVG + "title")]
    assert sum("|grad|" in title for title in titles) == (len(parameters) if after_backward else 0)
    assert float(root.get("width")) < 1400  # it fits on a screen without scrolling sideways


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from("+*-s")), min_size=1, max_size=30))
def test_no_graph_makes_boxes_overlap(tmp_path_factory, steps):
    pool = [leaf(1.0), leaf(2.0), leaf([[3.0, 4.0]])]
    for i, j, op in steps:
        x, y = pool[i % len(pool)], pool[j % len(pool)]
        if op == "s" and x.ndim == 2:
            pool += F.split(x, 1, dim=1)
        else:
            pool.append(x + y if op == "+" else x * y if op == "*" else -x)
    total = pool[-1].sum()
    for tensor in pool[-6:]:
        total = total + tensor.sum()
    check_geometry(*picture(total, tmp_path_factory.mktemp("svg")))


def test_a_long_arrow_is_straight(tmp_path):
    x = leaf(np.ones((3, 4), np.float32))
    y = x
    for _ in range(5):
        y = (y.tanh() + leaf(np.ones((3, 4), np.float32))).sum(1, keepdim=True).expand(3, 4)
    _, boxes, arrows = picture(y * x, tmp_path)
    longest = max(arrows, key=lambda arrow: np.ptp(arrow[:, 1]))
    inner = longest[(longest[:, 1] > longest[:, 1].min() + 100) & (longest[:, 1] < longest[:, 1].max() - 100)]
    assert len(inner) > 100 and np.ptp(inner[:, 0]) < 0.01


def test_the_words_in_a_picture_are_escaped(tmp_path):
    x = leaf([2.0])
    name = '<w & "x">'
    root, *_ = picture(x * x, tmp_path, names={x: name})
    assert {"Mul", "(1,) float32", "value 4", "x", "y", name} <= {text.text for text in root.iter(SVG + "text")}


def test_a_drawing_is_the_same_each_time():
    assert draw(small_gpt()[0]) == draw(small_gpt()[0])


def test_a_chain_of_10_000_ops_is_cut_with_a_note(tmp_path):
    x = y = leaf(1.0)
    for i in range(10_000):
        y = y + x if i % 2 else y * 0.999
    text = draw(y).splitlines()
    assert text[0].startswith("300 ops, 1 leaf") and text[1] == "... 9,700 ops before these are not shown"
    assert len(text) == 2 + 301 and "(x=...)" in text[2]
    root, boxes, arrows = picture(y, tmp_path, limit=40)
    assert (len(boxes["op-node"]), len(boxes["leaf-node"]), len(boxes["rest-node"])) == (40, 1, 1)
    assert "9,960 ops before these are not shown" in [text.text for text in root.iter(SVG + "text")]
    check_geometry(root, boxes, arrows)
    assert len(draw(y, limit=10**6).splitlines()) == 1 + 10_001
