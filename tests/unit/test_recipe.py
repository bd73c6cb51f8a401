"""Recipes: the grammar of their names, and the ladders."""

from __future__ import annotations

import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.target import ModelFormat
from asdic.quantization.recipe import LADDERS, Recipe, parse_recipe

ALL_RUNGS = [(one, rung) for one, ladder in LADDERS.items() for rung in ladder]


@pytest.mark.parametrize(("model_format", "recipe"), ALL_RUNGS)
def test_a_name_gives_back_its_recipe(model_format: ModelFormat, recipe: Recipe) -> None:
    assert parse_recipe(recipe.name, model_format) == recipe


@pytest.mark.parametrize("model_format", ModelFormat)
def test_every_format_has_a_ladder_of_different_rungs(model_format: ModelFormat) -> None:
    ladder = LADDERS[model_format]
    assert len(set(ladder)) == len(ladder) >= 2


def test_options_are_named_in_one_order() -> None:
    recipe = parse_recipe("static-wi8-ai8-minmax-layers-overflow", ModelFormat.OPENVINO_IR)
    assert recipe.name == "static-wi8-ai8-minmax-overflow-layers"


@pytest.mark.parametrize(
    "name", ["", "minmax", "static-wi8-ai8", "static-wi4-ai8-minmax", "static-wi8-ai8-minmax-magic"]
)
def test_a_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a recipe; expected static-wi8-ai8-"):
        parse_recipe(name, ModelFormat.OPENVINO_IR)


def test_an_option_that_a_format_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="tflite does not know 'bias', only layers, minmax"):
        parse_recipe("static-wi8-ai8-minmax-bias", ModelFormat.TFLITE)
