"""Fetching weights from a hub that runs on this machine."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hub import Hub, serve

from diagd_cli.errors import WeightsError
from diagd_cli.preset_files import load_preset
from diagd_cli.sources import Source
from diagd_cli.weights.fetch import pull
from diagd_cli.weights.locate import locate

BIG, SMALL = b"transformer" * 40_000, b"tokenizer"


@pytest.fixture(autouse=True)
def _fresh_machine(tmp_path, monkeypatch):
    """Nothing in the cache of huggingface_hub, nobody logged in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(monkeypatch):
    """A hub with two repositories, which huggingface_hub takes for the one."""
    with serve(
        Hub({"maker/big": {"sub/model.pt": BIG}, "maker/codec": {"vae.ckpt": SMALL}})
    ) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def lines() -> list[str]:
    """What was reported."""
    return []


def source(repo: str, file: str, content: bytes | None = None) -> dict:
    checksum = {"sha256": hashlib.sha256(content).hexdigest()} if content else {}
    return {"sources": [{"repo": repo, "files": [{"file": file, **checksum}]}]}


@pytest.fixture
def make(tiny, tmp_path):
    """A preset in a folder of its own whose weights are those of the hub, but for what is given."""

    def preset(**changes):
        settings = {
            **load_preset(tiny.preset).model_dump(),
            "licence": "Free to look at.",
            "duties": "Look away at night.",
            "transformer_weights": source("maker/big", "sub/model.pt", BIG),
            "tokenizer_weights": source("maker/codec", "vae.ckpt", SMALL),
            "path": tmp_path / "presets" / "mine.yaml",
        }
        return type(load_preset(tiny.preset)).model_validate({**settings, **changes})

    return preset


def failure(preset, folder=None, token=None) -> str:
    with pytest.raises(WeightsError) as caught:
        pull(preset, folder, token, lambda line: None)
    return str(caught.value)


def test_files_lie_below_their_repositorys_name_and_are_found_there(hub, make, tmp_path, lines):
    folder, preset = tmp_path / "weights", make()
    paths = pull(preset, folder, None, lines.append)
    assert paths == [folder / "big" / "sub" / "model.pt", folder / "codec" / "vae.ckpt"]
    assert [path.read_bytes() for path in paths] == [BIG, SMALL]
    assert [locate(preset, role, folder)[1] for role in ("transformer", "tokenizer")] == [
        [path] for path in paths
    ]
    assert lines == [
        "Licence of tiny: Free to look at.",
        "Your duties: Look away at night.",
        "Fetching sub/model.pt of maker/big, 440.0 kB",
        "Fetching vae.ckpt of maker/codec, 9 bytes",
    ]


def test_what_is_there_is_not_fetched_again(hub, make, tmp_path, lines):
    paths = pull(make(), tmp_path / "weights", None, lambda line: None)
    hub.asked.clear()
    assert pull(make(), tmp_path / "weights", None, lines.append) == paths and not hub.asked
    assert lines[0] == f"The transformer weights are there: {paths[0]}" and len(lines) == 2
    paths[1].unlink()
    pull(make(), tmp_path / "weights", None, lambda line: None)
    assert hub.sent == ["maker/codec/vae.ckpt"]


def test_without_a_folder_they_go_to_the_cache(hub, make, tmp_path):
    paths = pull(make(), None, None, lambda line: None)
    assert all(path.is_relative_to(tmp_path / "cache") for path in paths)
    assert [path.read_bytes() for path in paths] == [BIG, SMALL]
    assert pull(make(), None, None, lambda line: None) == paths and len(hub.sent) == 2


def test_one_file_of_both_models_is_fetched_once(hub, make, tmp_path):
    both = source("maker/big", "sub/model.pt", BIG)
    paths = pull(make(tokenizer_weights=both), tmp_path, None, lambda line: None)
    assert paths == [tmp_path / "big" / "sub" / "model.pt"] and hub.sent == [
        "maker/big/sub/model.pt"
    ]


