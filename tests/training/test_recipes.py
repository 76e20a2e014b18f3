"""Recipes of the paper have its settings, small recipes train. (Sizes: test_full_width.)"""

import dataclasses
import json

import pytest
import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.diffusion.schedules import LinearSchedule
from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import RECIPES, DiffusionRecipe, Recipe
from sashimi_lib.training.trainer import train
from tests.training.published import CODES, DIFFUSION

SMALL = [name for name, recipe in RECIPES.items() if isinstance(recipe, Recipe) and name not in CODES]


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_paper_s_settings_of_diffusion(name):
    recipe, training = RECIPES[name], RECIPES[name].training
    vocoder = name.startswith("ljspeech")
    assert (recipe.sample_rate, recipe.length) == (22_050 if vocoder else 16_000, 16_000)
    assert (recipe.config.predict, recipe.config.backbone.n_classes) == ("noise", 0)
    schedule = LinearSchedule(50, beta_end=0.05) if vocoder else LinearSchedule(200, 1e-4, 0.02)
    assert recipe.config.schedule == schedule
    assert recipe.config.backbone.mel == (LogMelConfig(22_050, 80, 256, 1_024) if vocoder else None)
    assert (training.steps, training.batch_size, training.decay) == (1_000_000, 32, "constant")
    assert training.lr == training.ssm_lr == 2e-4
    assert (training.weight_decay, training.ema, training.clip_norm) == (0, 0, None)


def test_the_small_diffusion_models_differ_only_in_network_and_learning_rate():
    sashimi, diffwave = recipes.DIGITS_DIFFUSION_SASHIMI, recipes.DIGITS_DIFFWAVE
    rates = {name: getattr(sashimi.training, name) for name in ("lr", "ssm_lr")}
    assert sashimi == dataclasses.replace(
        diffwave,
        config=dataclasses.replace(diffwave.config, backbone=sashimi.config.backbone),
        training=dataclasses.replace(diffwave.training, **rates),
    )
    sizes = [sum(p.numel() for p in recipe.build(0).parameters()) for recipe in (sashimi, diffwave)]
    assert sizes[0] == pytest.approx(291_123)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert diffwave.config.backbone.receptive_field > sashimi.sample_rate  # more than a second


@pytest.mark.parametrize("name", ["digits_diffusion_sashimi", "digits_diffwave"])
def test_the_small_diffusion_models_train_on_words_of_any_length(name):
    recipe = RECIPES[name]
    words = [(0.17 * torch.randn(length).clamp(-1, 1), label) for length, label in ((70, 3), (33, 9))]
    config = dataclasses.replace(recipe.training, steps=2, warmup=0)
    history = train(recipe.build(0), words, config, valid=words, progress=False)
    assert len(history.loss) == 2
    assert all(0 < loss < 5 for loss in history.loss)


@pytest.mark.parametrize(
    ("corpus", "quantizer", "length", "steps", "batch"),
    [
        ("beethoven", Linear(), 128_000, 1_000_000, 1),
        ("youtubemix", MuLaw(), 131_072, 600_000, 1),
        ("sc09", MuLaw(), 16_000, 1_100_000, 8),
    ],
)
def test_the_paper_s_settings(corpus, quantizer, length, steps, batch):
    for name in CODES:
        recipe, training = RECIPES[name], RECIPES[name].training
        if not name.startswith(corpus) or name == "sc09_sashimi_unet_8":
            continue
        assert (recipe.quantizer, recipe.sample_rate, recipe.length) == (quantizer, 16_000, length)
        assert (training.steps, training.decay, training.plateau_factor) == (steps, "plateau", 0.2)
        assert (training.weight_decay, training.ema, training.clip_norm) == (0, 0, None)
        plain = training.batch_size, training.tbptt_length, training.clip_value
        assert plain == ((128, 1024, 1.0) if "samplernn" in name else (batch, None, None))
        assert training.lr == (0.001 if "wavenet" in name or "samplernn" in name else 0.004)
        assert training.plateau_patience == (5 if "wavenet" in name else 20)


def test_the_later_model_has_its_own_settings():
    training = recipes.SC09_SASHIMI_UNET_8.training
    assert (training.steps, training.batch_size, training.lr) == (200_000, 16, 0.001)
    assert (training.decay, training.warmup, training.weight_decay) == ("cosine", 1_000, 0.1)


def test_wavernn_trains_on_960_samples_at_24_khz_without_truncation():
    recipe = recipes.WAVERNN_896
    assert (recipe.sample_rate, recipe.length, recipe.training.tbptt_length) == (24_000, 960, None)
    assert recipe.training.steps == 500_000
    assert recipes.WAVERNN_224.length == 960


@pytest.mark.parametrize("name", ["small_sashimi", "digits_sashimi"])
def test_a_16_bit_model_has_the_backbone_of_the_8_bit_one(name):
    eight, sixteen = RECIPES[name], RECIPES[f"{name}_16"]
    assert sixteen == dataclasses.replace(eight, quantizer=CoarseFine())
    assert str(sixteen.build(0).backbone) == str(eight.build(0).backbone)


def test_the_small_wavenet_has_three_times_the_parameters_and_the_tiny_one_as_many():
    small = recipes.SMALL_SASHIMI, recipes.SMALL_WAVENET, recipes.TINY_WAVENET
    sashimi, wavenet, tiny = (sum(p.numel() for p in recipe.build(0).parameters()) for recipe in small)
    assert wavenet >= 3 * sashimi
    assert tiny == pytest.approx(sashimi, rel=0.1)
    assert recipes.SMALL_WAVENET.backbone.receptive_field == 4093


@pytest.mark.parametrize("name", SMALL)
def test_the_small_recipes_train_on_sequences_of_any_length(name):
    recipe = RECIPES[name]
    pair = (2,) if isinstance(recipe.quantizer, CoarseFine) else ()
    codes = [torch.randint(100, 150, (length, *pair)) for length in (70, 33)]
    config = dataclasses.replace(recipe.training, steps=2, warmup=0)
    history = train(recipe.build(0), codes, config, valid=codes, progress=False)
    assert len(history.loss) == 2
    assert all(0 < bits < 20 for bits in history.loss)


def test_the_seed_determines_the_model_and_the_random_state_is_preserved():
    before = torch.get_rng_state()
    a, b, c = (recipes.SMALL_SASHIMI.build(seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embedding.weight, c.embedding.weight)
    d, e = (recipes.DIGITS_DIFFWAVE.build(seed) for seed in (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(d.backbone.start.weight, e.backbone.start.weight)


def test_every_recipe_has_a_name_and_is_serializable():
    kinds = Recipe | DiffusionRecipe
    constants = {name for name, value in vars(recipes).items() if isinstance(value, kinds)}
    assert {name.lower() for name in constants} == set(RECIPES) >= set(CODES) | set(DIFFUSION)
    for recipe in RECIPES.values():
        json.dumps(dataclasses.asdict(recipe))


def test_the_names_are_those_of_the_constants():
    constants = {name: value for name, value in vars(recipes).items() if name.isupper()}
    assert {name.upper() for name in RECIPES} == {
        name for name, value in constants.items() if isinstance(value, Recipe | DiffusionRecipe)
    }
    assert all(RECIPES[name] is constants[name.upper()] for name in RECIPES)
