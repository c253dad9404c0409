"""What a vLLM server is asked before a run samples from it; a stand-in answers in vLLM's words (the real one answers in
`make test-vllm`)."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import lorakit as lk
from lorakit.reference.grpo import grpo_options
from lorakit.reference.vllm_server import ServedModelError, Server, ServerError, command
from lorakit.sweep.workers import Worker

MODEL, TOKENIZER = lk.load_model("tiny-w32-s0")
SPEC = lk.GRPOSpec(model="tiny-w32-s0", learning_rate=1e-3, use_vllm=True, merge_to_sample=True)
PROMPTS = TOKENIZER(["copy lantern\n", "7"], add_special_tokens=False)["input_ids"]


class StandIn(BaseHTTPRequestHandler):
    """The paths that are asked, by the settings of its `server`."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        info = {"vllm_config": {"model_config": self.server.settings, "weight_transfer_config": None}}
        found = {"/v1/models": {"data": [{"id": "base", "root": "/served"}]}, "/version": {"version": "0.31.0"},
                 "/server_info?config_format=json": info if self.server.settings else None}
        self.answer(found.get(self.path))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        if self.path != "/v1/completions":
            self.answer({"results": [None]})
            return
        with torch.no_grad():
            places = [self.server.model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in body["prompt"]]
        self.answer({"choices": [{"prompt_logprobs": [None, *(
            {str(token): {"logprob": float(place[i, token])}} for i, token in enumerate(ids[1:]))]}
            for ids, place in zip(body["prompt"], places, strict=True)]})

    def answer(self, found):
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write(b"Not Found" if found is None else json.dumps(found).encode())


@pytest.fixture
def served():
    """A stand-in that serves the spec's base with the spec's settings."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.model, server.asked = MODEL, []
    server.settings = {"dtype": "torch.float32", "logprobs_mode": "processed_logprobs", "max_model_len": 512}
    server.address = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_every_run_begins_from_the_weights_that_the_server_was_started_with(served):
    server = Server(served.address)
    server.prepare(SPEC, MODEL, PROMPTS)
    assert [path for path, _ in served.asked] == ["/collective_rpc", "/reset_prefix_cache", "/v1/completions"]
    assert served.asked[0][1] == {"method": "reload_weights", "kwargs": {"weights_path": "/served"}}
    assert served.asked[2][1]["prompt"] == PROMPTS[:1], "of one token nothing is predicted"


def test_another_model_is_found_by_what_it_answers(served):
    served.model = lk.load_model("tiny")[0]
    with pytest.raises(ServedModelError, match=r"another model than tiny-w32-s0@\w{12} \(/served\).* nats a token"):
        Server(served.address).prepare(SPEC, MODEL, PROMPTS)


@pytest.mark.parametrize(("settings", "message"), [
    (None, "keeps its development endpoints closed(?s:.)*VLLM_SERVER_DEV_MODE=1"),
    ({"dtype": "torch.bfloat16"}, "computes in bfloat16, the spec in float32(?s:.)*--dtype float32"),
    ({"logprobs_mode": "raw_logprobs"}, "gives raw_logprobs.*were drawn(?s:.)*processed_logprobs"),
    ({"max_model_len": 20}, "holds 20 tokens.*may have 29: start it with --max-model-len 29")])
def test_settings_that_give_other_numbers_are_said_with_the_right_ones(served, settings, message):
    served.settings = settings and {**served.settings, **settings}
    with pytest.raises(ServedModelError, match=message):
        Server(served.address).prepare(SPEC, MODEL, PROMPTS)


def test_a_wrong_address_starts_nothing(served, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "ask", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr("lorakit.reference.vllm.require_vllm", lambda spec: None)

    def run(address, spec=SPEC, **options):
        return lk.run([spec], tmp_path / "runs", vllm_server=address, **options)

    with pytest.raises(ServerError, match=r"no vLLM server answers at http://127\.0\.0\.1:1 \(.*refused"):
        run("127.0.0.1:1")
    for address in ("elsewhere", "http://host", "host:80/v1", ""):
        with pytest.raises(ValueError, match=r"allowed: HOST:PORT"):
            run(address)
    monkeypatch.setattr(StandIn, "do_GET", lambda self: self.answer({"hello": "there"}))
    with pytest.raises(ServedModelError, match=r"is no vLLM server"):
        run(served.address)
    with pytest.raises(ValueError, match=r"samples for specs with use_vllm=True"):
        run(served.address, replace(SPEC, use_vllm=False))
    for options in ({"processes": 2}, {"executor": "ray"}):
        with pytest.raises(ValueError, match=r"serves one run at a time"):
            run(served.address, **options)
    assert not (tmp_path / "runs").exists()


def test_trl_is_told_of_the_server_and_its_loss_is_no_failure_of_the_run(served):
    options = grpo_options(SPEC, "out", torch.device("cpu"), server=Server(served.address).url)
    assert (options["vllm_mode"], options["vllm_server_base_url"]) == ("server", f"http://{served.address}")
    requests = pytest.importorskip("requests")
    with pytest.raises(ServerError, match=r"was lost \(ConnectTimeout\)"), Server(served.address).watched():
        raise requests.exceptions.ConnectTimeout


def test_the_command_names_the_base_as_vllm_takes_it():
    hub = replace(SPEC, model="owner/name@" + "a" * 40, dtype="bfloat16")
    assert f"vllm serve owner/name --revision {'a' * 40} --dtype bfloat16 " in command(hub)
    assert "lorakit.load_model('tiny-w32-s0@" in command(SPEC)