def test_a_broken_connection_goes_on_where_it_broke(hub, make, tmp_path, monkeypatch):
    # bytes that are written together
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.breaks = 120_000
    paths = pull(make(), tmp_path, None, lambda line: None)
    assert paths[0].read_bytes() == BIG
    ranges = [
        part
        for method, name, part, _ in hub.asked
        if method == "GET" and name.startswith("maker/big")
    ]
    assert ranges == [None, "bytes=100000-"]


def test_weights_that_are_elsewhere(hub, make, tmp_path, lines):
    """What the hub has is fetched, and where the rest is, is told."""
    there = {"sources": [{"where": "https://example.com", "files": [{"file": "big.pt"}]}]}
    paths = pull(make(transformer_weights=there), tmp_path, None, lines.append)
    assert [path.read_bytes() for path in paths] == [SMALL]
    assert lines[0] == (
        "The transformer weights, big.pt, are not on the hub: download them from "
        "https://example.com, and name their folder with --weights-dir"
    )


# ---- releases on GitHub --------------------------------------------------------------------------


@pytest.fixture
def release(hub, make, tmp_path, monkeypatch):
    """A preset whose Transformer is in a release, on a server that sends it on."""
    monkeypatch.setenv("GITHUB_SERVER_URL", hub.url)
    monkeypatch.setenv("DIAGD_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.files["maker/world@v1.0"] = {"big.pt": BIG}

    def preset(content=BIG):
        checksum = {"sha256": hashlib.sha256(content).hexdigest()}
        sources = [{"release": "maker/world@v1.0", "files": [{"file": "big.pt", **checksum}]}]
        return make(transformer_weights={"sources": sources})

    return preset


def test_files_of_a_release(hub, release, tmp_path, lines):
    """To a folder, below the repository's name, or to the cache; there they are found again."""
    folder, preset = tmp_path / "weights", release()
    paths = pull(preset, folder, "hf_mine", lines.append)
    assert paths[0] == folder / "world" / "big.pt" and paths[0].read_bytes() == BIG
    assert lines[2] == "Fetching big.pt of maker/world v1.0, 440.0 kB"
    assert {token for _, name, _, token in hub.asked if "@" in name} == {None}  # that is the hub's
    assert [path.name for path in paths[0].parent.iterdir()] == ["big.pt"]
    hub.asked.clear()
    assert pull(preset, folder, None, lines.append) == paths and not hub.asked
    paths = pull(preset, None, None, lines.append)
    assert paths[0] == tmp_path / "own" / "weights" / "world" / "big.pt"
    assert locate(preset, "transformer")[1] == paths[:1]


def test_a_release_goes_on_where_it_broke(hub, release, tmp_path, monkeypatch):
    """The connection, or the command."""
    hub.breaks = 120_000
    [path, _] = pull(release(), tmp_path, None, lambda line: None)
    asked = [part for method, name, part, _ in hub.asked if method == "GET" and "@" in name]
    assert path.read_bytes() == BIG and asked == [None, "bytes=100000-"]

    path.unlink()
    hub.asked.clear()
    hub.breaks = 120_000
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pull(release(), tmp_path, None, lambda line: None)
    assert not path.exists()
    pull(release(), tmp_path, None, lambda line: None)
    asked = [part for method, name, part, _ in hub.asked if method == "GET" and "@" in name]
    assert path.read_bytes() == BIG and asked == [None, "bytes=100000-"]


def interrupt(seconds):
    raise KeyboardInterrupt


def test_what_was_begun_of_another_version_is_dropped(hub, release, tmp_path):
    (tmp_path / "world").mkdir()
    old = tmp_path / "world" / "big.pt.0123456789ab.incomplete"
    old.write_bytes(b"old")
    [path, _] = pull(release(), tmp_path, None, lambda line: None)
    assert path.read_bytes() == BIG and not old.exists()


def test_releases_that_cannot_be_had(hub, release, tmp_path, monkeypatch):
    message = failure(release(b"another"), tmp_path)
    assert " is damaged or another version: SHA-256 " in message
    hub.failing = 503
    message = failure(release(), tmp_path / "a")
    assert message.startswith("GitHub cannot give big.pt of maker/world v1.0 now: HTTP Error 503")
    hub.failing = None
    del hub.files["maker/world@v1.0"]
    message = failure(release(), tmp_path / "a")
    page = f"{hub.url}/maker/world/releases/tag/v1.0"
    assert message.startswith(
        f"There is no big.pt of maker/world v1.0. It was withdrawn or renamed, see {page}; "
    )
    monkeypatch.setenv("GITHUB_SERVER_URL", "http://127.0.0.1:9")
    message = failure(release(), tmp_path / "a")
    assert message.startswith("big.pt of maker/world v1.0 was not fetched: ")
    assert "Connection refused" in message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "as HF_HUB_OFFLINE is set" in failure(release(), tmp_path / "a")


def test_a_source_is_one_place():
    both = {"repo": "a/b", "release": "a/b@v1", "files": [{"file": "c"}]}
    with pytest.raises(ValueError, match=r"repo \(a/b\) and release \(a/b@v1\) are two sources"):
        Source.model_validate(both)
    for release in ("a/b", "a/b@../c", "https://x.org@v1"):
        with pytest.raises(ValueError, match="release"):
            Source.model_validate({"release": release, "files": [{"file": "c"}]})


def test_weights_that_are_not_on_the_hub(hub, make, tmp_path, lines):
    preset = make(transformer_weights={"file": "mine.safetensors"}, tokenizer_weights=None)
    assert pull(preset, tmp_path, None, lines.append) == [] and not hub.asked
    alone = "The transformer weights, mine.safetensors, are not on the hub"
    assert lines[0] == f"{alone}: they come with the preset, or you put them beside it"
    assert lines[1].startswith("The preset tiny names no tokenizer weights")


def test_a_licence_that_must_be_accepted(hub, make, tmp_path):
    hub.gated, hub.members = {"maker/big"}, {"hf_member"}
    message = failure(make(), tmp_path)
    assert message.startswith("maker/big is given only to those who accept its licence. ")
    accept = f"Accept the licence at {hub.url}/maker/big"
    assert message.endswith(f"{accept}, then set HF_TOKEN to your token, or run: hf auth login")
    assert failure(make(), tmp_path, "hf_other").endswith(
        f"{accept}, by the account of the token that is sent"
    )
    assert len(pull(make(), tmp_path, "hf_member", lambda line: None)) == 2
    assert {token for method, _, _, token in hub.asked if method == "GET"} == {"hf_member"}


def test_what_was_withdrawn_is_named(hub, make, tmp_path):
    del hub.files["maker/codec"]["vae.ckpt"]
    elsewhere = "fetch the files elsewhere and name their folder with --weights-dir"
    message = "There is no vae.ckpt of maker/codec. It was withdrawn or renamed; "
    assert failure(make(), tmp_path) == message + elsewhere
    del hub.files["maker/codec"]
    message = (
        "The repository maker/codec is not on the hub, or not for everyone. If it was withdrawn, "
    )
    assert failure(make(), tmp_path).startswith(message + elsewhere)
    assert not hub.sent  # it is known before anything is fetched


def test_a_wrong_checksum(hub, make, tmp_path):
    preset = make(tokenizer_weights=source("maker/codec", "vae.ckpt", b"another"))
    message = failure(preset, tmp_path)
    path, hashes = (
        tmp_path / "codec" / "vae.ckpt",
        [hashlib.sha256(text).hexdigest()[:12] for text in (SMALL, b"another")],
    )
    seen = (
        f"{path} is damaged or another version: SHA-256 {hashes[0]}, where the preset says "
        f"{hashes[1]}. "
    )
    assert message.startswith(f"{seen}Delete it and run again: diagd weights pull {preset.path}")
    assert failure(preset, tmp_path) == message


def test_room_is_looked_for_before_anything_is_fetched(hub, make, tmp_path):
    hub.size = 10**18
    message = failure(make(), tmp_path / "not" / "there")
    assert (
        message.startswith(f"{tmp_path / 'not' / 'there'} has ")
        and " free, the weights take 2.0 EB. " in message
    )
    assert (
        message.endswith("Free some space, or name another folder with --weights-dir")
        and not hub.sent
    )


def test_without_a_network(hub, make, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = failure(make(), tmp_path)
    assert (
        message.startswith("sub/model.pt of maker/big was not fetched: ")
        and "Connection refused" in message
    )
    assert message.endswith("or fetch the files elsewhere and name their folder with --weights-dir")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert failure(make(), tmp_path).startswith(
        "sub/model.pt of maker/big is not fetched, as HF_HUB_OFFLINE is set. "
    )


def test_a_hub_out_of_order(hub, make, tmp_path):
    hub.failing = 503
    message = failure(make(), tmp_path)
    assert (
        message.startswith("The hub cannot give sub/model.pt of maker/big now: ")
        and "503" in message
    )
    hub.failing = 401
    assert "HF_TOKEN" in failure(make(), tmp_path, "hf_mistyped")


def test_a_folder_that_cannot_be_written(hub, make, tmp_path):
    (tmp_path / "file").write_text("")
    message = failure(make(), tmp_path / "file")
    assert " cannot be written: " in message and message.endswith(
        ". Name another folder with --weights-dir"
    )


def test_inverse_dynamics_are_fetched_too(hub, make, tmp_path):
    hub.files["maker/codec"]["inverse.pt"] = b"inverse"
    paths = pull(
        make(inverse_weights=source("maker/codec", "inverse.pt")), tmp_path / "weights", None, print
    )
    assert paths[-1].read_bytes() == b"inverse"


@pytest.mark.parametrize("role", ["transformer", "inverse"])
@pytest.mark.parametrize("file", ["../../evil.pt", "/etc/evil.pt", "a/../../../evil.pt"])
def test_a_preset_cannot_write_outside_its_folder(hub, make, tmp_path, file, role):
    preset = make(**{f"{role}_weights": source("maker/big", file)})
    assert (
        failure(preset, tmp_path)
        == f"tiny wants to write to {file}, out of its folder. Do not trust this preset"
    )
    assert not hub.asked and not list(Path(tmp_path.parent).rglob("evil.pt"))


def packed(name: str, content: bytes) -> bytes:
    """A tar within gzip."""
    whole, info = io.BytesIO(), tarfile.TarInfo(name)
    info.size = len(content)
    with tarfile.open(mode="w:gz", fileobj=whole) as archive:
        archive.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def test_a_file_in_parts_is_joined(hub, make, release, tmp_path, lines):
    """Parts that are there are not fetched, and then the hub is not asked for anything."""
    whole = packed("whatever.pt", BIG)
    size = -(-len(whole) // 3)
    names = [f"big.tar.gz.part_a{letter}" for letter in "abc"]
    files = {name: whole[n * size : (n + 1) * size] for n, name in enumerate(names)}
    hub.files["maker/world@v1.0"] = files
    file = {"file": "big.pt", "parts": names, "sha256": hashlib.sha256(BIG).hexdigest()}
    entry = {"sources": [{"release": "maker/world@v1.0", "files": [file]}]}
    preset, folder = make(transformer_weights=entry), tmp_path / "weights"
    (folder / "world").mkdir(parents=True)
    (folder / "world" / names[0]).write_bytes(files[names[0]])
    with pytest.raises(WeightsError) as caught:
        locate(preset, "transformer", folder)
    assert f"fetch them with: diagd weights pull {preset.path}" in str(caught.value)
    paths = pull(preset, folder, None, lines.append)
    assert paths[0] == folder / "codec" / "vae.ckpt" and paths[1].read_bytes() == BIG
    assert [name for name in hub.sent if "@" in name] == [
        f"maker/world@v1.0/{name}" for name in names[1:]
    ]
    assert lines[-2:] == [
        "Joining big.pt of 3 parts",
        f"The parts are no longer needed: "
        f"{', '.join(str(folder / 'world' / name) for name in names)}",
    ]
    assert locate(preset, "transformer", folder)[1] == paths[1:]
    paths[1].unlink()
    hub.asked.clear()
    pull(preset, folder, None, lines.append)
    assert not hub.asked and paths[1].read_bytes() == BIG


def test_parts_are_a_releases():
    with pytest.raises(ValueError, match="name the release"):
        Source.model_validate({"repo": "a/b", "files": [{"file": "c.pt", "parts": ["d"]}]})
