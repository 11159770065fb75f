"""Recurrent language models: Mikolov et al. 2010, regularised as in Zaremba et al. 2014, Gal & Ghahramani 2016, and Merity
et al. 2018.

B batch, T time, D width, H hidden width, L layers, V vocabulary.
"""

from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import Hidden, LanguageModel, TextDecoder
from dlref.models.layers import Dropout
from dlref.models.recurrent_layers import Cell, RecurrentLayers, State, require_sizes


class RecurrentLM(nn.Module, LanguageModel, TextDecoder):
    """Word vectors of `width`, `layers` of a recurrent cell, and the next word's scores, unnormalised logarithms.

    All layers are as wide as the word vectors, or `hidden` where it is set. With `tied` the scores use the word vectors again
    (Press & Wolf 2017), and the last layer is as wide as these.

    Shares that are dropped in training: `dropout` of the units before each layer and before the scores, one mask for all
    time steps of a batch if it is `variational` (Gal & Ghahramani 2016, section 4), else drawn for each; `input_dropout` and
    `output_dropout` replace it at the word vectors and before the scores; `word_dropout` of the vocabulary, whose vectors
    are 0 for a batch; `weight_drop` of the recurrent weights, likewise (Merity et al. 2018, section 2). `sparse` makes the
    word vectors' gradient one of rows, which plain gradient descent takes faster. Raises ConfigError for shares and sizes
    that make no sense.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        layers: int = 1,
        hidden: int | None = None,
        cell: Cell = "lstm",
        tied: bool = True,
        dropout: float = 0.0,
        input_dropout: float | None = None,
        output_dropout: float | None = None,
        variational: bool = False,
        word_dropout: float = 0.0,
        weight_drop: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        input_dropout = dropout if input_dropout is None else input_dropout
        output_dropout = dropout if output_dropout is None else output_dropout
        require_sizes(width, hidden, layers)
        if tied and sparse:
            raise ConfigError(
                "network.sparse is for word vectors that the scores do not use; set network.tied=false too"
            )
        widths = [width, *[hidden] * (layers - 1), width if tied else hidden]
        drops = [input_dropout, *[dropout] * (layers - 1), output_dropout]
        self.word_drop = Dropout(word_dropout)
        self.embed = nn.Embedding(vocab_size, width, sparse=sparse)
        self.recurrent = RecurrentLayers(cell, widths, drops, variational, weight_drop)
        self.out = nn.Linear(widths[-1], vocab_size)
        if tied:
            self.out.weight = self.embed.weight
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.uniform_(self.out.weight, -0.1, 0.1)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # [B, T] -> [B, T, V]
        hidden = self.hidden(tokens, state)
        return self.out(hidden.dropped), hidden.state

    def hidden(self, tokens: Tensor, state: State | None = None) -> Hidden:
        """Final hidden states [B, T, D], the input of the output layer, with and without dropout."""
        return self.recurrent(self.embedded(tokens), self.recurrent.start(len(tokens)) if state is None else state)

    def embedded(self, tokens: Tensor) -> Tensor:  # [B, T] -> [B, T, D]
        if not (self.training and self.word_drop.probability):
            return self.embed(tokens)
        return self.embed(tokens) * self.word_drop(self.embed.weight.new_ones(self.embed.num_embeddings, 1))[tokens]

    def prefill(self, context: Tensor) -> State:
        """The state after tokens [B, T]; T may be 0."""
        return self.hidden(context).state if context.shape[1] else self.recurrent.start(len(context))

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:  # [B] -> [B, V]
        logits, state = self(token[:, None], state)
        return logits[:, 0], state
