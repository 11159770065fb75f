"""Recurrent language models: Mikolov et al. 2010, regularized as in Zaremba et al. 2014, Gal & Ghahramani 2016, and Merity
et al. 2018.

B batch, T time, D width, H hidden width, L layers, V vocabulary.
"""

from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import Hidden, LanguageModel, TextDecoder
from dlref.models.layers import Dropout
from dlref.models.recurrent_layers import Cell, RecurrentLayers, RecurrentState, require_sizes


class RecurrentLM(nn.Module, LanguageModel, TextDecoder):
    """A recurrent language model: word embeddings of `width`, `layers` of a recurrent cell, logits of the next word.

    Layers have `hidden` units, by default as many as the word embeddings have dimensions. With `tied` the output layer reuses
    the word embeddings' weights (Press & Wolf 2017), and the last layer has `width` units.

    Dropout probabilities: `dropout` of the units before each layer and before the output layer, with one mask for all time
    steps of a batch if `variational` (Gal & Ghahramani 2016, section 4); `input_dropout` and `output_dropout` replace it at
    the word embeddings and before the output layer; `word_dropout` sets the vectors of whole words to 0 for a batch;
    `weight_drop` likewise recurrent weights (Merity et al. 2018, section 2). `sparse` makes the word embeddings' gradient
    sparse, which plain gradient descent applies faster. Raises ConfigError for impossible probabilities and sizes.
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
                "network.sparse is for word embeddings that the output layer does not reuse; set network.tied=false too"
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

    def forward(self, tokens: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        """Logits of the next word [B, T, V], and the state after tokens [B, T]."""
        hidden = self.hidden(tokens, state)
        return self.out(hidden.dropped), hidden.state

    def hidden(self, tokens: Tensor, state: RecurrentState | None = None) -> Hidden:
        """Final hidden states [B, T, D], the input of the output layer, with and without dropout."""
        if state is None:
            state = self.recurrent.initial_state(len(tokens))
        return self.recurrent(self.embed_words(tokens), state)

    def embed_words(self, tokens: Tensor) -> Tensor:  # [B, T] -> [B, T, D]
        if not (self.training and self.word_drop.probability):
            return self.embed(tokens)
        return self.embed(tokens) * self.word_drop(self.embed.weight.new_ones(self.embed.num_embeddings, 1))[tokens]

    def prefill(self, context: Tensor) -> RecurrentState:
        """The state after tokens [B, T]; T may be 0."""
        return self.hidden(context).state if context.shape[1] else self.recurrent.initial_state(len(context))

    def step(self, state: RecurrentState, token: Tensor) -> tuple[Tensor, RecurrentState]:  # [B] -> [B, V]
        logits, state = self(token[:, None], state)
        return logits[:, 0], state
