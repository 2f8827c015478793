import random

import numpy as np
import pytest
import torch
import torchvision.transforms as reference
from easydict import EasyDict
from scipy.ndimage import grey_dilation, grey_erosion
from torch import Tensor

from data.augment import AUGMENTATIONS, Evaluation, Normalize, build_augmentation
from data.augment.affine import thicken
from data.augment.color import HUE
from system.errors import ConfigError, UserError
from system.sections import Fraction, check, section_of
from tests.data.augment.test_geometry import from_pil, textured, to_pil
from tests.data.augment.test_operations import PIL_OPERATIONS

MEAN, STD = [0.49, 0.48, 0.45], [0.2, 0.21, 0.22]
NORMALIZE = {"mean": MEAN, "std": STD}
ONE_LEVEL = 1.01 / 255 / min(STD)
CROP = {"size": 24, "scale": [0.2, 1.0]}
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
KWARGS = {
    "standard": {"random_resized_crop": CROP, "normalize": NORMALIZE},
    "simclr": {
        "random_resized_crop": CROP,
        "color_jitter_random_apply": {"p": 0.8},
        "color_jitter": JITTER,
        "random_grayscale": {"p": 0.2},
        "normalize": NORMALIZE,
    },
    "ours": {
        "crop_size": 24,
        "normalize": NORMALIZE,
        "num_strong_augs": 4,
        "cutout_kwargs": {"n_holes": 1, "length": 12, "random": True},
    },
    "affine": {"crop_size": 24, "normalize": NORMALIZE},
    "padded": {"crop_size": 24, "normalize": NORMALIZE},
}


def test_every_strategy_that_draws_is_tested():
    assert {name for name, strategy in AUGMENTATIONS.items() if not strategy.is_fixed} == set(KWARGS)


