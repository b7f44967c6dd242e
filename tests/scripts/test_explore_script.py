"""scripts/explore.py: its answers are what the model computes, and its server answers only the reader's page."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import minigrad.functional as F
from gpt.interpretability import ablated, attention_patterns, logit_lens
from gpt.interpretability.activations import hooked
from scripts import explore, site
from scripts.pages.explore_data import Looker, attention_maps
from scripts.pages.local_server import LocalServer, site_server
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.helpers import serving
from tests.scripts.running import command, environment


@pytest.fixture(scope="module")
def looker():
    return Looker(*small_chat_model(n_layer=2, n_embd=32, block_size=32))


TEXT = "the cat sat on a mat"


def log_probs_of(looker, ids):
    return F.log_softmax(looker.model(ids), -1).data[0].astype(np.float64)


def test_an_answer_is_what_the_model_computes(looker):
    answer = looker.look({"text": TEXT, "position": 2, "layer": 1})
    ids = np.array([answer["ids"]])
    model = looker.model
    log_probs = log_probs_of(looker, ids)
    assert answer["text"] == TEXT and "".join(answer["tokens"]) == TEXT and answer["surprise"][0] is None
    wanted = -log_probs[np.arange(ids.size - 1), ids[0, 1:]]
    assert np.allclose(answer["surprise"][1:], wanted, atol=1e-4)
    best = np.argsort(-log_probs[2])[:10]
    assert [a["id"] for a in answer["alternatives"]] == best.tolist()
    assert np.allclose([a["p"] for a in answer["alternatives"]], np.exp(log_probs[2][best]), atol=1e-5)
    patterns = attention_patterns(model, ids)[1, 0]
    assert np.allclose(answer["attention"], patterns, atol=1e-4)
    assert np.allclose(answer["looks"], patterns[:, 2, :3], atol=1e-4)
    lens = logit_lens(model, ids)[:, 0, 2]
    assert [layer[0]["id"] for layer in answer["lens"]] == lens.argmax(-1).tolist()
    assert "change" not in answer


def test_switching_off_is_ablation(looker):
    off = {"heads": [[0, 1]], "attention": [1], "mlps": [0]}
    answer = looker.look({"text": TEXT, **off})
    ids = np.array([answer["ids"]])
    before = log_probs_of(looker, ids)
    with ablated(looker.model, [(0, 1)], [1], [0]):
        after = log_probs_of(looker, ids)
    assert np.allclose(answer["change"], (np.exp(before) * (before - after)).sum(1), atol=1e-5)
    assert max(answer["change"]) > 0 and min(answer["change"]) > -1e-6
    for entry in answer["alternatives"]:
        assert np.isclose(entry["p"], np.exp(after[-1, entry["id"]]), atol=1e-5)
        assert np.isclose(entry["before"], np.exp(before[-1, entry["id"]]), atol=1e-5)
    assert looker.look({"text": TEXT})["alternatives"] == looker.look({"ids": answer["ids"]})["alternatives"]


def test_a_changed_number_is_there_and_changes_no_earlier_token(looker):
    edit = {"layer": 0, "position": 3, "channel": 5, "value": 40.0}
    answer = looker.look({"text": TEXT, "position": 3, "layer": 0, "edit": edit})
    assert answer["numbers"][5] == 40
    assert np.allclose(answer["change"][:3], 0, atol=1e-6) and answer["change"][3] > 1e-4


def test_a_new_run_only_where_the_question_asks_for_one(looker, monkeypatch):
    looker.look({"text": TEXT, "mlps": [0]})
    runs = []
    monkeypatch.setattr(looker.model, "forward", lambda *ids, run=looker.model.forward: runs.append(ids) or run(*ids))
    ids = looker.look({"text": TEXT, "mlps": [0], "position": 1})["ids"]
    looker.look({"ids": ids, "mlps": [0], "layer": 1})
    assert not runs
    looker.look({"text": TEXT, "mlps": [1]})
    assert len(runs) == 1
    looker.look({"text": "the mat", "mlps": [1]})
    assert len(runs) == 3


def test_what_a_text_begins_with_is_not_read_again(looker):
    ids = looker.tokenizer.encode(TEXT)
    read = []
    looker.look({"ids": ids})
    with hooked(looker.model, {"transformer": lambda module, args, output: read.append(args[0].shape[1])}):
        texts = [ids + [5, 7], ids[:4] + [9, 8], ids[:2], ids[:2], [3, *ids]]
        found = [looker.look({"ids": text}) for text in texts]
    assert read == [2, 2, 1, len(ids) + 1]
    for text, answer in zip(texts, found, strict=True):
        alone = Looker(looker.model, looker.tokenizer).look({"ids": text})
        assert alone.keys() == answer.keys()
        for name in ("surprise", "looks", "attention", "numbers"):
            np.testing.assert_allclose(*(np.array(one[name], float) for one in (answer, alone)), atol=2e-4)


def test_the_maps_of_a_long_text_keep_the_largest_weights():
    patterns = np.tril(np.random.default_rng(0).random((2, 130, 130)))
    maps = attention_maps(patterns)
    assert maps.shape == (2, 44, 44)  # 3 x 3 tokens each
    assert maps[1, 5, 2] == patterns[1, 15:18, 6:9].max() and maps[0, 43, 43] == patterns[0, 129, 129]
    assert np.array_equal(attention_maps(patterns[:, :64, :64]), patterns[:, :64, :64])


def test_what_is_not_text_has_a_name(looker):
    tokens = looker.look({"text": "\U0001f642\n<|endoftext|>"})["tokens"]
    assert tokens[0].startswith("<0xF0>") and tokens[-2:] == ["\n", "<|endoftext|>"]
    assert "\ufffd" not in "".join(tokens)


@pytest.mark.parametrize(
    "question, words",
    [
        ({"text": ""}, "the text has 0 tokens"),
        ({"text": "the " * 50}, "the model reads 1 to 32"),
        ({"text": TEXT, "position": 99}, "position must be 0 to"),
        ({"text": TEXT, "layer": 2}, "layer must be 0 to 1, got 2"),
        ({"text": TEXT, "heads": [[0, 9]]}, "there is no head 0.9"),
        ({"text": TEXT, "edit": {"layer": 0, "position": 0, "channel": 32, "value": 1}}, "channel must be 0 to 31"),
        ({"text": TEXT, "edit": {"layer": 0, "position": 0, "channel": 0, "value": 1e300}}, "overflow"),
    ],
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_what_cannot_be_answered_is_refused(looker, question, words):
    with pytest.raises(ValueError, match=words):
        looker.look(question)
    assert not any(module._forward_hooks for module in looker.model.modules())


@pytest.fixture(scope="module")
def server(looker):
    with serving(LocalServer("<p>the page</p>", looker.look)) as running:
        yield running


def request(server, method, path, body=None, host=None, kind="application/json", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, path, body, {"Host": host or server.host, "Content-Type": kind, **headers})
    response = connection.getresponse()
    found = response.status, response.read().decode("utf-8")
    connection.close()
    return found


def test_the_server_is_for_who_knows_the_address(server):
    assert server.server_address[0] == "127.0.0.1"
    look = server.path + "look"
    question = json.dumps({"text": TEXT})
    assert request(server, "GET", server.path) == (200, "<p>the page</p>")
    status, text = request(server, "POST", look, question)
    assert status == 200 and json.loads(text)["text"] == TEXT
    refused = [('{"text": ""}', "the text has 0 tokens"), ("{", "Expecting"), ("3", "cannot be read")]
    refused += [(json.dumps({"text": TEXT, "heads": [3]}), "cannot be read")]
    for body, words in refused:
        status, text = request(server, "POST", look, body)
        assert status == 200 and words in json.loads(text)["error"]
    for path in ("/", "/look", server.path[:-2] + "/", server.path + "other", "/x"):
        assert request(server, "GET", path)[0] == request(server, "POST", path, question)[0] == 404
    assert request(server, "GET", server.path, host="evil.example")[0] == 404
    for header in ({"host": "evil.example"}, {"kind": "text/plain"}):  # the second is what a form can send
        assert request(server, "POST", look, question, **header)[0] == 404


@pytest.mark.parametrize("error, is_shown", [(ConnectionResetError, False), (ZeroDivisionError, True)])
def test_a_page_that_is_gone_is_not_an_error(error, is_shown, capsys, monkeypatch):
    def answer(question):
        raise error("while the answer was made")

    ended = threading.Event()
    with serving(LocalServer("", answer)) as server:
        monkeypatch.setattr(server, "close_request", lambda request: (request.close(), ended.set()))
        with pytest.raises(http.client.RemoteDisconnected):
            request(server, "POST", server.path + "look", "{}")
        assert ended.wait(20)
    assert (error.__name__ in capsys.readouterr().err) == is_shown


# The scripts notice it before they load a model or look for files, of which there are none here.
@pytest.mark.parametrize("serve", [
    lambda port: explore.main(["--model", "runs/none", "--port", str(port)]),
    lambda port: site.main(["--assets", "runs/none", "--serve", "--port", str(port)]),
    lambda port: site_server(Path(), port),
])  # fmt: skip
def test_a_port_that_another_server_has_is_refused(server, serve):
    port = server.server_address[1]
    with pytest.raises(OSError, match=f"port {port} cannot be used .*: choose another, or 0 for any"):
        serve(port)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_the_script_prints_its_address_and_ends_with_ctrl_c(tmp_path):
    save_model(tmp_path / "model", *small_chat_model(n_layer=1, n_embd=16, block_size=32))
    options = ["--model", tmp_path / "model", "--text", TEXT, "--no-browser"]
    given = {"stdout": subprocess.PIPE, "env": environment(), "encoding": "utf-8"}
    process = subprocess.Popen(command("explore", *options), **given)
    try:
        assert "open http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.stdout.close()
