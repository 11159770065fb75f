"""Each map shows the attention weights of its layer and head, and its tokens can be read."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn

from dlref.data.text.tokenizer import Level, Tokenizer, Vocabulary
from dlref.equations.transformer import causal, multi_head, rotary
from dlref.interfaces import TokenizedText
from dlref.models.recurrent_lm import RecurrentLM
from dlref.models.transformer import Transformer
from dlref.models.transformer_lm import TransformerLM
from dlref.reports.attention_maps import AttentionMaps, SelfAttentionMaps, plot_attention, translation_attention
from tests.decoding.dictionary import LINES, SOURCE, TARGET, Dictionary, Narrow, data_of, untrained

TEXT = "the cat sat\non the mat , the dog costs $ 5 or $ 6\n"
CHARACTERS = "a $x$\tis\u00a0one\n"


def randomized(net: Any) -> Any:
    """In float64, with random weights, which differ for all heads."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return net.double().eval().requires_grad_(False)


class Text(SimpleNamespace, TokenizedText):
    """Data of a text alone."""


def text_of(level: Level, text: str) -> Any:
    tokenizer = Tokenizer(level)
    vocabulary = Vocabulary.build(tokenizer(text), specials=["<unk>", "<eos>"])
    ids = torch.tensor(vocabulary.lookup_indices(tokenizer(text)), dtype=torch.int32)
    splits = {"eval": ids, "test": ids.flip(0)}
    return Text(tokenizer=tokenizer, vocabulary=vocabulary, split=splits.__getitem__)


def language_model(words: int, context: int = 40) -> Any:
    sizes: dict[str, Any] = {"vocab_size": words, "context": context, "width": 12, "layers": 3, "heads": 2}
    return randomized(TransformerLM(**sizes, bias=True, qk_norm=False))


def layer_inputs(net: nn.Module, layers: list[nn.Module], *inputs: Tensor) -> list[Tensor]:
    """The first argument of each of these layers in a forward pass."""
    found: list[Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _, args: found.append(args[0])) for layer in layers]
    net(*inputs)
    for handle in handles:
        handle.remove()
    return found


def weights(layer: Any) -> list[tuple[Tensor, Tensor]]:
    return [(part.weight, part.bias) for part in (layer.query, layer.key, layer.value, layer.out)]


def panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def maps(figure: Any) -> dict[str, Tensor]:
    return {axes.get_title("left"): torch.as_tensor(axes.images[0].get_array().data) for axes in panels(figure)}


def tokens_of(axes: Any) -> tuple[list[str], list[str]]:
    across, down = axes.get_xticklabels(), axes.get_yticklabels()
    return [label.get_text() for label in across], [label.get_text() for label in down]


def test_each_map_of_a_language_model_has_the_attention_weights_of_its_layer_and_head() -> None:
    data = text_of("words", TEXT)
    net = language_model(len(data.vocabulary))
    found = maps(SelfAttentionMaps(max_len=5)(net, data, "eval")["attention"])
    layers = [block.self_attention for block in net.blocks]
    recorded = layer_inputs(net, layers, data.split("eval")[None, :5])
    assert len(found) == 6
    for number, (layer, x) in enumerate(zip(layers, recorded, strict=True), 1):
        _, expected = multi_head(x, x, causal, 2, weights(layer), rotary, rotary)
        for head in (1, 2):
            weight = found[f"layer {number}, head {head}"]
            torch.testing.assert_close(weight, expected[0, head - 1].float())
            assert torch.equal(weight, weight.tril())
            torch.testing.assert_close(weight.sum(1), torch.ones(5))