def build(name: str, **changes):
    return build_augmentation(name, **{**KWARGS[name], **changes})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normalized(images: Tensor) -> Tensor:
    return (images.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def denormalized(views: Tensor) -> Tensor:
    return (views * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255


@pytest.mark.parametrize("name", KWARGS)
def test_views_hang_on_the_generator_alone(name):
    strategy, images = build(name), textured(20, 24, 24)
    views = strategy(images, seeded(1))
    assert views.shape == (20, 3, 24, 24)
    assert views.dtype == torch.float32
    assert torch.isfinite(views).all()
    assert torch.equal(views, strategy(images, seeded(1)))
    assert not torch.equal(views, strategy(images, seeded(2)))
    torch.manual_seed(1)
    assert torch.equal(views, strategy(images))
    assert not torch.equal(views, strategy(images))
    assert torch.equal(strategy(images[0], seeded(3)), strategy(images[:1], seeded(3))[0])


@pytest.mark.parametrize("name", KWARGS)
def test_a_part_of_the_params_is_that_part_of_the_batch(name):
    strategy, images = build(name), textured(30, 24, 24)
    original = images.clone()
    params = strategy.draw(30, seeded(4))
    assert all(p.device.type == "cpu" and len(p) == 30 for p in params.values())
    views = strategy.apply(images, params)
    part = strategy.apply(images[10:17], {k: p[10:17] for k, p in params.items()})
    assert torch.allclose(part, views[10:17], atol=ONE_LEVEL)
    strategy.chunk_pixels = 7 * 24 * 24
    assert torch.allclose(strategy.run(images, params), views, atol=ONE_LEVEL)
    assert torch.equal(images, original)


@pytest.mark.parametrize("name", KWARGS)
def test_apply_is_crop_then_finish(name):
    strategy, images = build(name), textured(30, 31, 40)
    params = strategy.draw(30, seeded(5))
    views = strategy.apply(images, params)
    finished = strategy.finish(strategy.crop(images, params), params)
    # A level of the crop that falls the other way may be stretched by what follows it.
    assert ((views - finished).abs() > ONE_LEVEL).float().mean() < 1e-3
    box = strategy.box(params, 31, 40)
    assert box.shape == (30, 4)
    assert (box[:, :2] >= 0).all()
    assert (box[:, 0] + box[:, 2] <= 31).all()
    assert (box[:, 1] + box[:, 3] <= 40).all()


def statistics(views: Tensor) -> dict[str, Tensor]:
    """How the views of a set of images are spread: each row one number per view."""
    flat = denormalized(views).flatten(2)
    saturation = (flat.amax(1) - flat.amin(1)).mean(1)
    detail = (denormalized(views).diff(dim=3)).abs().mean((1, 2, 3))
    black = (views == 0).all(1).float().mean((1, 2))
    sides = flat.view(len(views), 3, 24, 24)
    lean = sides[..., :12].mean((1, 2, 3)) - sides[..., 12:].mean((1, 2, 3))
    columns = {"red": flat[:, 0].mean(1), "green": flat[:, 1].mean(1), "blue": flat[:, 2].mean(1)}
    return {
        **columns,
        "spread": flat.std((1, 2)),
        "saturation": saturation,
        "detail": detail,
        "black": black,
        "lean": lean,
    }


def assert_same_distribution(ours: Tensor, theirs: Tensor):
    """Means, spreads and the whole distribution (Kolmogorov-Smirnov, one false alarm in 10,000)."""
    mine, yours = statistics(ours), statistics(theirs)
    for name in mine:
        a, b = (v[name].double().mul(1000).round().div(1000).sort()[0] for v in (mine, yours))
        n = len(a)
        error = ((a.var() + b.var()) / n).sqrt()
        assert (a.mean() - b.mean()).abs() <= 4.5 * error + 0.05, name
        points = torch.cat([a, b])
        gap = torch.searchsorted(a, points, right=True) - torch.searchsorted(b, points, right=True)
        assert gap.abs().max() / n <= 2.25 * (2 / n) ** 0.5, name


def repeated(count: int) -> Tensor:
    return textured(5, 24, 24, seed=9).repeat(count // 5, 1, 1, 1)


@pytest.mark.parametrize("name", ["standard", "simclr"])
def test_distribution_is_that_of_torchvision(name):
    torch.manual_seed(0)
    random.seed(0)
    steps = [reference.RandomResizedCrop(24, scale=(0.2, 1)), reference.RandomHorizontalFlip()]
    if name == "simclr":
        steps += [
            reference.RandomApply([reference.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            reference.RandomGrayscale(0.2),
        ]
    steps += [reference.ToTensor(), reference.Normalize(MEAN, STD)]
    pipeline = reference.Compose(steps)
    images = repeated(1500)
    theirs = torch.stack([pipeline(to_pil(i)) for i in images])
    assert_same_distribution(build(name)(images, seeded(11)), theirs)


def strong_by_pil(image, draw: random.Random) -> Tensor:
    image = to_pil(image)
    if draw.random() < 0.5:
        image = image.transpose(0)
    for _ in range(4):
        image = draw.choice(list(PIL_OPERATIONS.values()))(image, draw.random())
    view = normalized(from_pil(image))
    half, y, x = draw.randint(1, 12) // 2, draw.randrange(24), draw.randrange(24)
    view[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return view


def test_distribution_of_ours_is_that_of_a_pil_pipeline():
    images, draw = repeated(1500), random.Random(0)
    theirs = torch.stack([strong_by_pil(i, draw) for i in images])
    assert_same_distribution(build("ours")(images, seeded(12)), theirs)


def test_simclr_draws_have_the_published_rates():
    params = build("simclr").draw(20000, seeded(13))
    turned, blends, hue = params["turned"], params["blends"], params["hue"]
    assert abs(turned.float().mean() - 0.8) < 0.015
    assert abs(params["gray"].float().mean() - 0.2) < 0.015
    assert abs(params["flip"].float().mean() - 0.5) < 0.015
    assert hue.min() >= -0.1
    assert hue.max() <= 0.1
    assert abs(hue.abs().mean() - 0.05) < 1e-3
    factors = blends[turned][..., 0]
    done = factors[factors != 1]
    assert done.min() >= 0.6
    assert done.max() <= 1.4
    assert (blends[~turned][..., 0] == 1).all()
    before = (factors[:, :3] != 1).sum(1)  # the hue stands at each of the four places as often
    assert HUE == 3
    assert (torch.bincount(before, minlength=4) / len(before) - 0.25).abs().max() < 0.015
    assert abs(params["area"].min() - 0.2) < 1e-3
    assert abs(params["area"].mean() - 0.6) < 5e-3


def test_ours_draws_every_operation_and_length_alike():
    params = build("ours").draw(20000, seeded(14))
    shares = torch.bincount(params["operation"].flatten(), minlength=14) / params["operation"].numel()
    assert (shares - 1 / 14).abs().max() < 0.005
    lengths = torch.bincount(params["length"], minlength=13)[1:] / 20000
    assert (lengths - 1 / 12).abs().max() < 0.01
    assert params["length"].max() == 12
    centers = torch.bincount(params["centers"].flatten(), minlength=24) / params["centers"].numel()
    assert (centers - 1 / 24).abs().max() < 0.006


def test_ours_keeps_the_place_and_cuts_out_after_normalizing():
    images = textured(50, 24, 24)
    strategy = build("ours", num_strong_augs=0)
    params = strategy.draw(50, seeded(15))
    views = strategy.apply(images, params)
    expected = normalized(torch.where(params["flip"][:, None, None, None], images.flip(-1), images))
    holes = (views == 0).all(1, keepdim=True).expand_as(views)
    assert torch.allclose(views[~holes], expected[~holes], atol=1e-5)
    half, center = params["length"] // 2, params["centers"][:, 0]
    sides = (center + half[:, None]).clamp(max=24) - (center - half[:, None]).clamp(min=0)
    assert torch.equal(holes[:, 0].sum((1, 2)), sides.prod(1))


@pytest.mark.parametrize(("height", "width"), [(24, 24), (25, 31), (40, 26)])
def test_evaluation_is_torchvisions_center_crop(height, width):
    images = textured(4, height, width)
    pipeline = reference.Compose([reference.CenterCrop(24), reference.ToTensor(), reference.Normalize(MEAN, STD)])
    expected = torch.stack([pipeline(to_pil(i)) for i in images])
    evaluation = Evaluation(crop_size=24, normalize=NORMALIZE)
    assert torch.allclose(evaluation(images), expected, atol=1e-5)
    assert torch.allclose(evaluation(images[0]), expected[0], atol=1e-5)


def test_affine_without_any_change_is_the_normalized_image():
    none = dict.fromkeys(["aspect", "rotation", "shear", "shift", "blur", "contrast", "noise", "erasing"], 0.0)
    images = textured(6, 24, 24)
    assert torch.allclose(build("affine", scale=[1, 1], **none)(images), normalized(images), atol=1e-4)


def test_strokes_go_towards_gray_dilation_and_erosion():
    strategy = build("affine", stroke=0.5)
    images, amounts = textured(5, 24, 24).float(), [-1.0, -0.25, 0.0, 0.5, 1.0]
    found = thicken(images, torch.tensor(amounts)).numpy()
    for image, amount, thickened in zip(images.numpy(), amounts, found, strict=True):
        morphology = grey_dilation if amount > 0 else grey_erosion
        extreme = morphology(image, size=(1, 3, 3), mode="nearest")
        np.testing.assert_allclose(thickened, image + abs(amount) * (extreme - image), atol=1e-3)
    params, without = strategy.draw(5000, seeded(19)), build("affine").draw(5000, seeded(19))
    assert params["stroke"].min() == pytest.approx(-0.5, abs=0.01)
    assert params["stroke"].max() == pytest.approx(0.5, abs=0.01)
    assert not without["stroke"].any()
    assert all(torch.equal(params[key], without[key]) for key in params.keys() - {"stroke"})
    params = {key: value[:5] for key, value in params.items()} | {"stroke": torch.tensor(amounts)}
    params |= {"matrix": torch.eye(2, 3).expand(5, 2, 3), "blur": torch.zeros(5, dtype=torch.bool)}
    params |= {"contrast": torch.ones(5), "noise": torch.zeros(5, 1, 24, 24), "length": torch.zeros(5, dtype=int)}
    assert torch.allclose(strategy.finish(images, params), normalized(torch.from_numpy(found)), atol=1e-4)


def test_affine_matrices_stay_in_their_ranges():
    strategy = build("affine", rotation=0.0, shear=0.0)
    matrix = strategy.draw(5000, seeded(16))["matrix"]
    wide, tall = matrix[:, 0, 0], matrix[:, 1, 1]
    side, aspect = (wide * tall).sqrt(), (wide / tall).log()
    assert 0.7 - 1e-4 <= side.min() < 0.71
    assert 1.14 < side.max() <= 1.15 + 1e-4
    assert 0.19 < aspect.abs().max() <= 0.2 + 1e-4
    assert 0.23 < matrix[:, :, 2].abs().max() <= 0.24 + 1e-4
    assert matrix[:, 0, 1].abs().max() == 0
    turned = build("affine", scale=[1, 1], aspect=0.0, shear=0.0).draw(5000, seeded(17))["matrix"]
    angle = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 0, 0])).abs()
    assert 14.9 < angle.max() <= 15 + 1e-4
    assert torch.allclose(torch.linalg.det(turned[:, :, :2]), torch.ones(5000), atol=1e-5)


def test_a_compiled_strategy_compiles_one_shape_and_gives_the_same(monkeypatch):
    shapes = []

    def compile_as_told(function, dynamic):
        assert dynamic is False

        def compiled(images, params):
            shapes.append(len(images))
            return function(images, params)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_as_told)
    strategy, images = build("simclr"), textured(25, 24, 24)
    expected = strategy(images, seeded(18))
    strategy.chunk_pixels = 10 * 24 * 24
    strategy.compile(25)
    strategy(images[:7], seeded(18))  # the short rest of an epoch, after a resume
    assert torch.allclose(strategy(images, seeded(18)), expected, atol=ONE_LEVEL)
    assert shapes == [9, 9]  # of 9, 9 and 7: equal parts, so that only a rest takes the other way


def test_simclr_is_one_graph():
    strategy = build("simclr")
    params, images = strategy.draw(6, seeded(19)), textured(6, 24, 24)
    traced = torch.compile(strategy.apply, dynamic=False, fullgraph=True, backend="eager")
    assert torch.allclose(traced(images, params), strategy.apply(images, params), atol=ONE_LEVEL)


def test_only_uint8_images_are_taken():
    with pytest.raises(TypeError, match=r"expected uint8 .* got torch.float32"):
        build("simclr")(torch.rand(2, 3, 24, 24))


def test_too_small_images_are_an_error_of_the_data():
    with pytest.raises(UserError, match="too small for crop_size 24"):
        build("ours")(textured(2, 20, 24))
    with pytest.raises(UserError, match="too small for crop_size 24"):
        Evaluation(24, NORMALIZE)(textured(2, 24, 20))


def resized(size, scale):
    return {"random_resized_crop": {"size": size, "scale": scale}}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rotnet", {}, "augmentation_strategy is 'rotnet', but must be one of standard, simclr, ours, affine"),
        ("simclr", {"color_jiter": {}}, "SimCLR: unknown key 'color_jiter'; did you mean 'color_jitter'?"),
        ("simclr", {"color_jitter": {"hue": 0.7}}, "color_jitter.hue is 0.7; it should be less than or equal to 0.5"),
        ("simclr", {"color_jitter": {"brightness": -1}}, "color_jitter.brightness is -1; it should be greater than"),
        (
            "simclr",
            {"color_jitter": {"brightnes": 1}},
            "key 'color_jitter.brightnes'; did you mean 'brightness'",
        ),
        ("simclr", {"color_jitter_random_apply": {}}, "the key 'color_jitter_random_apply.p' is missing"),
        (
            "simclr",
            {"color_jitter_random_apply": {"P": 1}},
            "unknown key 'color_jitter_random_apply.P'; did",
        ),
        ("simclr", {"random_grayscale": {"p": 2}}, "random_grayscale.p is 2; it should be less than or equal to 1"),
        ("simclr", {"random_grayscale": {"p": float("nan")}}, "random_grayscale.p is nan; "),
        ("standard", resized(0, [0.2, 1]), "random_resized_crop.size is 0; "),
        (
            "standard",
            {"random_resized_crop": {"size": 8.0, "scale": [0.2, 1]}},
            "size is 8.0; it should be a valid integer",
        ),
        (
            "standard",
            {"random_resized_crop": {"size": 8, "scale": [0.9, 0.2]}},
            "scale is .0.9, 0.2.; it should be .small",
        ),
        (
            "standard",
            {"random_resized_crop": {"size": 8, "scale": [0, 0.2]}},
            "scale.0 is 0; it should be greater than 0",
        ),
        ("standard", resized(8, 0.2), "scale is 0.2; it should be a list"),
        (
            "standard",
            {"random_resized_crop": 32},
            "crop is 32; it should be a mapping with the keys size, scale",
        ),
        (
            "standard",
            {"normalize": {"mean": MEAN, "std": [0.2, 0.2]}},
            "std is .0.2, 0.2.; .* at least 3 items",
        ),
        ("standard", {"normalize": {"mean": MEAN, "std": [0, 0.2, 0.2]}}, "normalize.std.0 is 0; "),
        ("ours", {"num_strong_augs": -1}, "num_strong_augs is -1; it should be greater than or equal to 0"),
        (
            "ours",
            {"cutout_kwargs": {"n_holes": 1, "length": "16"}},
            "cutout_kwargs.length is 16; it should be a",
        ),
        ("affine", {"rotation": True}, "rotation is True; it should be a valid number"),
        (
            "evaluation",
            {"crop_size": 24, "normalize": NORMALIZE, "size": 3},
            "unknown key 'size'; did you mean 'crop_size'",
        ),
    ],
)
def test_wrong_kwargs_are_one_sentence(name, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        build_augmentation(name, **{**KWARGS.get(name, {}), **changes})
    assert "\n" not in str(error.value)


def test_a_missing_section_is_named():
    with pytest.raises(ConfigError, match="Strong: the key 'normalize' is missing"):
        build_augmentation("ours", crop_size=32, num_strong_augs=4, cutout_kwargs={"n_holes": 1, "length": 16})


@pytest.mark.parametrize("name", KWARGS)
def test_plain_mappings_of_every_kind_build_the_same_views(name):
    """Dicts with lists, EasyDicts with tuples, positional arguments, and sections made before."""
    images = textured(6, 24, 24)
    expected = build(name)(images, seeded(20))
    easy = EasyDict(KWARGS[name])
    sections = dict(check(section_of(AUGMENTATIONS[name]), KWARGS[name], str))
    for strategy in (
        build_augmentation(name, **easy),
        AUGMENTATIONS[name](**sections),
        AUGMENTATIONS[name](*(KWARGS[name][key] for key in list(sections) if key in KWARGS[name])),
    ):
        assert torch.equal(strategy(images, seeded(20)), expected)
    crops = build_augmentation("standard", random_resized_crop={"size": 24, "scale": (0.2, 1)}, normalize=NORMALIZE)
    assert torch.equal(crops(images, seeded(21)), build("standard")(images, seeded(21)))


def test_too_many_arguments_are_pythons_own_error():
    with pytest.raises(TypeError, match="positional"):
        Evaluation(24, NORMALIZE, 3)
    with pytest.raises(TypeError, match="multiple values"):
        Evaluation(24, crop_size=24)


def test_an_authors_own_strategy_is_checked_by_its_annotations():
    class Half(Evaluation):
        def __init__(self, crop_size: int, normalize: Normalize, share: Fraction = 0.5):
            super().__init__(crop_size, normalize)
            self.share = share

    assert Half(24, NORMALIZE).share == 0.5
    with pytest.raises(ConfigError, match="Half: share is 2; it should be less than or equal to 1"):
        Half(24, NORMALIZE, share=2)
