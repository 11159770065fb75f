"""What the server of processes does once, so that none of those forked from it does it again.

These are the imports that a run makes late, and a first composition, which fills the tables of Hydra's parser.
"""

import hypothesis.strategies  # noqa: F401  for the tests' own modules, which hold what goes wrong in a process
import pytest  # noqa: F401

import dlref.cli.commands.evaluate
import dlref.cli.commands.train
import dlref.cli.resume
import dlref.cli.run_reports
import dlref.cli.run_training
import dlref.data.rl.experience
import dlref.data.rl.rollouts
import dlref.data.supervised.spiral
import dlref.data.text.generated_pairs
import dlref.data.text.token_streams
import dlref.models.transformer
import dlref.objectives.language_modelling
import dlref.objectives.policy_gradient
import dlref.objectives.q_learning
import dlref.objectives.supervised
import dlref.objectives.translation
import dlref.objectives.word2vec
import dlref.optimizers.adam
import dlref.training.checkpoint
import dlref.training.log
import dlref.training.run
import dlref.training.state  # noqa: F401
from dlref.cli.compose import compose

compose(["model=mlp", "device=cpu", "threads=1", "~reports", "trainer.max_steps=2", "run_dir='run'", "resume='run'"])