def test_each_map_of_a_translation_has_the_cross_attention_weights_of_its_layer_and_head() -> None:
    sizes: dict[str, Any] = {"width": 12, "layers": 1, "decoder_layers": 2, "heads": 3}
    size = len(SOURCE.vocabulary)
    net = randomized(Transformer(source_vocab_size=size, target_vocab_size=size, **sizes))
    line = "die katze schläft und"
    [figure] = AttentionMaps(lines=1, max_len=7)(net, data_of([(line, "")]), "eval").values()
    found = maps(figure)
    across, down = tokens_of(panels(figure)[0])
    assert across == [*line.split(), "<eos>"]
    source, visible = SOURCE.encode([line])
    inputs = torch.tensor([[2, *TARGET.vocabulary.lookup_indices(down[:-1])]])
    layers = [block.cross_attention for block in net.decoder]
    recorded = layer_inputs(net, layers, source, visible, inputs)
    assert len(found) == 6
    for number, (layer, x) in enumerate(zip(layers, recorded, strict=True), 1):
        _, expected = multi_head(x, net.encode(source, visible), lambda b, t, s: True, 3, weights(layer))
        for head in (1, 2, 3):
            weight = found[f"layer {number}, head {head}"]
            torch.testing.assert_close(weight, expected[0, head - 1].float())
            torch.testing.assert_close(weight.sum(1), torch.ones(len(down)))


def test_maps_of_a_language_model_are_of_the_first_tokens_of_the_split_or_of_a_text() -> None:
    data = text_of("words", TEXT)
    net = language_model(len(data.vocabulary))

    def tokens(split: str = "eval", **settings: Any) -> list[str]:
        [figure] = SelfAttentionMaps(**settings)(net, data, split).values()
        across, down = tokens_of(panels(figure)[0])
        assert across == down
        return across

    words = Tokenizer("words")(TEXT)
    assert len(words) == 17
    assert tokens() == words
    assert tokens("test", max_len=3) == words[::-1][:3]
    assert tokens(text="the zebra sat\n") == ["the", "<unk>", "sat", "<eos>"]
    assert tokens(text="the cat sat", max_len=2) == ["the", "cat"]
    net = language_model(len(data.vocabulary), context=6)
    assert tokens() == tokens(text=TEXT) == words[:6]
    assert SelfAttentionMaps(text="")(net, data, "eval") == {}


def test_attention_weights_are_those_of_the_greedy_translation() -> None:
    weights, across, down = translation_attention(Dictionary(), SOURCE, TARGET, "die katze schläft")
    assert (across, down) == (["die", "katze", "schläft", "<eos>"], ["the", "cat", "sleeps", "<eos>"])
    assert torch.equal(weights, torch.eye(4))
    net = untrained()
    weights, across, down = translation_attention(net, SOURCE, TARGET, "die katze zebra", max_len=7)
    assert across == ["die", "katze", "<unk>", "<eos>"]
    assert len(down) == 7
    assert len({*down}) > 2
    inputs = torch.tensor([[2, *TARGET.vocabulary.lookup_indices(down[:-1])]])
    torch.testing.assert_close(weights, net.attention_weights(*SOURCE.encode(["die katze zebra"]), inputs)[0])
    torch.testing.assert_close(weights.sum(1), torch.ones(7))


@pytest.mark.parametrize(("max_len", "context"), [(4, 9), (9, 4)])
def test_maps_are_of_the_first_lines_that_are_short_enough(max_len: int, context: int) -> None:
    net: Any = Narrow(context)
    found: Any = AttentionMaps(lines=2, max_len=max_len)(net, data_of([(line, "") for line in LINES]), "eval")
    assert [*found] == ["attention_1", "attention_2"]
    across = [tokens_of(figure.axes[0])[0] for figure in found.values()]
    assert across == [["die", "katze", "<eos>"], ["hund", "<eos>"]]


