"""Encoders that are fetched, and that cannot be."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from diagd_cli.errors import WeightsError
from text.use import PROMPT, change, embed


class Hub(BaseHTTPRequestHandler):
    """What of Hugging Face's protocol a download needs, for one repository in a folder; others are
    gated or unknown.
    """

    sha = "0123456789" * 4

    def do_GET(self):
        path = self.path.split("?")[0]
        files = {file.name: file for file in self.server.folder.iterdir()}
        if not path.startswith(("/api/models/me/t5/", "/me/t5/resolve/")):
            self.answer(
                b"",
                403 if "gated" in path else 404,
                "GatedRepo" if "gated" in path else "RepoNotFound",
            )
        elif "/resolve/" in path:
            self.server.fetched.add(Path(path).name)
            self.answer(files[Path(path).name].read_bytes())
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": n}
                for n, f in files.items()
            ]
            self.answer(json.dumps(tree).encode())
        else:
            about = {
                "id": "me/t5",
                "sha": self.sha,
                "siblings": [{"rfilename": name} for name in files],
            }
            self.answer(json.dumps(about).encode())

    do_HEAD = do_GET

    def answer(self, body: bytes, status: int = 200, error: str = ""):
        self.send_response(status)
        headers = {
            "Content-Length": len(body),
            "ETag": f'"{Path(self.path).name}"',
            "X-Repo-Commit": self.sha,
        }
        for name, value in {**headers, **({"X-Error-Code": error} if error else {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(copy, tmp_path, monkeypatch):
    """A server in the place of Hugging Face, with the repository me/t5; `fetched`: the files that
    were asked for.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.fetched = copy, set()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    threading.Thread(
        target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}
    ).start()
    yield server
    server.shutdown()
    server.server_close()


class TestHub:
    def test_fetches_what_the_encoder_needs_and_tells(self, hub, t5, capfd):
        notes = []
        torch.save({}, hub.folder / "pytorch_model.bin")
        [embedding] = embed("me/t5", PROMPT, report=notes.append)
        assert torch.equal(embedding, embed(t5, PROMPT)[0])
        assert notes == ["Fetching the text encoder me/t5 from Hugging Face"]
        assert hub.fetched == {"config.json", "tokenizer.json", "model.safetensors"}
        assert capfd.readouterr() == ("", "")

    def test_fetches_pytorchs_file_where_there_is_no_other(self, hub, t5):
        torch.save(load_file(hub.folder / "model.safetensors"), hub.folder / "pytorch_model.bin")
        (hub.folder / "model.safetensors").unlink()
        assert torch.equal(embed("me/t5", PROMPT)[0], embed(t5, PROMPT)[0])

    def test_what_has_been_fetched_is_used_offline(self, hub, tmp_path, monkeypatch):
        [embedding] = embed("me/t5", PROMPT)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.fetched.clear()
        notes = []
        assert torch.equal(
            embed("me/t5", PROMPT, cache=tmp_path / "other", report=notes.append)[0], embedding
        )
        assert not hub.fetched and not notes

    def test_weights_larger_than_the_memory_are_not_fetched(self, hub):
        change(hub.folder / "config.json", d_ff=1 << 40)
        with pytest.raises(WeightsError, match=r"takes 281475\.0 GB.*--prompt-embedding"):
            embed("me/t5", PROMPT)
        assert "model.safetensors" not in hub.fetched

    @pytest.mark.parametrize(
        ("name", "offline", "message", "hint"),
        [
            (
                "me/t5",
                True,
                "is not on disk, and Hugging Face cannot be reached",
                "--prompt-embedding",
            ),
            ("me/gated", False, "is gated", "hf auth login"),
            ("me/unknown", False, "is neither a folder nor on Hugging Face", "private"),
        ],
    )
    def test_what_cannot_be_fetched_is_one_line(
        self, hub, monkeypatch, name, offline, message, hint
    ):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(WeightsError) as caught:
            embed(name, PROMPT)
        assert (
            caught.value.message == f"The text encoder {name} {message}"
            and hint in caught.value.hint
        )

    def test_a_hub_that_does_not_answer_is_one_line(self, hub, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(
            WeightsError, match="me/t5 is not on disk, and Hugging Face cannot be reached"
        ):
            embed("me/t5", PROMPT)