def test_networks_and_data_without_attention_have_nothing_to_report() -> None:
    pairs, text = data_of([("hund", "dog")]), text_of("words", TEXT)
    size = len(text.vocabulary)
    for net, data in (
        (nn.Linear(1, 1), pairs),
        (Dictionary(), SimpleNamespace()),
        (Dictionary(), data_of([])),
        (untrained(attention=None), pairs),
        (language_model(size), text),
    ):
        assert AttentionMaps()(net, data, "eval") == {}
    for other, data in (
        (nn.Linear(1, 1), text),
        (RecurrentLM(vocab_size=size, width=6), text),
        (language_model(size), SimpleNamespace(vocabulary=text.vocabulary)),
        (untrained(), pairs),
    ):
        assert SelfAttentionMaps()(other, data, "eval") == {}
    assert not AttentionMaps.while_training
    assert not SelfAttentionMaps.while_training


def test_white_space_is_visible_on_the_map() -> None:
    data = text_of("characters", CHARACTERS)
    [figure] = SelfAttentionMaps()(language_model(len(data.vocabulary)), data, "eval").values()
    assert tokens_of(panels(figure)[0]) == ([*"a␣$x$⇥is␣one↵"], [*"a␣$x$⇥is␣one↵"])


LABELS = [
    (["zwei", "junge", "donaudampfschifffahrtsgesellschaften", "<eos>"], ["two", "$", "young", "$x$", "<eos>"]),
    ([*"5 april 2019", "<eos>"], [*"2019-04-05", "<eos>"]),
    (["a", "<eos>"], ["<eos>"]),
    ([f"wort{number}" for number in range(40)], ["incomprehensibilities", *"abcdefgh" * 4]),
]


@pytest.mark.parametrize(
    ("grid", "across", "down"),
    [
        *(
            pytest.param(grid, *pair, marks=[pytest.mark.slow] * (grid == (2,)))
            for grid in ((), (2,), (3, 2))
            for pair in LABELS
        ),
        ((2, 11), ["a"], ["b"]),
    ],
)
def test_no_token_or_title_overlaps_another_or_the_edge(
    grid: tuple[int, ...], across: list[str], down: list[str]
) -> None:
    weights = torch.rand(*grid, len(down), len(across), generator=torch.Generator().manual_seed(0)).softmax(-1)
    figure: Any = plot_attention(weights, across, down)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    scale = next(axes for axes in figure.axes if not axes.images)
    images = [axes.images[0] for axes in panels(figure)]
    assert torch.equal(
        torch.stack([torch.as_tensor(image.get_array().data) for image in images]),
        weights.view(-1, len(down), len(across)),
    )
    assert {image.get_clim() for image in images} == {(0, 1)}

    layers, heads = (1, 1, *grid)[-2:]
    rows = [panels(figure)[heads * layer :][:heads] for layer in range(layers)]
    inside = [label.get_window_extent() for label in scale.get_yticklabels()]
    for (layer, row), head in itertools.product(enumerate(rows), range(heads)):
        axes = row[head]
        assert axes.get_title("left") == (f"layer {layer + 1}, head {head + 1}" if layers * heads > 1 else "")
        # Tokens label the outer edges alone, and stand for all maps of their row or column.
        assert tokens_of(axes)[0] == ([] if layer else [name.replace(" ", "␣") for name in across])
        assert tokens_of(axes)[1] == ([] if head else [name.replace(" ", "␣") for name in down])
        assert axes.get_position().y0 == row[0].get_position().y0
        assert axes.get_position().x0 == rows[0][head].get_position().x0
        inside += [label.get_window_extent() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        for label in axes.get_xticklabels():
            assert not label.get_parse_math()  # $x$ is a token
            assert (label.get_rotation() == 0) == (len(label.get_text()) == 1)
        upright = [label for label in axes.get_xticklabels() if len(label.get_text()) == 1]
        for line in (axes.get_yticklabels(), upright):
            boxes = [label.get_window_extent() for label in line]
            assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))

    frames = [axes.get_window_extent() for axes in (*panels(figure), scale)]
    titles = [axes._left_title.get_window_extent() for axes in panels(figure) if layers * heads > 1]
    assert not any(one.overlaps(other) for one, other in itertools.combinations([*frames, *titles], 2))
    assert not any(title.overlaps(name) for title in titles for name in inside)
    for box in (*inside, *titles):
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
